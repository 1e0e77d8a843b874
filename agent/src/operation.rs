//! What it takes to be an operation here: a probe observes, an action plans and then applies.
//!
//! Everything around it (who may, parameters, deadline, locks, journal) is [`crate::dispatch`]'s.

use std::{sync::Arc, time::Duration};

use hostler_proto::{
    args,
    catalogue::Catalogue,
    operation::Operation,
    wire::{
        ErrorCode, Event, Evidence, Failure, Figure, Finding, LogLine, PlanStep, Progress, Status,
        event,
    },
};
use prost::Message as _;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use crate::{dispatch::Held, host::Host};

/// An operation that only looks.
pub trait Probe: Operation {
    /// Looks. When the returned future is dropped, nothing of it may go on.
    fn observe(
        request: Self::Request,
        cx: &Context,
    ) -> impl Future<Output = Result<Answer<Self::Result>, Failure>> + Send;
}

/// An operation that changes something.
pub trait Action: Operation {
    /// What `plan` decided and `apply` carries out. Two equal plans have equal `Debug` forms.
    type Plan: std::fmt::Debug + Send + Sync;

    /// Reads and decides; changes nothing.
    fn plan(
        request: &Self::Request,
        cx: &Context,
    ) -> impl Future<Output = Result<Plan<Self::Plan>, Failure>> + Send;

    /// Carries out exactly that plan.
    fn apply(
        plan: Self::Plan,
        cx: &Context,
    ) -> impl Future<Output = Result<Answer<Self::Result>, Failure>> + Send;
}

/// What an action would do.
#[derive(Debug)]
pub struct Plan<P> {
    /// For people, in order. No step means that there is nothing to do.
    pub steps: Vec<PlanStep>,
    /// For [`Action::apply`].
    pub details: P,
}

/// How an operation came out; the typed half of [`hostler_proto::wire::Outcome`].
#[derive(Debug, Clone)]
pub struct Answer<R> {
    /// How well what was looked at is. [`Answer::finding`] only ever makes it worse.
    pub status: Status,
    /// One line that can stand alone.
    pub summary: String,
    /// What deserves attention.
    pub findings: Vec<Finding>,
    /// The operation's own result.
    pub data: R,
    /// Why nothing was measured: there is no result, since an empty one would read like one.
    pub unmeasured: Option<Unmeasured>,
    /// What was really asked of the system.
    pub evidence: Vec<Evidence>,
    /// Numbers that are worth a history.
    pub figures: Vec<Figure>,
}

/// Why nothing was measured, as far as others go on from there; the finding has the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmeasured {
    /// Nobody is there: the call was refused.
    Away,
    /// Nothing comes back, not even a connection: packets are lost, or it hangs.
    Silent,
    /// It takes connections, and answers nothing.
    Hung,
    /// It was not let in, not understood, not asked.
    Otherwise,
}

impl<R> Answer<R> {
    /// An answer that judges nothing bad so far.
    pub fn ok(summary: impl Into<String>, data: R) -> Self {
        Self {
            status: Status::Ok,
            summary: summary.into(),
            findings: Vec::new(),
            data,
            unmeasured: None,
            evidence: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// An answer without a result: nothing was measured, and the finding says why and how bad that is.
    pub fn unmeasured(finding: Finding) -> Self
    where
        R: Default,
    {
        let answer = Self::ok(finding.summary.clone(), R::default());
        Self { unmeasured: Some(Unmeasured::Otherwise), ..answer }.finding(finding)
    }

    /// An answer that could not be measured, and why: never well.
    pub fn unknown(why: impl Into<String>, data: R) -> Self {
        Self { status: Status::Unknown, ..Self::ok(why, data) }
    }

    /// Takes the worst finding's sentence for its summary, with how many more there are.
    #[must_use]
    pub fn summed_up(mut self) -> Self {
        let worst = self.findings.iter().rev().max_by_key(|f| severity(f.status()));
        self.summary = match (worst, self.findings.len()) {
            (Some(worst), 1) => worst.summary.clone(),
            (Some(worst), n) => format!("{}, and {} more findings", worst.summary, n - 1),
            (None, _) => return self,
        };
        self
    }

    /// The same where the worst is that something is not known: what was seen beside it reads as if all were
    /// well.
    #[must_use]
    pub fn unknown_first(self) -> Self {
        match self.status {
            Status::Unknown => self.summed_up(),
            _ => self,
        }
    }

    /// Adds a number that is worth a history.
    #[must_use]
    pub fn figure(mut self, name: &str, subject: &str, value: f64, unit: &str) -> Self {
        let (name, subject, unit) = (name.to_owned(), subject.to_owned(), unit.to_owned());
        self.figures.push(Figure { name, subject, value, unit, limit: None });
        self
    }

    /// Adds a finding; the answer is as bad as its worst.
    #[must_use]
    pub fn finding(mut self, finding: Finding) -> Self {
        if severity(finding.status()) > severity(self.status) {
            self.status = finding.status();
        }
        self.findings.push(finding);
        self
    }

    /// Adds what was really asked of the system.
    #[must_use]
    pub fn evidence(mut self, kind: &str, what: impl Into<String>) -> Self {
        self.evidence.push(Evidence::new(kind, what));
        self
    }
}

/// A request with its defaults filled in and checked, as one that comes over the wire has them.
///
/// # Errors
/// Names what is wrong with it.
pub fn completed<O: Operation>(request: &O::Request) -> Result<O::Request, Failure> {
    let bytes = complete(O::NAME, &request.encode_to_vec())?;
    O::Request::decode(bytes.as_slice())
        .map_err(|e| Failure::new(ErrorCode::Internal, format!("{}: {e}", O::NAME)))
}

fn complete(operation: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
    let spec = Catalogue::bare()
        .get(operation)
        .map_err(|e| Failure::new(ErrorCode::Internal, e.to_string()))?;
    Ok(args::from_wire(spec, request)?.encode_to_vec())
}

/// How bad a status is: critical, then warning, then unknown.
pub fn severity(status: Status) -> u8 {
    match status {
        Status::Unspecified => 0,
        Status::Ok => 1,
        Status::Unknown => 2,
        Status::Warning => 3,
        Status::Critical => 4,
    }
}

/// What an operation gets beside its request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The only way to the machine.
    pub host: Arc<Host>,
    /// When the caller wants the operation to end early; a follow ends well then.
    pub cancelled: CancellationToken,
    events: mpsc::Sender<Event>,
    held: Held,
    /// After which it is made to end.
    deadline: Option<Duration>,
}

impl Context {
    /// A context whose events go to `events`; a full channel holds the operation back.
    pub fn new(host: Arc<Host>, cancelled: CancellationToken, events: mpsc::Sender<Event>) -> Self {
        Self { host, cancelled, events, held: Held::default(), deadline: None }
    }

