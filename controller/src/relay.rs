//! Carries one operation to many hosts and their answers back, as they come.
//!
//! It knows neither who asked nor the audit. One slow host costs one place among `parallel`, and
//! only until its deadline; an offline host costs none. A deadline counts the time in which a host
//! is waited for, and not that in which its reader is.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hostler_core::call::Call;
use hostler_proto::{
    name::HostName,
    wire::{Delivery, ErrorCode, Event, Failure, event},
};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

use crate::links::{CallError, Links};

/// What a host may need beyond its deadline to say that it passed.
const MARGIN: Duration = Duration::from_secs(5);

/// Hosts that one request follows. All of them begin at once, and each may fill the window of its
/// stream, 64 KiB, while nobody reads.
const FOLLOWED: usize = 1000;

/// One operation for many hosts.
#[derive(Debug, Clone)]
pub struct Job {
    /// Path of the rpc.
    pub path: PathAndQuery,
    /// The encoded request.
    pub request: Bytes,
    /// Id, mode, operator, deadline.
    pub call: Call,
    /// After which a host that says nothing more is given up; none for a follow.
    pub deadline: Option<Duration>,
    /// Hosts at a time.
    pub parallel: usize,
    /// It changes something: an answer that is lost leaves doubt.
    pub acts: bool,
}

/// Something that a host said, or that became of its task.
#[derive(Debug)]
pub struct Report {
    /// The host.
    pub host: HostName,
    /// What it said.
    pub event: Event,
    /// Set with the last report of a host.
    pub end: Option<End>,
}

/// How a host's part of a job ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// How far the job had come.
    pub delivery: Delivery,
    /// Since the host was asked; zero for one that was not.
    pub took: Duration,
}

/// Whether hosts that were not asked yet may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// They may.
    Now,
    /// Not yet: what the others do cannot be recorded.
    Later,
    /// Never: that went on for too long.
    Never,
}

/// What hosts that were not asked yet wait for.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The operator does not want them any more.
    pub stop: CancellationToken,
    /// What the audit allows.
    pub begin: watch::Receiver<Begin>,
}

impl Gate {
    /// Waits until a host may be asked.
    async fn pass(&self) -> Result<(), Failure> {
        let mut begin = self.begin.clone();
        let decided = tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                return Err(Failure::new(ErrorCode::Cancelled, "cancelled before it was sent")
                    .hint("nothing was done on this host"));
            }
            decided = begin.wait_for(|begin| *begin != Begin::Later) => decided,
        };
        // Whoever decides is gone with whoever reads.
        match decided.map_or(Begin::Never, |begin| *begin) {
            Begin::Now => Ok(()),
            Begin::Later | Begin::Never => {
                let message = "not begun, because the audit cannot be written";
                Err(Failure::new(ErrorCode::Cancelled, message)
                    .hint("nothing was done on this host"))
            }
        }
    }
}

/// On how many hosts an operation runs at a time. A follow never makes room for the next host, so
/// that all of them begin at once, whatever was asked for.
///
/// # Errors
/// When that is more than can be followed.
pub fn width(follow: bool, hosts: usize, asked: usize, own: usize) -> Result<usize, Failure> {
    match (follow, asked) {
        (true, _) if hosts > FOLLOWED => {
            let message =
                format!("{hosts} hosts are more than the {FOLLOWED} that can be followed");
            Err(Failure::new(ErrorCode::LimitExceeded, message)
                .hint("choose fewer with --on, or leave out --follow"))
        }
        (true, _) => Ok(hosts),
        (false, 0) => Ok(own),
        (false, asked) => Ok(own.min(asked)),
    }
}

/// Runs the job on all hosts and ends when each has an end, or when nobody reads any more.
pub async fn relay(
    links: &Links,
    hosts: Vec<HostName>,
    job: Job,
    gate: Gate,
    out: mpsc::Sender<Report>,
) {
    let (online, offline): (Vec<_>, Vec<_>) =
        hosts.into_iter().map(|h| (links.get(&h), h)).partition(|(link, _)| link.is_some());
    for (_, host) in offline {
        let message = format!("{host} is not connected");
        let failure = Failure::new(ErrorCode::Unreachable, message)
            .hint(format!("see why with: hostlerctl host show {host}"));
        if out.send(unasked(host, failure)).await.is_err() {
            return;
        }
    }
    let job = &job;
    let out = &out;
    let gate = &gate;
    let tasks = online.into_iter().map(|(_, host)| async move {
        if let Err(failure) = gate.pass().await {
            return out.send(unasked(host, failure)).await;
        }
        let span = tracing::debug_span!("call", %host);
        let end = one(links, &host, job, out).instrument(span).await;
        out.send(end).await
    });
    let mut tasks = stream::iter(tasks).buffer_unordered(job.parallel.max(1));
    let work = async { while let Some(Ok(())) = tasks.next().await {} };
    // When nobody reads any more, dropping the tasks cancels their streams.
    tokio::select! {
        () = work => {}
        () = out.closed() => {}
    }
}

