//! The one way in which every operation runs: policy, parameters, locks, journal, deadline.
//!
//! Who the peer is was proven before, by the handshake of its connection.

mod held;
mod locks;
mod registry;
mod slots;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use hostler_core::{
    call::{Call, Mode},
    clock::InvocationId,
};
use hostler_proto::{
    args,
    catalogue::Catalogue,
    wire::{ErrorCode, Event, Failure, Kind, Outcome, event},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use self::held::Held;
use self::{
    locks::Locks,
    registry::{Order, Registry},
    slots::{Pool, Slots},
};
use crate::{
    host::{Host, lingering::Lingering},
    journal::{Journal, Known},
    operation::Context,
    policy::Policy,
    stack::Stack,
};

/// Events that wait for a slow reader before the operation itself is held back.
const EVENTS: usize = 64;
/// How often it is looked whether an operation that was held back has used up its time.
const BEAT: Duration = Duration::from_millis(20);
/// How long a cancelled or timed out action may take to come to an end by itself.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Runs operations. A clone is the same dispatcher.
#[derive(Debug, Clone)]
pub struct Dispatcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: RwLock<Arc<Host>>,
    catalogue: &'static Catalogue,
    registry: &'static Registry,
    journal: Journal,
    locks: Locks,
    slots: Slots,
    running: Mutex<HashMap<InvocationId, CancellationToken>>,
    tasks: TaskTracker,
    /// The agent is told to stop: what has no end of its own ends.
    closing: CancellationToken,
    /// The agent stops: everything ends.
    stopping: CancellationToken,
}

/// The events of an operation. Dropping it ends a probe; an action goes on.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    _gone: Option<tokio_util::sync::DropGuard>,
}

impl Events {
    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// For a stream.
    pub fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.receiver.poll_recv(cx)
    }
}

