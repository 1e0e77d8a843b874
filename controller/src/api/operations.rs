//! Runs operations on hosts: who may, to the audit, out, back, to the audit, to the caller.

use std::time::Duration;

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

use super::{Api, caller, unstored};
use crate::{
    audit::Entry,
    authz::{Caller, Permit, What},
    metrics::Ended,
    relay::{Job, Report, relay},
    runs::Running,
};

/// Reports that wait for the audit or for a slow caller. Behind them the hosts are held back.
const REPORTS: usize = 256;
/// How long an action's caller may leave an event unread before it counts as gone.
const UNREAD: Duration = Duration::from_secs(30);

/// A request that was read, permitted and bound to its hosts.
struct Prepared {
    job: Job,
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

        let (out, answer) = mpsc::channel(64);
        let api = self.clone();
        tokio::spawn(async move { api.carry(prepared, out).await }.instrument(span));
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
            parallel: match request.parallel {
                0 => self.0.config.parallel,
                n => self.0.config.parallel.min(n as usize),
            },
            acts: spec.kind == Kind::Action && !request.plan,
        };
        Ok(Prepared { job, hosts: names, entry, running })
    }

    /// Carries the job to the hosts and the reports back. A caller that went away ends a probe; an
    /// action goes on to its end, and to the audit.
    async fn carry(&self, prepared: Prepared, out: mpsc::Sender<Result<RunEvent, Status>>) {
        let Prepared { job, hosts, entry, running } = prepared;
        let began = tokio::time::Instant::now();
        let goes_on = job.acts;
        let started = RunStarted {
            invocation: job.call.invocation.to_string(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
        };
        let mut listening = send(&out, run_event::Event::Started(started)).await;
        let (reports, mut arriving) = mpsc::channel::<Report>(REPORTS);
        let links = self.0.links.clone();
        let (all, stop) = (hosts.clone(), running.stop.clone());
        tokio::spawn(async move { relay(&links, all, job, stop, reports).await }.in_current_span());

        let mut open: std::collections::HashSet<HostName> = hosts.into_iter().collect();
        let mut summary = RunSummary::default();
        let mut batch = Vec::new();
        while listening || goes_on {
            let more = tokio::select! {
                n = arriving.recv_many(&mut batch, REPORTS) => n > 0,
                () = out.closed(), if listening && !goes_on => { listening = false; continue }
            };
            if !more {
                break;
            }
            let ends = batch.iter().filter(|r| r.end.is_some());
            let entries =
                ends.map(|r| outcome_entry(&entry, &r.host, &r.event)).collect::<Vec<_>>();
            for ended in &entries {
                let (operation, outcome) = (ended.operation.clone(), ended.outcome.clone());
                self.0.metrics.operations.get_or_create(&Ended { operation, outcome }).inc();
            }
            if !entries.is_empty()
                && let Err(error) = self.0.auditor.record_all(entries).await
            {
                // The hosts have done it: what cannot be hidden is said, and found again at the
                // next start as an intent without an outcome.
                tracing::error!(%error, "outcomes could not be audited");
                let _ = out.send(Err(unaudited(error))).await;
                return;
            }
            for report in batch.drain(..) {
                if report.end.is_some() {
                    open.remove(&report.host);
                    count(&mut summary, &report.event);
                }
                let event = HostEvent {
                    host: report.host.to_string(),
                    event: Some(report.event),
                    delivery: report.end.unwrap_or(Delivery::Unspecified).into(),
                };
                let sent = send(&out, run_event::Event::Host(event));
                // Of an action the audit must hear, whether its caller reads or not.
                listening = listening
                    && match goes_on {
                        true => tokio::time::timeout(UNREAD, sent).await.unwrap_or(false),
                        false => sent.await,
                    };
            }
        }
        // A probe whose caller went away: its hosts' outcomes will never be known.
        let failure = Failure::new(ErrorCode::Cancelled, "the caller went away");
        let event = Event { event: Some(event::Event::Failure(failure)) };
        let left = open.iter().map(|host| outcome_entry(&entry, host, &event)).collect::<Vec<_>>();
        if !left.is_empty()
            && let Err(error) = self.0.auditor.record_all(left).await
        {
            tracing::error!(%error, "outcomes could not be audited");
        }
        summary.took_s = began.elapsed().as_secs_f64();
        self.0.metrics.requests.observe(summary.took_s);
        if listening {
            send(&out, run_event::Event::Summary(summary)).await;
        }
    }
}

async fn send(out: &mpsc::Sender<Result<RunEvent, Status>>, event: run_event::Event) -> bool {
    out.send(Ok(RunEvent { event: Some(event) })).await.is_ok()
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