    /// The same with a deadline.
    #[must_use]
    pub fn ending_after(self, deadline: Option<Duration>) -> Self {
        Self { deadline, ..self }
    }

    /// How long an operation may look that tells at its end what it found until then: no longer than three
    /// quarters of the time that it has, since at its deadline all of it is lost.
    pub fn time_to_look(&self, longest: Duration) -> Duration {
        self.deadline.map_or(longest, |deadline| longest.min(deadline * 3 / 4))
    }

    /// How long a slow reader has held the operation back.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// Gives out one line of a log. Waits while the reader is slow; false when nobody reads any
    /// more.
    pub async fn line(&self, line: LogLine) -> bool {
        self.send(event::Event::Line(line)).await
    }

    /// Gives out one step of a plan. Whoever no longer reads does not stop an action.
    pub async fn step(&self, step: PlanStep) {
        self.send(event::Event::Step(step)).await;
    }

    /// Tells how far it has come. Dropped when the reader is slow: the next one says more.
    pub fn progress(&self, doing: impl Into<String>, done: u64, total: u64, unit: &str) {
        let progress = Progress { doing: doing.into(), done, total, unit: unit.to_owned() };
        let _ = self.events.try_send(Event { event: Some(event::Event::Progress(progress)) });
    }

    /// Waits, but not longer than until it is cancelled; true when the whole time passed.
    pub async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.cancelled.cancelled() => false,
        }
    }

    /// Waits for work, but not beyond its own deadline, nor when nobody waits any more.
    ///
    /// # Errors
    /// What the work says, or that it did not end in time.
    pub async fn within<T>(
        &self,
        deadline: Duration,
        what: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = tokio::time::timeout(deadline, work) => done.unwrap_or_else(|_| {
                let message = format!("{what} did not end within {} s", deadline.as_secs());
                Err(Failure::new(ErrorCode::Timeout, message))
            }),
            () = self.cancelled.cancelled() => {
                Err(Failure::new(ErrorCode::Cancelled, format!("{what} was cancelled")))
            }
        }
    }

    async fn send(&self, event: event::Event) -> bool {
        match self.events.try_send(Event { event: Some(event) }) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(event)) => {
                let _waiting = self.held.wait();
                self.events.send(event).await.is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_said_first_where_nothing_is_worse() {
        let of = |statuses: &[Status]| {
            let findings = statuses
                .iter()
                .map(|status| Finding::new(*status, "t", format!("{status:?}").to_lowercase()));
            let answer = Answer::ok("3 databases, 21 MiB", ());
            findings.fold(answer, Answer::finding).unknown_first().summary
        };
        assert_eq!(of(&[]), "3 databases, 21 MiB");
        assert_eq!(of(&[Status::Ok]), "3 databases, 21 MiB");
        assert_eq!(of(&[Status::Unknown]), "unknown");
        assert_eq!(of(&[Status::Ok, Status::Unknown]), "unknown, and 1 more findings");
        assert_eq!(of(&[Status::Warning, Status::Unknown]), "3 databases, 21 MiB");
    }
}
