//! A unit: how it is, its last words, and what they point at.

use hostler_proto::{
    operation::{NetPortOwner, SystemdStatus},
    ops::{DiagnosisStep, NetPortOwnerRequest, SystemdStatusRequest},
    wire::{Finding, Status},
};

use super::{
    Search,
    clues::{Clue, clue},
};
use crate::ops::journal;

/// Lines of a unit's journal that are looked through.
const LINES: u32 = 40;

impl Search<'_> {
    /// A unit, its last words, and what they point at. `asked` when it is what was asked for: then
    /// what it needs is looked at even when it runs.
    pub(super) async fn unit(&mut self, unit: &str, asked: bool) {
        if !self.seen.insert(unit.to_owned()) {
            return;
        }
        let request = SystemdStatusRequest { unit: vec![unit.to_owned()], ..Default::default() };
        let Some(answer) =
            self.look::<SystemdStatus>(&format!("systemd status {unit}"), request).await
        else {
            return;
        };
        let status = answer.data.units.iter().find(|u| u.name == unit).cloned().unwrap_or_default();
        let runs = status.active_state == "active" && !status.sub_state.starts_with("auto-restart");
        // One that waits for its timer, or did its work, is inactive and well.
        let idle = status.active_state == "inactive" && answer.findings.is_empty();
        let bad = answer.findings.iter().any(|f| f.status() == Status::Critical) || !runs && !idle;
        if !bad && !asked {
            return;
        }
        let allowed = self.cx.host.policy.operation("journal.read").is_ok();
        let lines = if allowed { journal::last_lines(unit, LINES).await } else { Vec::new() };
        let shown = format!("journal read --unit {unit} --lines {LINES}");
        let (status_word, last) = match last_words(&lines) {
            Some(last) => (if bad { "critical" } else { "ok" }, last.clone()),
            None if allowed => ("ok", "nothing".to_owned()),
            None => ("unknown", "this host's policy does not allow journal.read".to_owned()),
        };
        if !allowed {
            self.unknown.push(Finding::new(Status::Unknown, &shown, &last));
        }
        self.steps.push(DiagnosisStep {
            looked_at: shown.clone(),
            status: status_word.into(),
            said: last,
        });
        let before = self.causes.len();
        // The last words count most.
        let mut clues: Vec<(Clue, String)> = Vec::new();
        for line in lines.iter().rev() {
            if let Some(clue) = clue(line)
                && !clues
                    .iter()
                    .any(|(c, _)| std::mem::discriminant(c) == std::mem::discriminant(&clue))
            {
                clues.push((clue, line.clone()));
            }
        }
        if status.result == "oom-kill" {
            clues.insert(0, (Clue::NoMemory, format!("{unit} was ended for lack of memory")));
        }
        for (clue, line) in clues.into_iter().filter(|_| bad || asked).take(3) {
            Box::pin(self.follow(unit, bad, clue, &line)).await;
        }
        if bad && self.causes.len() == before {
            for finding in answer.findings {
                // Its last words were looked at, and say nothing: what is left is to start it.
                let finding = match finding.summary == format!("{unit} is stopped") {
                    true => finding.next(format!("systemd start {unit}")),
                    false => finding,
                };
                self.cause(finding);
            }
        }
    }

    async fn follow(&mut self, unit: &str, bad: bool, clue: Clue, line: &str) {
        let level = if bad { Status::Critical } else { Status::Warning };
        let line: String = line.chars().take(200).collect();
        match clue {
            Clue::PortTaken(port) => self.port_taken(unit, port, &line).await,
            Clue::Refused(port) => {
                let name = |text: &str| line.to_lowercase().contains(text);
                let redis = port == Some(6379) || name("redis");
                let postgres = port == Some(5432) || name("postgres") || name("psycopg");
                if redis {
                    self.redis(None, false).await;
                }
                if postgres || !redis {
                    self.postgres(None, false).await;
                }
            }
            Clue::NoSpace => {
                let summary = format!("{unit} found no space on its disk");
                let finding = Finding::new(level, unit, summary).why(line).next("disk usage");
                self.cause(finding);
            }
            Clue::Credentials => {
                let summary = format!("a server does not let {unit} in");
                let finding = Finding::new(level, unit, summary)
                    .why(format!("user or password of its configuration is wrong: {line}"))
                    .next(format!("journal read --unit {unit} --lines 50"));
                self.cause(finding);
            }
            Clue::Permission(said) => {
                let summary = format!("{unit} may not use a file that it needs");
                let finding = Finding::new(level, unit, summary)
                    .why(said)
                    .next(format!("journal read --unit {unit} --lines 50"));
                self.cause(finding);
            }
            Clue::Missing(said) => {
                let summary = format!("{unit} misses a program, module or file");
                let finding = Finding::new(level, unit, summary)
                    .why(said)
                    .next(format!("journal read --unit {unit} --lines 50"));
                self.cause(finding);
            }
            Clue::NoMemory => {
                let summary = format!("{unit} found no memory");
                let finding =
                    Finding::new(level, unit, summary).why(line).next("host processes --by memory");
                self.cause(finding);
            }
            Clue::TooManyFiles => {
                let summary = format!("{unit} has no file descriptor left");
                let finding = Finding::new(level, unit, summary)
                    .why("its LimitNOFILE is too low, or it does not close what it opens");
                self.cause(finding);
            }
            Clue::Configuration(said) => {
                let summary = format!("the configuration of {unit} has a mistake");
                let next = if unit.starts_with("nginx") { "nginx test" } else { "" };
                self.cause(Finding::new(level, unit, summary).why(said).next(next));
            }
        }
    }

    async fn port_taken(&mut self, unit: &str, port: Option<u16>, line: &str) {
        let Some(port) = port else {
            let summary = format!("the port of {unit} is taken by another process");
            let finding =
                Finding::new(Status::Critical, unit, summary).why(line).next("net listeners");
            self.cause(finding);
            return;
        };
        let request = NetPortOwnerRequest { port: port.into() };
        let owner = self.look::<NetPortOwner>(&format!("net port-owner {port}"), request).await;
        let owners = owner.map(|a| a.data.listeners).unwrap_or_default();
        let other = owners.iter().find(|l| l.unit != unit);
        let finding = match other {
            Some(owner) => {
                let (command, pid) = (&owner.command, owner.pids.first().copied().unwrap_or(0));
                let whose = match owner.unit.as_str() {
                    "" => String::new(),
                    unit => format!(" of {unit}"),
                };
                let summary =
                    format!("port {port} of {unit} is taken by {command} (pid {pid}){whose}");
                let next = match owner.unit.ends_with(".service") {
                    true => format!("systemd stop {}", owner.unit),
                    false => format!("net port-owner {port}"),
                };
                Finding::new(Status::Critical, unit, summary).why(line).next(next)
            }
            None => {
                let summary = format!("port {port} of {unit} was taken and is free now");
                Finding::new(Status::Critical, unit, summary)
                    .why(line)
                    .next(format!("systemd start {unit}"))
            }
        };
        self.cause(finding);
    }
}

/// The last line of a unit's own: what systemd says after it, that it ended, is seen from its state.
fn last_words(lines: &[String]) -> Option<&String> {
    lines.iter().rev().find(|line| !line.starts_with("systemd[1]: ")).or(lines.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_programs_own() {
        let lines = [
            "python3[12]: cannot bind 0.0.0.0:8000",
            "systemd[1]: web.service: Main process exited, code=exited, status=1/FAILURE",
            "systemd[1]: web.service: Failed with result 'exit-code'.",
        ]
        .map(ToOwned::to_owned);
        assert_eq!(last_words(&lines), Some(&lines[0]));
        assert_eq!(last_words(&lines[1..]), Some(&lines[2]));
        assert_eq!(last_words(&[]), None);
    }
}
