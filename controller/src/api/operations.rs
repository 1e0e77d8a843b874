//! Runs operations on hosts: who may, to the audit, out, back, to the audit, to the caller.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use hostler_core::{
    call::{Call, Mode},
    clock::InvocationId,
    telemetry,
};
use hostler_proto::{
    args,
    name::HostName,
    wire::{
        CancelInvocationRequest, CancelReply, CancelRequest, Delivery, ErrorCode, Event, Failure,
        HostEvent, Kind, RunEvent, RunRequest, RunStarted, RunSummary, Status as Health, event,
        operations_server::Operations, run_event,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::{Api, caller, listener::Listener, outcomes::Outcomes, unstored};
use crate::{
    audit::{AuditError, Entry},
    authz::{Caller, Permit, What},
    relay::{Gate, Job, Report, relay, width},
    runs::Running,
};

/// Reports that wait for the audit or for a slow caller. Behind them the hosts are held back.
const REPORTS: usize = 256;

/// Hosts that one sentence names.
const NAMED: usize = 10;

/// A request that was read, permitted and bound to its hosts.
struct Prepared {
    job: Job,
    /// How many hosts there are.
    of: u32,
    hosts: Vec<HostName>,
    entry: Entry,
    running: Running,
}

#[tonic::async_trait]
impl Operations for Api {
    type RunStream = ReceiverStream<Result<RunEvent, Status>>;

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        let caller = caller(&request)?;
        let operation = &request.get_ref().operation;
        let span = tracing::info_span!("run", operation, operator = %caller.name);
        telemetry::join(&span, request.metadata());
        let prepared = self.prepare(&caller, request.into_inner()).await?;
        // Fail closed: nothing is let go before its intent is in the audit.
        let intents = prepared.hosts.iter().map(|host| Entry {
            kind: "intent",
            subject: host.to_string(),
            ..prepared.entry.clone()
        });
        self.0.auditor.record_all(intents.collect()).await.map_err(unaudited)?;

        let (listener, answer) = Listener::new(&prepared.entry.operation, prepared.job.acts);
        let api = self.clone();
        tokio::spawn(async move { api.carry(prepared, listener).await }.instrument(span));
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelReply>, Status> {
        let caller = caller(&request)?;
        let id: InvocationId = request.into_inner().invocation.parse().map_err(invalid)?;
        self.authorise(&caller, What::Cancel, None, "operations.cancel", &id.to_string()).await?;
        let entry = Entry {
            kind: "change",
            outcome: "ok".into(),
            invocation: id.to_string(),
            operation: "operations.cancel".into(),
            ..self.entry(&caller)
        };
        self.0.auditor.record_all(vec![entry]).await.map_err(unaudited)?;
        let whole = caller.scope.is_none();
        self.0.runs.stop(id, |operator| whole || *operator == caller.name);
        let mut cancelled = 0;
        // What runs on a host that the caller may not act on is not the caller's to end.
        let hosts = self.0.store.hosts().await.map_err(unstored)?;
        let mut links = Vec::new();
        for host in hosts {
            if caller.scope.as_ref().is_none_or(|s| s.matches(&host.candidate())) {
                links.extend(self.0.links.get(&host.name));
            }
        }
        let asks = links.into_iter().map(|link| async move {
            let request = CancelInvocationRequest { id: id.to_string() };
            let asked = tokio::time::timeout(Duration::from_secs(3), async {
                link.agent().cancel(request).await.map(|r| r.into_inner().running)
            });
            matches!(asked.await, Ok(Ok(true)))
        });
        let mut asks = futures_util::stream::StreamExt::buffer_unordered(
            futures_util::stream::iter(asks),
            self.0.config.parallel.max(1),
        );
        while let Some(running) = futures_util::StreamExt::next(&mut asks).await {
            cancelled += u32::from(running);
        }
        Ok(Response::new(CancelReply { cancelled }))
    }
}

impl Api {
    async fn prepare(&self, caller: &Caller, request: RunRequest) -> Result<Prepared, Status> {
        let spec = self.0.catalogue.get(&request.operation).map_err(invalid)?;
        let message = args::from_wire(spec, &request.request).map_err(invalid)?;
        let hosts = self.select(&request.on).await?;
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        if request.confirmed != 0 && request.confirmed != count {
            let was = request.confirmed;
            let message = format!("the selector matched {was} hosts and matches {count} now");
            return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                .hint("look at them with hostlerctl hosts --on, and confirm anew")
                .into());
        }
        let invocation = match request.invocation.is_empty() {
            true => InvocationId::new(&*self.0.clock),
            false => request.invocation.parse().map_err(invalid)?,
        };
        // An id says that it is the same request: an agent answers it with what it did then.
        let taken = || {
            let message = format!("there was a request {invocation} already");
            Failure::new(ErrorCode::AlreadyExists, message).hint("every request needs a new id")
        };
        let running = self.0.runs.begin(invocation, caller.name.clone()).ok_or_else(taken)?;
        if !request.invocation.is_empty()
            && self.0.store.has_invocation(&invocation.to_string()).await.map_err(unstored)?
        {
            return Err(taken().into());
        }
        let mut detail = serde_json::Map::new();
        detail.insert("parameters".into(), args::to_json(spec, &message));
        detail.insert("on".into(), request.on.clone().into());
        if request.plan {
            detail.insert("plan".into(), true.into());
        }
        if !request.reason.is_empty() {
            let reason: String = request.reason.chars().take(500).collect();
            detail.insert("reason".into(), reason.into());
        }
        let entry = Entry {
            invocation: invocation.to_string(),
            operation: spec.name.clone(),
            detail: serde_json::Value::Object(detail).to_string(),
            ..self.entry(caller)
        };
        let names: Vec<HostName> = hosts.iter().map(|h| h.name.clone()).collect();
        for host in &hosts {
            let what = What::Operation { spec, plan: request.plan };
            let allowed: Result<Permit, _> =
                crate::authz::authorise(caller, what, Some(&host.candidate()));
            if let Err(denied) = allowed {
                let entry = Entry {
                    kind: "denied",
                    subject: host.name.to_string(),
                    outcome: "denied".into(),
                    ..entry
                };
                self.0.auditor.record_all(vec![entry]).await.map_err(unaudited)?;
                return Err(Failure::from(denied).into());
            }
        }
        let timeout =
            (request.timeout_s > 0).then(|| Duration::from_secs(request.timeout_s.into()));
        let follow = spec.follows
            && spec
                .parameter("follow")
                .is_some_and(|p| message.get_field(&p.field).as_bool().unwrap_or(false));
        let (asked, own) = (request.parallel as usize, self.0.config.parallel);
        let parallel = width(follow, hosts.len(), asked, own)?;
        let job = Job {
            path: spec.path.parse().map_err(|_| Status::internal("a path of the catalogue"))?,
            request: Bytes::from(request.request),
            call: Call {
                invocation,
                mode: if request.plan { Mode::Plan } else { Mode::Apply },
                plan_digest: None,
                operator: caller.name.to_string(),
                timeout: timeout.or((!follow).then_some(spec.deadline)),
            },
            deadline: timeout.or((!follow).then_some(spec.deadline)),
            parallel,
            acts: spec.kind == Kind::Action && !request.plan,
        };
        Ok(Prepared { job, of: self.size().await?, hosts: names, entry, running })
    }

    /// Carries the job to the hosts and the reports back. A caller that went away ends a probe; an
    /// action goes on to its end, and to the audit.
    async fn carry(&self, prepared: Prepared, mut listener: Listener) {
        let Prepared { job, of, hosts, entry, running } = prepared;
        let began = tokio::time::Instant::now();
        let goes_on = job.acts;
        let started = RunStarted {
            invocation: job.call.invocation.to_string(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            of,
        };
        listener.tell(run_event::Event::Started(started)).await;
        let mut outcomes = Outcomes::new(self.0.auditor.clone(), self.0.store.clone());
        let (reports, mut arriving) = mpsc::channel::<Report>(REPORTS);
        let links = self.0.links.clone();
        let gate = Gate { stop: running.stop.clone(), begin: outcomes.begin() };
        let all = hosts.clone();
        tokio::spawn(async move { relay(&links, all, job, gate, reports).await }.in_current_span());

        let mut open: HashSet<HostName> = hosts.into_iter().collect();
        let mut summary = RunSummary::default();
        let (mut batch, mut withheld, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        let mut runs = true;
        while runs || outcomes.unwritten() > 0 {
            tokio::select! {
                n = arriving.recv_many(&mut batch, REPORTS), if runs => runs = n > 0,
                () = outcomes.due() => {}
                () = listener.gone(), if listener.listens() && !goes_on => listener.leave(),
            }
            for report in batch.drain(..) {
                let Some(end) = report.end else {
                    listener.tell(told(report)).await;
                    continue;
                };
                let ended = outcome_entry(&entry, &report.host, &report.event);
                let (operation, outcome) = (ended.operation.clone(), ended.outcome.clone());
                self.0.metrics.ended(operation, outcome, end);
                if goes_on && ended.outcome == "outcome-unknown" {
                    lost.push(report.host.clone());
                }
                open.remove(&report.host);
                count(&mut summary, &report.event);
                outcomes.add([ended]);
                withheld.push(report);
            }
            if !listener.listens() && !goes_on {
                break;
            }
            outcomes.write().await;
            if outcomes.unwritten() == 0 {
                self.ask_again(lost.drain(..));
            }
            let gives_up = outcomes.given_up().filter(|_| !runs);
            let gives_up = gives_up.map(|error| unwritten(error, &withheld));
            if gives_up.is_some() || outcomes.unwritten() == 0 {
                // What is known is not hidden from the caller because it cannot be written.
                for report in withheld.drain(..) {
                    listener.tell(told(report)).await;
                }
            }
            if let Some(why) = gives_up {
                listener.end(why);
                break;
            }
        }
        drop(arriving);
        // A probe whose caller went away: its hosts' outcomes will never be known.
        let failure = Failure::new(ErrorCode::Cancelled, "the caller went away");
        let event = Event { event: Some(event::Event::Failure(failure)) };
        outcomes.add(open.iter().map(|host| outcome_entry(&entry, host, &event)));
        summary.took_s = began.elapsed().as_secs_f64();
        self.0.metrics.requests.observe(summary.took_s);
        listener.tell(run_event::Event::Summary(summary)).await;
        drop(listener);
        outcomes.write_all().await;
    }
}

impl Api {
    /// Asks hosts for outcomes that were lost just now, where another link has taken the place of the
    /// one that they were lost with. A link that comes later asks by itself.
    fn ask_again(&self, lost: impl Iterator<Item = HostName>) {
        for link in lost.filter_map(|host| self.0.links.get(&host)) {
            let api = self.clone();
            tokio::spawn(async move { api.reconcile(link).await });
        }
    }
}

/// What a caller is told whose outcomes cannot be written.
fn unwritten(error: &AuditError, ended: &[Report]) -> Status {
    let cancelled = |report: &&Report| match &report.event.event {
        Some(event::Event::Failure(failure)) => {
            report.end.is_some_and(|end| end.delivery == Delivery::Undelivered)
                && failure.code() == ErrorCode::Cancelled
        }
        _ => false,
    };
    let unbegun: Vec<_> = ended.iter().filter(cancelled).map(|r| r.host.as_str()).collect();
    let named = unbegun[..unbegun.len().min(NAMED)].join(", ");
    let unbegun = match unbegun.len() {
        0 => "no host was left out".to_owned(),
        n @ ..=NAMED => format!("{n} hosts were not begun: {named}"),
        n => format!("{n} hosts were not begun: {named} and {} more", n - NAMED),
    };
    let message = format!("the audit cannot be written: {error}; {unbegun}");
    Failure::new(ErrorCode::PreconditionFailed, message)
        .hint("how the others ended is written when it can be; look at the controller's store")
        .into()
}

fn told(report: Report) -> run_event::Event {
    run_event::Event::Host(HostEvent {
        host: report.host.to_string(),
        event: Some(report.event),
        delivery: report.end.map_or(Delivery::Unspecified, |end| end.delivery).into(),
    })
}

/// How a host's last event reads in the audit.
pub(super) fn outcome_entry(intent: &Entry, host: &HostName, event: &Event) -> Entry {
    let (outcome, summary) = match &event.event {
        Some(event::Event::Outcome(outcome)) => {
            let status = match outcome.status() {
                Health::Unspecified | Health::Ok => "ok",
                Health::Warning => "warning",
                Health::Critical => "critical",
                Health::Unknown => "unknown",
            };
            (status.to_owned(), outcome.summary.clone())
        }
        Some(event::Event::Failure(failure)) => {
            let outcome = match failure.code() {
                ErrorCode::OutcomeUnknown => "outcome-unknown",
                ErrorCode::Unreachable => "unreachable",
                ErrorCode::Timeout => "timeout",
                ErrorCode::Cancelled => "cancelled",
                _ => "failed",
            };
            (outcome.to_owned(), failure.to_string())
        }
        _ => ("outcome-unknown".to_owned(), String::new()),
    };
    let summary: String = summary.chars().take(500).collect();
    Entry {
        kind: "outcome",
        subject: host.to_string(),
        outcome,
        detail: serde_json::json!({ "summary": summary }).to_string(),
        ..intent.clone()
    }
}

fn count(summary: &mut RunSummary, event: &Event) {
    let counter = match &event.event {
        Some(event::Event::Outcome(outcome)) => match outcome.status() {
            Health::Unspecified | Health::Ok => &mut summary.ok,
            Health::Warning => &mut summary.warning,
            Health::Critical => &mut summary.critical,
            Health::Unknown => &mut summary.unknown,
        },
        Some(event::Event::Failure(failure)) => match failure.meaning().exit {
            3 => &mut summary.unreachable,
            _ => &mut summary.failed,
        },
        _ => &mut summary.unreachable,
    };
    *counter += 1;
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Status {
    Failure::new(ErrorCode::InvalidArgument, error.to_string()).into()
}

pub(super) fn unaudited(error: impl std::fmt::Display) -> Status {
    let message = format!("the audit cannot be written: {error}");
    Failure::new(ErrorCode::PreconditionFailed, message)
        .hint("nothing is let go without it; look at the controller's store")
        .into()
}
