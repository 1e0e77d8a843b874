//! `host.diagnose`: a runbook's chapter on troubleshooting, as a program. It looks in the order in which
//! a person would, and follows what it finds: the unit, its last words, the port that is taken, the
//! server that it needs, the disk, memory. Each step is an operation that the policy allows.

mod applications;
mod clues;
mod disks;
mod hung;
mod own;
mod pm2;
mod proof;
mod ready;
mod runs;
mod servers;
mod target;
mod told;
mod unit;
mod upstreams;

use std::{collections::BTreeSet, time::Duration};

use hostler_proto::{
    catalogue::Catalogue,
    operation::{HostDiagnose, HostResources, Operation, SystemdStatus},
    ops::{DiagnosisStep, HostDiagnoseRequest, HostDiagnosis, SystemdStatusRequest},
    wire::{Evidence, Failure, Finding, Status},
};
use tokio::time::{Instant, timeout_at};

use self::target::{Target, targets};
use crate::{
    checks::definition::{self, Check, InvalidCheck, has_systemd},
    operation::{Answer, Context, Probe, completed, severity},
    ops::systemd::full_name,
    order::Order as _,
};

/// Units that are looked at one by one.
const UNITS: usize = 10;
/// Longest for all looks together.
const LONGEST: Duration = Duration::from_secs(45);

impl Probe for HostDiagnose {
    async fn observe(
        request: HostDiagnoseRequest,
        cx: &Context,
    ) -> Result<Answer<HostDiagnosis>, Failure> {
        let service = request.service.as_str();
        let targets = targets(&cx.host.stack, service)?;
        let mut search = Search::new(cx);
        // A full disk makes everything else look strange.
        let later = search.disks().await;
        // Nor does anything answer without memory; that is looked at before what hangs uses up the time.
        let resources = search.resources().await;
        for target in targets {
            search.target(target).await;
        }
        search.causes_of(resources, Status::Warning);
        later.into_iter().for_each(|finding| search.cause(finding));
        Ok(search.answer(service))
    }
}

/// What was looked at, and what was found.
struct Search<'c> {
    cx: &'c Context,
    /// The host's own checks.
    checks: Vec<Check>,
    steps: Vec<DiagnosisStep>,
    /// Causes; the first of the worst is the answer.
    causes: Vec<Finding>,
    /// Why something could not be looked at.
    unknown: Vec<Finding>,
    seen: BTreeSet<String>,
    /// Units that run, as far as systemd knows.
    running: BTreeSet<String>,
    /// What was asked for the causes.
    proof: Vec<Evidence>,
    /// How long it may look, and when nothing is looked at any more.
    longest: Duration,
    give_up: Instant,
    /// What was not looked at, or not to its end, since then.
    late: Vec<String>,
}