/// What is known when the link breaks in the middle: of an action nothing, and a probe can be asked
/// again.
fn broken(host: &HostName, acts: bool) -> Failure {
    match acts {
        true => {
            let message = format!("the link to {host} broke before it told how it ended");
            Failure::new(ErrorCode::OutcomeUnknown, message)
                .hint("it may have been carried out, or goes on; look at the host")
        }
        false => {
            Failure::new(ErrorCode::Unreachable, format!("the link to {host} broke meanwhile"))
                .hint(format!("see why with: hostlerctl host show {host}"))
        }
    }
}

/// How long a host may still be waited for; none for as long as it takes.
struct Patience(Option<Duration>);

impl Patience {
    /// Waits for what the host does; none when that took too long in all.
    async fn wait<T>(&mut self, host: impl Future<Output = T>) -> Option<T> {
        let Some(left) = self.0 else { return Some(host.await) };
        let began = Instant::now();
        let done = timeout(left, host).await;
        self.0 = Some(left.saturating_sub(began.elapsed()));
        done.ok()
    }
}

async fn one(links: &Links, host: &HostName, job: &Job, out: &mpsc::Sender<Report>) -> Report {
    let began = Instant::now();
    let mut delivery = Delivery::Undelivered;
    let mut patience = Patience(job.deadline.map(|deadline| deadline + MARGIN));
    let refused = |status: &Status| Failure::told(status).unwrap_or_else(|| broken(host, job.acts));
    let silent = || {
        let deadline = job.deadline.unwrap_or_default().as_secs();
        let message = format!("{host} said nothing until {deadline} s");
        let code = if job.acts { ErrorCode::OutcomeUnknown } else { ErrorCode::Timeout };
        Failure::new(code, message).hint("allow more with --timeout")
    };
    let talk = async {
        // Asked again: the link may have been lost since the job began.
        let lost = || {
            Failure::new(ErrorCode::Unreachable, format!("{host} lost its connection"))
                .hint("nothing was sent; try again")
        };
        let link = links.get(host).ok_or_else(lost)?;
        delivery = Delivery::Sent;
        let begun = link.run(job.path.clone(), job.request.clone(), &job.call);
        let begun = patience.wait(begun).await.ok_or_else(silent)?;
        let mut events = begun.map_err(|error| match error {
            CallError::NotSent => lost(),
            CallError::Status(status) => refused(&status),
        })?;
        delivery = Delivery::Accepted;
        loop {
            let told = patience.wait(events.message()).await.ok_or_else(silent)?;
            let Some(bytes) = told.map_err(|status| refused(&status))? else {
                return Err(broken(host, job.acts));
            };
            let event = Event::decode(bytes).map_err(|_| {
                Failure::new(ErrorCode::Internal, format!("{host} sent what is no event"))
            })?;
            match event.event {
                Some(event::Event::Outcome(_) | event::Event::Failure(_)) => return Ok(event),
                _ => {
                    let report = Report { host: host.clone(), event, end: None };
                    if out.send(report).await.is_err() {
                        return Err(Failure::new(ErrorCode::Cancelled, "nobody listens any more"));
                    }
                }
            }
        }
    };
    let result = talk.await;
    let (event, delivery) = match result {
        Ok(event) => (event, Delivery::Reported),
        Err(failure) => {
            // A refusal is the host's own answer; a broken stream or silence is not.
            let heard = !matches!(
                failure.code(),
                ErrorCode::Unreachable
                    | ErrorCode::Timeout
                    | ErrorCode::Cancelled
                    | ErrorCode::OutcomeUnknown
                    | ErrorCode::Internal
            );
            let event = Event { event: Some(event::Event::Failure(failure)) };
            (event, if heard { Delivery::Reported } else { delivery })
        }
    };
    Report { host: host.clone(), event, end: Some(End { delivery, took: began.elapsed() }) }
}

/// What becomes of a host that is not asked.
fn unasked(host: HostName, failure: Failure) -> Report {
    let event = Event { event: Some(event::Event::Failure(failure)) };
    let end = End { delivery: Delivery::Undelivered, took: Duration::ZERO };
    Report { host, event, end: Some(end) }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
