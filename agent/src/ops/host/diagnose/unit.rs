//! A unit: how it is, its last words, and what they point at.

use hostler_proto::{
    operation::{NetPortOwner, SystemdStatus},
    ops::{NetPortOwnerRequest, SystemdStatusRequest, UnitStatus},
    wire::{Failure, Finding, Status},
};

use super::{
    Search,
    clues::{Clue, Found, clues},
    hung::hung,
    runs::{killed, last_words, present},
    told::told,
};
use crate::{
    amount,
    host::processes,
    ops::{
        journal,
        systemd::{self, Particulars, full_name},
    },
};

/// Lines of a unit's journal that are looked through.
const LINES: u32 = 60;
/// Clues that are followed.
const CLUES: usize = 3;

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
        let shown = format!("host processes: {unit}");
        let looked = hung(self.cx, unit, status.main_pid);
        if let Some(hung) = self.in_time(&shown, looked).await.flatten() {
            self.step(&shown, Status::Critical, hung.summary.clone());
            self.prove_one("file", format!("/proc/{}/stat", status.main_pid));
            self.cause(hung);
            return;
        }
        let runs = status.active_state == "active" && !status.sub_state.starts_with("auto-restart");
        // One that waits for its timer, or did its work, is inactive and well.
        let idle = status.active_state == "inactive" && answer.findings.is_empty();
        let bad = answer.findings.iter().any(|f| f.status() == Status::Critical) || !runs && !idle;
        if runs {
            self.running.insert(unit.to_owned());
        }
        if bad || asked {
            // What it needs lies deeper than what it says itself.
            Box::pin(self.needed_by(unit)).await;
        }
        if !bad && !asked {
            if runs {
                self.endpoints_of(unit).await;
            }
            return;
        }
        let shown = format!("systemd status {unit}: how it is set up");
        let particulars = match self.in_time(&shown, systemd::particulars(unit)).await {
            Some(Ok(particulars)) => particulars,
            Some(Err(failure)) => {
                self.unknown.push(Finding::new(Status::Unknown, unit, failure.message));
                Particulars::default()
            }
            None => Particulars::default(),
        };
        let before = self.causes.len();
        if status.active_state == "inactive" && bad {
            self.lacking(unit, &particulars).await;
        }
        let led = self.causes.len();
        let (lines, read) = self.last_lines(unit, bad, &particulars.invocation, &status).await;
        if let Some(finding) = memory(unit, &status, &particulars, &lines).filter(|_| bad) {
            self.cause(finding);
        } else {
            for found in clues(&lines).into_iter().take(CLUES) {
                Box::pin(self.follow(unit, bad, &found, &status, &particulars)).await;
            }
            if self.causes.len() > led {
                self.prove_one("argv", read);
            }
        }
        if bad && self.causes.len() == before {
            for finding in answer.findings.clone() {
                // Its last words were looked at, and say nothing: what is left is to start it.
                let finding = match finding.summary == format!("{unit} is stopped") {
                    true => finding.next(format!("systemd start {unit}")),
                    false => finding,
                };
                self.cause(finding);
            }
        }
        if self.causes.len() > before {
            self.prove(&answer.evidence);
        }
        if runs {
            self.endpoints_of(unit).await;
        }
    }

    /// What the stack file says that a unit needs.
    async fn needed_by(&mut self, unit: &str) {
        let stack = &self.cx.host.stack;
        let entry = stack.units.iter().find(|entry| full_name(&entry.name) == unit);
        if let Some(entry) = entry {
            self.needs(&entry.after).await;
        }
    }

    /// What a unit said in its last run, and by what command that was read.
    async fn last_lines(
        &mut self,
        unit: &str,
        bad: bool,
        last: &str,
        status: &UnitStatus,
    ) -> (Vec<String>, String) {
        let shown = format!("journal read --unit {unit} --lines {LINES}");
        let read = match self.cx.host.policy.operation("journal.read") {
            Ok(()) => self.in_time(&shown, journal::last_spoken(unit, LINES)).await,
            Err(denied) => Some(Err(denied)),
        };
        let (lines, argv) = match read {
            Some(Ok((spoken, argv))) => (present(spoken, last, status), argv),
            Some(Err(failure)) => {
                let Failure { message, hint, .. } = failure;
                self.unknown.push(Finding::new(Status::Unknown, &shown, &message).why(hint));
                self.step(&shown, Status::Unknown, message);
                return Default::default();
            }
            None => return Default::default(),
        };
        let (level, said) = match last_words(&lines) {
            Some(last) => (if bad { Status::Critical } else { Status::Ok }, last.clone()),
            None => (Status::Ok, "nothing since its last start".to_owned()),
        };
        self.step(&shown, level, said);
        (lines, argv)
    }

    /// Units without which it is not started, and which failed.
    async fn lacking(&mut self, unit: &str, particulars: &Particulars) {
        for lacking in particulars.lacking.iter().filter(|l| l.failed || l.absent) {
            let name = &lacking.name;
            let (said, next) = match lacking.absent {
                true => ("which does not exist", format!("systemd status {unit}")),
                false => ("which failed", format!("systemd start {unit}")),
            };
            if !lacking.absent {
                Box::pin(self.unit(name, false)).await;
            }
            let summary = format!("{unit} does not run: it requires {name}, {said}");
            let finding = Finding::new(Status::Critical, unit, summary);
            self.cause(finding.why("systemd does not start it without that").next(next));
        }
    }

    async fn follow(
        &mut self,
        unit: &str,
        bad: bool,
        found: &Found,
        status: &UnitStatus,
        particulars: &Particulars,
    ) {
        let line = &found.said;
        match &found.clue {
            Clue::PortTaken(port) => self.port_taken(unit, *port, bad, line).await,
            Clue::Refused(port) => {
                let name = |text: &str| line.to_lowercase().contains(text);
                let redis = *port == Some(6379) || name("redis");
                let postgres = *port == Some(5432) || name("postgres") || name("psycopg");
                if redis {
                    self.redis(None, false).await;
                }
                if postgres || !redis {
                    self.postgres(None, false).await;
                }
            }
            _ => {
                let level = if bad { Status::Critical } else { Status::Warning };
                let finding = told(unit, found, &status.fragment, particulars);
                self.cause(Finding { status: level.into(), ..finding });
            }
        }
    }

    pub(super) async fn port_taken(
        &mut self,
        unit: &str,
        port: Option<u16>,
        bad: bool,
        line: &str,
    ) {
        let Some(port) = port else {
            let summary = format!("the port of {unit} is taken by another process");
            let finding =
                Finding::new(Status::Critical, unit, summary).why(line).next("net listeners");
            self.cause(finding);
            return;
        };
        let request = NetPortOwnerRequest { port: port.into() };
        let owner = self.look::<NetPortOwner>(&format!("net port-owner {port}"), request).await;
        if let Some(owner) = &owner {
            self.prove(&owner.evidence);
        }
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
                let next = match processes::is_service(&owner.unit) {
                    true => format!("systemd stop {}", owner.unit),
                    false => format!("net port-owner {port}"),
                };
                Finding::new(Status::Critical, unit, summary).why(line).next(next)
            }
            // It runs, and has its port by now.
            None if !bad => return,
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

