//! `host.diagnose`: a runbook's chapter on troubleshooting, as a program. It looks in the order in which
//! a person would, and follows what it finds: the unit, its last words, the port that is taken, the
//! server that it needs, the disk, memory. Each step is an operation that the policy allows.

mod clues;
mod servers;

use std::collections::BTreeSet;

use hostler_proto::{
    operation::{
        CeleryWorkers, DiskUsage, HostDiagnose, HostResources, NetPortOwner, Operation,
        SystemdStatus,
    },
    ops::{
        CeleryWorkersRequest, DiagnosisStep, DiskUsageRequest, HostDiagnoseRequest, HostDiagnosis,
        HostResourcesRequest, NetPortOwnerRequest, SystemdStatusRequest,
    },
    wire::{Failure, Finding, Status},
};

use self::clues::{Clue, clue};
use crate::{
    operation::{Answer, Context, Probe, severity},
    ops::{journal, systemd::full_name},
};

/// Lines of a unit's journal that are looked through.
const LINES: u32 = 40;
/// Units that are looked at one by one.
const UNITS: usize = 10;

impl Probe for HostDiagnose {
    async fn observe(
        request: HostDiagnoseRequest,
        cx: &Context,
    ) -> Result<Answer<HostDiagnosis>, Failure> {
        let mut search = Search::new(cx);
        let stack = &cx.host.stack;
        let service = request.service.as_str();
        let redis = stack.redis.iter().any(|r| r.name == service) || service == "redis";
        let postgres = stack.postgres.iter().any(|p| p.name == service) || service == "postgres";
        // A full disk makes everything else look strange.
        search.disk().await;
        match service {
            "" => search.everything().await,
            _ if postgres || redis => {
                if postgres {
                    search.postgres(true).await;
                }
                if redis {
                    search.redis().await;
                }
            }
            unit => search.unit(&full_name(unit), true).await,
        }
        search.resources().await;
        Ok(search.answer(service))
    }
}

/// What was looked at, and what was found.
struct Search<'c> {
    cx: &'c Context,
    steps: Vec<DiagnosisStep>,
    /// Causes; the first of the worst is the answer.
    causes: Vec<Finding>,
    /// Why something could not be looked at.
    unknown: Vec<Finding>,
    seen: BTreeSet<String>,
}

impl<'c> Search<'c> {
    fn new(cx: &'c Context) -> Self {
        let (steps, causes, unknown) = (Vec::new(), Vec::new(), Vec::new());
        Self { cx, steps, causes, unknown, seen: BTreeSet::new() }
    }

    /// Runs a probe as one step; none when the policy does not allow it, or it could not be done.
    async fn look<P: Probe>(
        &mut self,
        shown: &str,
        request: P::Request,
    ) -> Option<Answer<P::Result>> {
        self.cx.progress(shown, 0, 0, "");
        let allowed = self.cx.host.policy.operation(<P as Operation>::NAME);
        let looked = match allowed {
            Ok(()) => P::observe(request, self.cx).await,
            Err(failure) => Err(failure),
        };
        let (status, said) = match &looked {
            Ok(answer) => (answer.status, answer.summary.clone()),
            Err(failure) => (Status::Unknown, failure.message.clone()),
        };
        if status == Status::Unknown {
            self.unknown.extend(match &looked {
                Ok(answer) => unmeasured(shown, &answer.findings, &said),
                Err(failure) => {
                    vec![Finding::new(status, shown, &failure.message).why(&failure.hint)]
                }
            });
        }
        let status = match status {
            Status::Unspecified | Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Unknown => "unknown",
        };
        let step = DiagnosisStep { looked_at: shown.to_owned(), status: status.to_owned(), said };
        self.steps.push(step);
        looked.ok()
    }

    fn cause(&mut self, finding: Finding) {
        if !self.causes.iter().any(|c| c.summary == finding.summary) {
            self.causes.push(finding);
        }
    }

    /// The findings of a probe that are worth being a cause.
    fn causes_of<R>(&mut self, answer: Option<Answer<R>>, least: Status) {
        for finding in answer.into_iter().flat_map(|a| a.findings) {
            if finding.status() != Status::Unknown && severity(finding.status()) >= severity(least)
            {
                self.cause(finding);
            }
        }
    }

    async fn disk(&mut self) {
        let request =
            DiskUsageRequest { warning_percent: 90, critical_percent: 98, ..Default::default() };
        let answer = self.look::<DiskUsage>("disk usage", request).await;
        self.causes_of(answer, Status::Critical);
    }

    async fn resources(&mut self) {
        let request = HostResourcesRequest { interval_s: 1 };
        let mut answer = self.look::<HostResources>("host resources", request).await;
        // One busy second is no cause; one without any rest may be.
        if let Some(answer) = &mut answer {
            answer.findings.retain(|f| f.subject != "cpu" || f.status() == Status::Critical);
        }
        self.causes_of(answer, Status::Warning);
    }