impl<'c> Search<'c> {
    fn new(cx: &'c Context) -> Self {
        let (steps, causes, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let (seen, running, proof) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let list = definition::checks(&cx.host.stack, has_systemd(), Catalogue::bare());
        let checks = list.unwrap_or_else(|error| {
            unknown.push(Finding::new(Status::Unknown, "checks", error.to_string()));
            Vec::new()
        });
        let longest = cx.time_to_look(LONGEST);
        let (give_up, late) = (Instant::now() + longest, Vec::new());
        Self { cx, checks, steps, causes, unknown, seen, running, proof, longest, give_up, late }
    }

    /// What the host's own check of that name asks: what is bad to it is bad here.
    fn as_checked<P: Probe>(&mut self, check: &str) -> Option<P::Request> {
        let asked = definition::asked::<P>(&self.checks, check, Catalogue::bare());
        let failed = |error: &InvalidCheck| Finding::new(Status::Unknown, check, error.to_string());
        asked.inspect_err(|error| self.unknown.push(failed(error))).ok()
    }

    /// Waits for a look, but not longer than the time that is left; none, and a step that says so, when
    /// that is not enough.
    async fn in_time<T>(&mut self, shown: &str, look: impl Future<Output = T>) -> Option<T> {
        let said = match Instant::now() < self.give_up {
            true => match timeout_at(self.give_up, look).await {
                Ok(looked) => return Some(looked),
                Err(_) => "it did not end in the time that was left",
            },
            false => "not looked at: no time was left",
        };
        self.step(shown, Status::Unknown, said.to_owned());
        self.late.push(shown.to_owned());
        None
    }

    fn step(&mut self, shown: &str, status: Status, said: String) {
        let status = match status {
            Status::Unspecified | Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Unknown => "unknown",
        };
        let (looked_at, status) = (shown.to_owned(), status.to_owned());
        self.steps.push(DiagnosisStep { looked_at, status, said });
    }

    /// Runs a probe as one step; none when the policy does not allow it, it could not be done, or no time
    /// was left.
    async fn look<P: Probe>(
        &mut self,
        shown: &str,
        request: P::Request,
    ) -> Option<Answer<P::Result>> {
        self.cx.progress(shown, 0, 0, "");
        let cx = self.cx;
        let allowed = cx.host.policy.operation(<P as Operation>::NAME);
        // What is not asked for has its default, as in a request that comes over the wire.
        let looked = match allowed.and_then(|()| completed::<P>(&request)) {
            Ok(request) => self.in_time(shown, P::observe(request, cx)).await?,
            Err(failure) => Err(failure),
        };
        self.looked(shown, looked)
    }

    /// Writes down what a look told.
    fn looked<R>(&mut self, shown: &str, looked: Result<Answer<R>, Failure>) -> Option<Answer<R>> {
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
        self.step(shown, status, said);
        looked.ok()
    }

    fn cause(&mut self, finding: Finding) {
        if !self.causes.iter().any(|c| c.summary == finding.summary) {
            self.causes.push(finding);
        }
    }

    /// The findings of a probe that are worth being a cause.
    fn causes_of<R>(&mut self, answer: Option<Answer<R>>, least: Status) {
        let Some(answer) = answer else { return };
        let before = self.causes.len();
        for finding in answer.findings {
            if finding.status() != Status::Unknown && severity(finding.status()) >= severity(least)
            {
                self.cause(finding);
            }
        }
        if self.causes.len() > before {
            self.prove(&answer.evidence);
        }
    }

    /// Looks at what was asked for.
    async fn target(&mut self, target: Target) {
        match target {
            Target::Unit(name) => self.unit(&name, true).await,
            Target::Postgres(only) => self.postgres(only.as_deref(), true).await,
            Target::Redis(only) => self.redis(only.as_deref(), true).await,
            Target::Celery(only) => self.celery(only.as_deref()).await,
            Target::Http(name) => self.http(&name).await,
            Target::Pm2 => self.pm2().await,
            Target::Nginx => self.nginx().await,
            Target::Own(check) => self.own(&check).await,
            Target::Everything => self.everything().await,
            Target::Machine => {}
        }
    }

    async fn resources(&mut self) -> Option<Answer<<HostResources as Operation>::Result>> {
        let request = self.as_checked::<HostResources>("resources")?;
        let mut answer = self.look::<HostResources>("host resources", request).await;
        // One busy second is no cause; one without any rest may be.
        if let Some(answer) = &mut answer {
            answer.findings.retain(|f| f.subject != "cpu" || f.status() == Status::Critical);
        }
        answer
    }

    async fn everything(&mut self) {
        let troubled =
            self.look::<SystemdStatus>("systemd status", SystemdStatusRequest::default()).await;
        let mut units: BTreeSet<String> =
            troubled.iter().flat_map(|a| &a.data.units).map(|u| u.name.clone()).collect();
        units.extend(self.cx.host.stack.units.iter().map(|u| full_name(&u.name)));
        self.postgres(None, false).await;
        self.redis(None, true).await;
        for celery in &self.cx.host.stack.celery {
            self.workers(&celery.name, Status::Critical).await;
        }
        for unit in units.into_iter().take(UNITS) {
            self.unit(&unit, false).await;
        }
        let stack = &self.cx.host.stack;
        // What users see: that is wrong for itself only when nothing below is.
        let checked = stack.http.iter().filter(|http| stack.checks_for("http", &http.name));
        for http in checked.take(applications::ENDPOINTS) {
            self.http(&http.name).await;
        }
        if stack.pm2.is_some() && stack.checks("pm2") {
            self.pm2().await;
        }
        // That a unit does not run is known, also where no time was left to find out why.
        if !self.late.is_empty() {
            self.causes_of(troubled, Status::Critical);
        }
    }

    fn answer(mut self, service: &str) -> Answer<HostDiagnosis> {
        // What was found first lies deepest among equals: disks, then servers, then what needs them.
        self.causes.order_by_key(|f| std::cmp::Reverse(severity(f.status())));
        self.unknown.extend(not_looked_at(&self.late, self.longest));
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
        let answer = self.proof.into_iter().fold(answer, |mut answer, asked| {
            answer.evidence.push(asked);
            answer
        });
        self.causes.into_iter().chain(self.unknown).fold(answer, Answer::finding)
    }
}

/// That time was over before everything was looked at, with the first look that is missing.
fn not_looked_at(late: &[String], longest: Duration) -> Option<Finding> {
    let first = late.first()?;
    let (looks, were) = if late.len() == 1 { ("look", "was") } else { ("looks", "were") };
    let count = late.len();
    let summary =
        format!("{count} {looks} {were} not made: after {} s no time was left", longest.as_secs());
    let why = "what does not answer uses up the time of what comes after it";
    // What is looked at of a unit beside its state stands behind the operation.
    let next = first.split_once(": ").map_or(first.as_str(), |(operation, _)| operation);
    Some(Finding::new(Status::Unknown, "time", summary).why(why).next(next))
}

/// Why a look told nothing: in its own words, with what mends that.
fn unmeasured(shown: &str, findings: &[Finding], said: &str) -> Vec<Finding> {
    let own: Vec<_> = findings.iter().filter(|f| f.status() == Status::Unknown).cloned().collect();
    match own.is_empty() {
        true => vec![Finding::new(Status::Unknown, shown, said)],
        false => own,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::Host;

    #[tokio::test]
    async fn of_several_servers_only_the_one_that_was_named_is_looked_at() {
        let mut host = Host::showing(std::path::Path::new("/nonexistent"));
        let all = ["disk.*", "host.*", "systemd.*", "postgres.*", "redis.*"];
        host.policy.deny = all.map(str::to_owned).to_vec();
        let entry = |kind: &str, name: &str| format!("[[{kind}]]\nname = \"{name}\"\nurl = \"\"\n");
        let stack = [("postgres", "main"), ("postgres", "second"), ("redis", "a"), ("redis", "b")];
        let stack = stack.map(|(kind, name)| entry(kind, name)).concat();
        host.stack = toml::from_str(&stack).expect("a stack file");
        let (events, _receiver) = tokio::sync::mpsc::channel(64);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        for (service, expected) in [
            ("main", vec!["postgres ping main"]),
            ("postgres:second", vec!["postgres ping second"]),
            ("redis:b", vec!["redis status b"]),
            ("redis", vec!["redis status a", "redis status b"]),
            ("postgres", vec!["postgres ping main", "postgres ping second"]),
        ] {
            let asked = HostDiagnoseRequest { service: service.to_owned() };
            let answer = HostDiagnose::observe(asked, &cx).await.expect("an answer");
            let looked = answer.data.steps.iter().map(|step| step.looked_at.as_str());
            let servers: Vec<&str> = looked
                .filter(|what| what.starts_with("postgres ") || what.starts_with("redis "))
                .collect();
            assert_eq!(servers, expected, "{service}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_uses_up_the_time_and_what_was_found_until_then_is_told() {
        // They take connections and say nothing.
        let hangs = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let servers: Vec<_> = (0..24).map(|_| hangs()).collect();
        let entry = |(n, server): (usize, &std::net::TcpListener)| {
            let at = server.local_addr().expect("an address");
            format!("[[redis]]\nname = \"r{n}\"\nurl = \"redis://{at}/0\"\n")
        };
        let stack: String = servers.iter().enumerate().map(entry).collect();
        let mut host = Host::showing(std::path::Path::new("/nonexistent"));
        host.policy.deny = vec!["disk.*".into(), "systemd.*".into()];
        host.stack = toml::from_str(&stack).expect("a stack file");
        let (events, _receiver) = tokio::sync::mpsc::channel(256);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        // Whoever allows less time gets what was found in that.
        let cx = cx.ending_after(Some(Duration::from_secs(40)));
        let began = Instant::now();
        let asked = HostDiagnoseRequest::default();
        let answer = HostDiagnose::observe(asked, &cx).await.expect("an answer");
        assert!(began.elapsed() < Duration::from_secs(31), "{:?}", began.elapsed());
        let said = |name: &str| {
            let step = answer.data.steps.iter().find(|step| step.looked_at == name);
            step.map(|step| step.said.clone()).unwrap_or_default()
        };
        assert!(
            said("redis status r0").contains("does not answer"),
            "{:?}",
            said("redis status r0")
        );
        assert_eq!(said("redis status r23"), "not looked at: no time was left");
        assert_eq!(answer.status, Status::Critical);
        let last = answer.findings.last().expect("findings");
        assert!(last.summary.ends_with("after 30 s no time was left"), "{last:?}");
        assert!(last.next.starts_with("redis status r"), "{last:?}");
    }

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
}