/// What is to say of a unit whose memory was not enough.
fn memory(
    unit: &str,
    status: &UnitStatus,
    particulars: &Particulars,
    lines: &[String],
) -> Option<Finding> {
    let most = particulars.memory_max.map(|bytes| format!("MemoryMax of {}", amount::size(bytes)));
    let ended = status.result == "oom-kill" || lines.iter().any(|l| l.contains("'oom-kill'"));
    let (summary, why) = match (ended, most) {
        (true, Some(most)) => (
            format!("{unit} was killed for lack of memory, of which it may use its {most}"),
            "either it needs less, or its unit file has to allow it more",
        ),
        (true, None) => {
            (format!("{unit} was killed for lack of memory"), "the host had none left for it")
        }
        // Where the kernel has the older control groups, systemd sees only the signal.
        (false, Some(most)) if killed(lines) => (
            format!("{unit} was killed, as the kernel does at its {most}"),
            "either it needs less, or its unit file has to allow it more; or somebody killed it",
        ),
        _ => return None,
    };
    let finding = Finding::new(Status::Critical, unit, summary).why(why);
    Some(finding.next("host processes --by memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_at_the_bound_of_memory_is_named_though_systemd_saw_only_a_signal() {
        let killed =
            ["systemd[1]: web.service: Main process exited, code=killed, status=9/KILL".to_owned()];
        let bounded = Particulars { memory_max: Some(12 << 20), ..Particulars::default() };
        let status = UnitStatus { result: "signal".to_owned(), ..UnitStatus::default() };
        let said = memory("web.service", &status, &bounded, &killed).expect("a finding").summary;
        assert_eq!(said, "web.service was killed, as the kernel does at its MemoryMax of 12 MiB");
        assert_eq!(memory("web.service", &status, &Particulars::default(), &killed), None);
        assert_eq!(memory("web.service", &status, &bounded, &[]), None);
        let status = UnitStatus { result: "oom-kill".to_owned(), ..UnitStatus::default() };
        let said = memory("web.service", &status, &Particulars::default(), &[]);
        assert_eq!(said.expect("a finding").summary, "web.service was killed for lack of memory");
    }
}