    async fn everything(&mut self) {
        let troubled =
            self.look::<SystemdStatus>("systemd status", SystemdStatusRequest::default()).await;
        let mut units: BTreeSet<String> =
            troubled.into_iter().flat_map(|a| a.data.units).map(|u| u.name).collect();
        units.extend(self.cx.host.stack.units.iter().map(|u| full_name(&u.name)));
        self.postgres(false).await;
        self.redis().await;
        for celery in &self.cx.host.stack.celery {
            let app = celery.name.clone();
            let shown = format!("celery workers {app}");
            let answer = self
                .look::<CeleryWorkers>(&shown, CeleryWorkersRequest { app, timeout_ms: 1000 })
                .await;
            self.causes_of(answer, Status::Critical);
        }
        for unit in units.into_iter().take(UNITS) {
            self.unit(&unit, false).await;
        }
    }

    /// A unit, its last words, and what they point at. `asked` when it is what was asked for: then
    /// what it needs is looked at even when it runs.
    async fn unit(&mut self, unit: &str, asked: bool) {
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
                    self.redis().await;
                }
                if postgres || !redis {
                    self.postgres(false).await;
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

    fn answer(mut self, service: &str) -> Answer<HostDiagnosis> {
        // What was found first lies deepest among equals: disks, then servers, then what needs them.
        self.causes.sort_by_key(|f| std::cmp::Reverse(severity(f.status())));
        let steps = self.steps.len();
        let unknown = self.steps.iter().filter(|s| s.status == "unknown").count();
        let what = if service.is_empty() { "this host" } else { service };
        let summary = match (self.causes.first(), unknown) {
            (Some(first), _) => first.summary.clone(),
            (None, 0) => format!("nothing is wrong with {what}, as far as {steps} looks can tell"),
            (None, unknown) => format!("{unknown} of {steps} looks at {what} could not be made"),
        };
        let answer = Answer::ok(summary, HostDiagnosis { steps: self.steps })
            .evidence("operations", format!("{steps} looks, listed in the result"));
        self.causes.into_iter().chain(self.unknown).fold(answer, Answer::finding)
    }
}

/// Why a look told nothing: in its own words, with what mends that.
fn unmeasured(shown: &str, findings: &[Finding], said: &str) -> Vec<Finding> {
    let own: Vec<_> = findings.iter().filter(|f| f.status() == Status::Unknown).cloned().collect();
    match own.is_empty() {
        true => vec![Finding::new(Status::Unknown, shown, said)],
        false => own,
    }
}

/// The last line of a unit's own: what systemd says after it, that it ended, is seen from its state.
fn last_words(lines: &[String]) -> Option<&String> {
    lines.iter().rev().find(|line| !line.starts_with("systemd[1]: ")).or(lines.last())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::Host;

    fn context() -> Context {
        let (events, _) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(std::path::Path::new("/nonexistent"));
        Context::new(Arc::new(host), CancellationToken::new(), events)
    }

    fn step(status: &str) -> DiagnosisStep {
        let (looked_at, said) = ("redis status main".to_owned(), String::new());
        DiagnosisStep { looked_at, status: status.to_owned(), said }
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_well() {
        let cx = context();
        let answer = |steps: &[&str], causes: &[Finding], unknown: &[Finding]| {
            let mut search = Search::new(&cx);
            search.steps = steps.iter().map(|status| step(status)).collect();
            (search.causes, search.unknown) = (causes.to_vec(), unknown.to_vec());
            search.answer("redis")
        };
        let well = answer(&["ok", "ok"], &[], &[]);
        assert_eq!(well.status, Status::Ok);
        let denied = Finding::new(Status::Unknown, "main", "it does not let the agent in");
        let blind = answer(&["ok", "unknown"], &[], std::slice::from_ref(&denied));
        assert_eq!(blind.status, Status::Unknown);
        assert_eq!(blind.summary, "1 of 2 looks at redis could not be made");
        assert_eq!(blind.findings, std::slice::from_ref(&denied));
        let full = Finding::new(Status::Critical, "/", "/ is full");
        let found = answer(&["critical", "unknown"], &[full], &[denied]);
        assert_eq!((found.status, found.summary.as_str()), (Status::Critical, "/ is full"));
        assert_eq!(found.findings.len(), 2);
    }

    #[tokio::test]
    async fn an_operation_that_the_policy_denies_is_a_look_that_could_not_be_made() {
        let mut host = Host::showing(std::path::Path::new("/nonexistent"));
        host.policy.deny = vec!["*".into()];
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let asked = HostDiagnoseRequest { service: "redis".into() };
        let answer = HostDiagnose::observe(asked, &cx).await.expect("an answer");
        assert_eq!(answer.status, Status::Unknown);
        assert!(answer.findings[0].summary.contains("does not allow disk.usage"), "{answer:?}");
        assert!(answer.findings[0].why.contains("policy.operations"), "{answer:?}");
    }

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