impl Dispatcher {
    /// A dispatcher for one host.
    pub fn new(host: Arc<Host>, catalogue: &'static Catalogue, journal: Journal) -> Self {
        Self(Arc::new(Inner {
            host: RwLock::new(host),
            catalogue,
            registry: Registry::complete(),
            journal,
            locks: Locks::default(),
            slots: Slots::default(),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The names of the operations that the policy allows.
    pub fn allowed(&self) -> impl Iterator<Item = &'static str> {
        let host = self.host();
        Catalogue::names().filter(move |name| host.policy.operation(name).is_ok())
    }

    /// From now on another policy counts. What runs goes on under the one that it began with.
    pub fn obey(&self, policy: Policy) {
        let mut host = self.0.host.write().unwrap_or_else(PoisonError::into_inner);
        *host =
            Arc::new(Host { policy, stack: host.stack.clone(), clock: Arc::clone(&host.clock) });
    }

    /// From now on this is what is on the host. What runs goes on with what it began with.
    pub fn know(&self, stack: Stack) {
        let mut host = self.0.host.write().unwrap_or_else(PoisonError::into_inner);
        let (policy, clock) = (host.policy.clone(), Arc::clone(&host.clock));
        *host = Arc::new(Host { policy, stack, clock });
    }

    fn host(&self) -> Arc<Host> {
        Arc::clone(&self.0.host.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins the operation behind a path, for somebody who called.
    ///
    /// # Errors
    /// Everything that keeps it from beginning.
    pub async fn run(&self, path: &str, request: Bytes, call: Call) -> Result<Events, Failure> {
        self.begin_run(path, request, call, None).await
    }

    /// Begins a probe of the agent's own: whoever calls takes no slot from it. As many run as the caller
    /// lets run, and what they leave behind is told to `left`.
    ///
    /// # Errors
    /// Everything that keeps it from beginning.
    pub async fn run_own(
        &self,
        path: &str,
        request: Bytes,
        call: Call,
        left: &Lingering,
    ) -> Result<Events, Failure> {
        self.begin_run(path, request, call, Some(left)).await
    }

    async fn begin_run(
        &self,
        path: &str,
        request: Bytes,
        call: Call,
        own: Option<&Lingering>,
    ) -> Result<Events, Failure> {
        let inner = &self.0;
        let known = inner.catalogue.at(path).map_err(|e| {
            Failure::new(ErrorCode::Internal, format!("the agent's build is broken: {e}"))
        })?;
        let spec = known.ok_or_else(|| {
            Failure::new(ErrorCode::Unsupported, format!("this agent has no operation {path}"))
                .hint("a newer agent may have it")
        })?;
        let host = self.host();
        host.policy.operation(&spec.name)?;
        let request = args::from_wire(spec, &request)
            .map_err(|e| Failure::new(ErrorCode::InvalidArgument, e.to_string()))?;
        if inner.tasks.is_closed() {
            return Err(Failure::new(ErrorCode::Unreachable, "the agent is stopping"));
        }
        let acts = spec.kind == Kind::Action && call.mode == Mode::Apply;
        let slot = match own {
            Some(_) => None,
            None => Some(inner.slots.take(Pool::of(spec, &request, acts))?),
        };
        if !acts && self.runs(call.invocation) {
            return already(call.invocation, Known::Running);
        }
        let held = match acts {
            true => Some(inner.locks.take(locks::names(spec, &request), call.invocation)?),
            false => None,
        };
        if acts && let Some(known) = self.begin(call.invocation, &spec.name).await? {
            return already(call.invocation, known);
        }

        let (events, receiver) = mpsc::channel(EVENTS);
        let cancelled = CancellationToken::new();
        let deadline = call.timeout.or((!spec.follows).then_some(spec.deadline));
        let cx = Context::new(host, cancelled.clone(), events.clone()).ending_after(deadline);
        let held_back = cx.held();
        let order = Order { mode: call.mode, plan_digest: call.plan_digest.clone() };
        let running =
            inner.registry.run(path, request, order, cx).ok_or_else(|| no_handler(&spec.name))?;
        let running = match own.cloned() {
            Some(left) => Box::pin(async move { left.run(running).await }),
            None => running,
        };
        self.register(call.invocation, &cancelled);
        let gone = (!acts).then(|| cancelled.clone().drop_guard());
        let span = tracing::info_span!("operation", name = spec.name, invocation = %call.invocation,
            operator = call.operator);
        let (this, name) = (self.clone(), spec.name.clone());
        let stop = if deadline.is_some() { &inner.stopping } else { &inner.closing };
        let stop = stop.clone();
        let task = async move {
            // A task of its own turns a panic of the operation into a failure of this call alone.
            let mut task = tokio::spawn(running);
            let result = tokio::select! {
                joined = &mut task => joined,
                why = ended(deadline, &held_back, &cancelled, &stop) => {
                    cancelled.cancel();
                    match tokio::time::timeout(LAST_BREATH, &mut task).await {
                        Ok(joined) => joined.map(|said| said.map_err(|f| why.told(f, &name, acts))),
                        Err(_) => {
                            task.abort();
                            Ok(Err(why.aborted(&name, acts)))
                        }
                    }
                }
            };
            let last = match result {
                Ok(Ok(outcome)) => event::Event::Outcome(outcome),
                Ok(Err(failure)) => event::Event::Failure(failure),
                Err(_) => event::Event::Failure(Failure::new(
                    ErrorCode::Internal,
                    format!("{name} ended by a defect of the agent; its log has the place"),
                )),
            };
            let last = Event { event: Some(last) };
            this.finish(call.invocation, acts, &last).await;
            drop((held, slot));
            let _ = events.send(last).await;
        };
        inner.tasks.spawn(task.instrument(span));
        Ok(Events { receiver, _gone: gone })
    }

    /// What is known of an invocation, running ones included.
    pub fn known(&self, id: InvocationId) -> Option<Known> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.contains_key(&id) {
            true => Some(Known::Running),
            false => self.0.journal.known(id),
        }
    }

    /// Asks an invocation to end; false when it does not run.
    pub fn cancel(&self, id: InvocationId) -> bool {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(&id).inspect(|token| token.cancel()).is_some()
    }

    /// Takes nothing new, ends what follows something, waits for what else runs, and then makes it
    /// end as interrupted. What even then runs stays without an outcome in the journal, which reads
    /// as the same.
    pub async fn stop(&self, patience: Duration) {
        self.0.tasks.close();
        self.0.closing.cancel();
        if tokio::time::timeout(patience, self.0.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(operations = self.0.tasks.len(), "stopping while operations run");
        self.0.stopping.cancel();
        let _ = tokio::time::timeout(LAST_BREATH * 2, self.0.tasks.wait()).await;
    }

    async fn begin(&self, id: InvocationId, operation: &str) -> Result<Option<Known>, Failure> {
        let (journal, operation) = (self.0.journal.clone(), operation.to_owned());
        let begun = tokio::task::spawn_blocking(move || journal.begin(id, &operation)).await;
        begun.unwrap_or_else(|_| {
            Err(Failure::new(ErrorCode::Internal, "the journal ended by a defect of the agent"))
        })
    }

    fn runs(&self, id: InvocationId) -> bool {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    fn register(&self, id: InvocationId, token: &CancellationToken) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(id, token.clone());
    }

    async fn finish(&self, id: InvocationId, acts: bool, last: &Event) {
        if acts {
            let (journal, last) = (self.0.journal.clone(), last.clone());
            let ended = tokio::task::spawn_blocking(move || journal.end(id, &last)).await;
            if let Ok(Err(failure)) = ended {
                tracing::error!(%failure, "an outcome could not be journalled");
            }
        }
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Runs a probe as a part of another operation, in whose slot and time it is. The host's policy holds for
/// it, too.
///
/// # Errors
/// What keeps it from running, and what it fails with.
pub async fn observe(operation: &str, request: &[u8], cx: Context) -> Result<Outcome, Failure> {
    let spec = Catalogue::bare()
        .get(operation)
        .map_err(|e| Failure::new(ErrorCode::Internal, e.to_string()))?;
    cx.host.policy.operation(&spec.name)?;
    let request = args::from_wire(spec, request)?;
    // An action would only plan.
    let order = Order { mode: Mode::Plan, plan_digest: None };
    let running = Registry::complete().run(&spec.path, request, order, cx);
    running.ok_or_else(|| no_handler(&spec.name))?.await
}

fn no_handler(operation: &str) -> Failure {
    Failure::new(ErrorCode::Internal, format!("{operation} has no handler"))
}

/// Why an operation is made to end.
#[derive(Debug, Clone, Copy)]
enum Why {
    Deadline(Duration),
    Cancelled,
    Stopping,
}

impl Why {
    fn failure(self, operation: &str, acts: bool) -> Failure {
        let failure = match self {
            Self::Deadline(after) => Failure::new(
                ErrorCode::Timeout,
                format!("{operation} was ended after {} s, its deadline", after.as_secs()),
            ),
            Self::Cancelled => {
                Failure::new(ErrorCode::Cancelled, format!("{operation} was cancelled"))
            }
            Self::Stopping => Failure::new(
                ErrorCode::Cancelled,
                format!("{operation} was interrupted: the agent was stopped"),
            ),
        };
        match acts {
            true => failure.hint("look at the host: a part of it may have been carried out"),
            false => match self {
                Self::Deadline(_) => failure.hint("allow more with --timeout"),
                Self::Cancelled => failure,
                Self::Stopping => failure.hint("ask again when the agent is back"),
            },
        }
    }

    /// What an operation says that was made to end. That it was cancelled is what it was told; why,
    /// it does not know.
    fn told(self, said: Failure, operation: &str, acts: bool) -> Failure {
        match (said.code(), self) {
            (ErrorCode::Cancelled, _) => self.failure(operation, acts),
            (ErrorCode::OutcomeUnknown, Self::Stopping) => {
                let message = format!("interrupted, the agent was stopped: {}", said.message);
                Failure { message, ..said }
            }
            _ => said,
        }
    }

    /// As [`Why::failure`], when it did not even say that it ended: of an action nobody knows.
    fn aborted(self, operation: &str, acts: bool) -> Failure {
        let failure = self.failure(operation, acts);
        match acts {
            true => Failure { code: ErrorCode::OutcomeUnknown.into(), ..failure },
            false => failure,
        }
    }
}

/// Waits until an operation has to end. Time in which a slow reader held it back is not its own.
async fn ended(
    deadline: Option<Duration>,
    held_back: &Held,
    cancelled: &CancellationToken,
    stop: &CancellationToken,
) -> Why {
    let passed = async {
        let Some(after) = deadline else { return std::future::pending().await };
        let began = Instant::now();
        loop {
            let own = began.elapsed().saturating_sub(held_back.so_far());
            if own >= after {
                return Why::Deadline(after);
            }
            tokio::time::sleep((after - own).max(BEAT)).await;
        }
    };
    tokio::select! {
        why = passed => why,
        () = cancelled.cancelled() => Why::Cancelled,
        () = stop.cancelled() => Why::Stopping,
    }
}

fn already(id: InvocationId, known: Known) -> Result<Events, Failure> {
    let last = match known {
        Known::Ended(event) => event,
        Known::Running => {
            return Err(Failure::new(
                ErrorCode::Busy,
                format!("invocation {id} already runs here"),
            )
            .hint("wait for its outcome in the audit"));
        }
        Known::Interrupted => {
            let message = format!("the agent ended while invocation {id} ran");
            let failure = Failure::new(ErrorCode::OutcomeUnknown, message);
            Event { event: Some(event::Event::Failure(failure.hint("look at the host"))) }
        }
    };
    let (sender, receiver) = mpsc::channel(1);
    // The channel is new and has room for one.
    let _ = sender.try_send(last);
    Ok(Events { receiver, _gone: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_counts_the_operations_own_time_alone() {
        let (held_back, cancelled) = (Held::default(), CancellationToken::new());
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let reader = async {
            tokio::time::sleep(second).await;
            let waiting = held_back.wait();
            tokio::time::sleep(second * 60).await;
            drop(waiting);
        };
        let stop = CancellationToken::new();
        let why = ended(Some(second * 3), &held_back, &cancelled, &stop);
        let (why, ()) = tokio::join!(why, reader);
        assert!(matches!(why, Why::Deadline(after) if after == second * 3));
        let took = began.elapsed();
        assert!(took >= second * 63 && took < second * 64, "{took:?}");
    }

    #[test]
    fn what_a_stopping_agent_makes_end_says_that_it_was_interrupted() {
        let cancelled = Failure::new(ErrorCode::Cancelled, "cancelled");
        let told = Why::Stopping.told(cancelled.clone(), "disk.tree", false);
        assert_eq!(told.message, "disk.tree was interrupted: the agent was stopped");
        let unknown = Failure::new(ErrorCode::OutcomeUnknown, "its job goes on");
        let told = Why::Stopping.told(unknown.clone(), "systemd.start", true);
        assert_eq!(told.message, "interrupted, the agent was stopped: its job goes on");
        assert_eq!(Why::Cancelled.told(unknown.clone(), "systemd.start", true), unknown);
        let told = Why::Cancelled.told(cancelled, "disk.tree", false);
        assert_eq!((told.message.as_str(), told.hint.as_str()), ("disk.tree was cancelled", ""));
    }
}
