//! The probes that the agent runs by itself, at their own intervals, controller or not.
//!
//! - [`definition`]: which checks there are; [`possible`]: what a stack file names that can never work
//! - [`course`]: soft and hard states
//! - [`renewal`]: the list made anew while they run
//! - [`timing`]: when a check runs next
//! - [`memory`]: what survives a restart; [`report`]: what controllers are told
//!
//! A check runs through the same dispatch as a controller's request, so the host's policy holds.

pub mod course;
pub mod definition;
mod memory;
pub mod possible;
mod renewal;
mod report;
mod timing;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hostler_core::{
    call::{Call, Mode},
    clock::{Clock, InvocationId},
};
use hostler_proto::wire::{ErrorCode, Failure, Figure, Finding, event};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    course::{Course, Health},
    definition::Check,
    memory::{Memory, Words},
};
pub use self::{memory::MemoryError, renewal::Renewed};
use crate::{
    amount,
    dispatch::Dispatcher,
    host::lingering::{Left, Lingering},
    operation::severity,
    ops::systemd::host_stopping,
    order::Order as _,
};

/// Checks that run at the same time; the others wait.
const CONCURRENT: usize = 4;
/// How long a check holds the others up: what hangs, as on a network mount whose server is gone, gives its
/// slot back then and hangs by itself. None runs twice at a time, so their number is a bound still.
const HOLDS_UP: Duration = Duration::from_secs(12);
/// What may take minutes runs programs and reads files, as many at a time as memory and disk can bear...
const HEAVY: usize = 2;
/// ... by its deadline it is told apart...
const MINUTES: Duration = Duration::from_secs(300);
/// ... and it holds up others of its kind alone, but not for as long as its deadline.
const HOLDS_UP_HEAVY: Duration = Duration::from_secs(120);
/// How long what was given up may take to end, before it is said to hang.
const LETTING_GO: Duration = Duration::from_secs(2);
/// First runs are spread over this, or over the interval when that is shorter.
const SETTLE: Duration = Duration::from_secs(15);
/// Findings of a check that are told.
const FINDINGS: usize = 5;
/// Figures of a check that are told.
const FIGURES: usize = 64;
/// Longest summary that is kept, in characters.
const SUMMARY: usize = 500;

/// The checks of this host. A clone is the same ones.
#[derive(Debug, Clone)]
pub struct Checks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    state: Mutex<State>,
    slots: Semaphore,
    heavy: Semaphore,
    /// Something is to be saved.
    unsaved: Notify,
    /// Number of the last turn that is saved, and may be told.
    saved: watch::Sender<u64>,
    leaving: CancellationToken,
    /// The whole host goes down, and the agent with it.
    host_stopping: AtomicBool,
}

#[derive(Debug)]
struct State {
    checks: Vec<Arc<Check>>,
    /// How often the list was made anew.
    renewals: u64,
    /// What each check that runs can be told.
    running: BTreeMap<String, Running>,
    memory: Memory,
    /// What is left of the runs of each check, also where it is another one meanwhile.
    left: BTreeMap<String, Lingering>,
    /// The last result of each check that ran since the start.
    seen: BTreeMap<String, Seen>,
    /// Counts up with every result.
    runs: u64,
}

/// A check that runs at its intervals.
#[derive(Debug)]
struct Running {
    end: CancellationToken,
    /// Something that it needs has recovered.
    soon: Arc<Notify>,
}

/// A result.
#[derive(Debug, Clone)]
struct Seen {
    /// The count of results when it came.
    run: u64,
    at_us: i64,
    summary: String,
    findings: Vec<Finding>,
    figures: Vec<Figure>,
}

/// What a run saw.
#[derive(Debug)]
struct Result {
    health: Health,
    summary: String,
    findings: Vec<Finding>,
    figures: Vec<Figure>,
}

impl Checks {
    /// Remembers what was before, and forgets checks that are no longer there. A memory that cannot be
    /// written keeps nothing from being checked: that the disk is full is what people are to hear.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn new(
        checks: Vec<Check>,
        dispatcher: Dispatcher,
        path: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, MemoryError> {
        let mut memory = Memory::open(&path, &*clock)?;
        let there = |name: &String| checks.iter().any(|c| c.name.as_str() == name);
        memory.courses.retain(|name, _| there(name));
        memory.said.retain(|name, _| there(name));
        if let Err(error) = memory.save(&path) {
            tracing::error!("{error}; turns of checks may be lost at a restart");
        }
        let saved = watch::Sender::new(memory.last());
        let checks = checks.into_iter().map(Arc::new).collect();
        let (running, left, seen) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let state = Mutex::new(State { checks, renewals: 0, running, left, memory, seen, runs: 0 });
        let inner = Inner {
            dispatcher,
            clock,
            path,
            state,
            slots: Semaphore::new(CONCURRENT),
            heavy: Semaphore::new(HEAVY),
            unsaved: Notify::new(),
            saved,
            leaving: CancellationToken::new(),
            host_stopping: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Begins to run them, until `stop`; `seed` spreads them differently on every host.
    pub fn start(&self, tasks: &TaskTracker, seed: &str, stop: &CancellationToken) {
        let checks = self.state().checks.clone();
        checks.into_iter().for_each(|check| self.begin(check, tasks, seed, stop));
        let (this, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = this.0.unsaved.notified() => this.save().await,
                    () = stop.cancelled() => break,
                }
            }
            let (stopping, ()) = tokio::join!(host_stopping(), this.save());
            this.0.host_stopping.store(stopping, Ordering::Relaxed);
            this.0.leaving.cancel();
        });
    }

    /// Waits until it is stopped; whether that is with its whole host.
    pub async fn stopped_with_host(&self) -> bool {
        self.0.leaving.cancelled().await;
        self.0.host_stopping.load(Ordering::Relaxed)
    }

    fn begin(&self, check: Arc<Check>, tasks: &TaskTracker, seed: &str, stop: &CancellationToken) {
        let (this, stop, seed) = (self.clone(), stop.child_token(), seed.to_owned());
        let soon = Arc::new(Notify::new());
        let running = Running { end: stop.clone(), soon: Arc::clone(&soon) };
        self.state().running.insert(check.name.to_string(), running);
        tasks.spawn(async move {
            tokio::select! {
                // Of a check that was ended no result counts.
                biased;
                () = stop.cancelled() => {}
                () = this.keep_checking(&check, &seed, &soon) => {}
            }
        });
    }

    async fn keep_checking(&self, check: &Check, seed: &str, soon: &Notify) {
        let mut hasher = DefaultHasher::new();
        (seed, check.name.as_str()).hash(&mut hasher);
        let spread = SETTLE.min(check.pace.interval);
        let spread = spread.mul_f64(f64::from(hasher.finish() as u32) / f64::from(u32::MAX));
        let mut due = Instant::now() + spread;
        let left = self.state().left.entry(check.name.to_string()).or_default().clone();
        loop {
            due = self.until_due(check, due, spread, soon).await;
            let (slots, holds_up) = match check.deadline >= MINUTES {
                true => (&self.0.heavy, HOLDS_UP_HEAVY),
                false => (&self.0.slots, HOLDS_UP),
            };
            let Ok(slot) = slots.acquire().await else { return };
            let running = self.run(check, &left);
            tokio::pin!(running);
            let result = tokio::time::timeout(holds_up, &mut running).await;
            drop(slot);
            let result = match result {
                Ok(result) => result,
                Err(_) => running.await,
            };
            let wait = self.take(check, result);
            // A run that took longer than the interval does not make the next ones pile up.
            due = (due + wait).max(Instant::now());
        }
    }

    /// Runs a check once, unless something of a run before hangs still: each would add its thread, or its
    /// program, until the agent may have no more.
    async fn run(&self, check: &Check, left: &Lingering) -> Result {
        if let Some(left) = left.after(LETTING_GO).await {
            return Result::unmeasured(&hangs(check, &left));
        }
        let call = Call {
            invocation: InvocationId::new(&*self.0.clock),
            mode: Mode::Apply,
            plan_digest: None,
            operator: String::new(),
            timeout: None,
        };
        let begun = self.0.dispatcher.run_own(&check.path, check.request.clone(), call, left).await;
        let mut events = match begun {
            Ok(events) => events,
            Err(failure) => return Result::unmeasured(&failure),
        };
        let mut last = None;
        while let Some(event) = events.next().await {
            last = event.event;
        }
        match last {
            Some(event::Event::Outcome(outcome)) => {
                let health = outcome.status().into();
                let mut findings = outcome.findings;
                findings.order_by_key(|f| std::cmp::Reverse(severity(f.status())));
                findings.truncate(FINDINGS);
                let mut figures = outcome.figures;
                figures.truncate(FIGURES);
                Result { health, summary: outcome.summary, findings, figures }
            }
            Some(event::Event::Failure(failure)) => Result::unmeasured(&failure),
            _ => {
                Result::unmeasured(&Failure::new(ErrorCode::Internal, "it ended without a result"))
            }
        }
    }

    /// Takes a result into account; how long it is waited for the next one.
    fn take(&self, check: &Check, result: Result) -> Duration {
        let now = self.0.clock.now().as_microsecond();
        let mut state = self.state();
        let name = check.name.to_string();
        let Result { health, summary, findings, figures } = result;
        let summary: String = summary.chars().take(SUMMARY).collect();
        let course = state.memory.courses.entry(name.clone()).or_insert_with(|| Course::new(now));
        let before = course.now;
        let turn = course.take(health, check.pace.attempts, now);
        let wait = timing::next(check.pace, course);
        let stands = course.hard == health && health != Health::Ok;
        match stands {
            true => state.memory.said.insert(name.clone(), Words::new(&summary, &findings)),
            false if health == Health::Ok => state.memory.said.remove(&name),
            // What is told is still what was found before.
            false => None,
        };
        if let Some(turn) = turn {
            state.memory.note(&name, turn, now, &summary);
        }
        if turn.is_some() || !state.seen.contains_key(&name) {
            self.0.unsaved.notify_one();
        }
        state.runs += 1;
        let run = state.runs;
        if timing::recovered(before, health) {
            state.look_again_after(&name);
        }
        state.seen.insert(name, Seen { run, at_us: now, summary, findings, figures });
        wait
    }

    /// Saves the memory; what is saved may be told.
    async fn save(&self) {
        let (memory, path) = (self.state().memory.clone(), self.0.path.clone());
        let last = memory.last();
        match tokio::task::spawn_blocking(move || memory.save(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("{error}; turns of checks may be lost at a restart"),
            Err(_) => tracing::error!("saving the checks ended by a defect of the agent"),
        }
        // A full disk must not keep people from hearing of it.
        self.0.saved.send_replace(last);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Result {
    fn unmeasured(failure: &Failure) -> Self {
        let hint = match failure.hint.as_str() {
            "" => String::new(),
            hint => format!(" ({hint})"),
        };
        let summary = format!("{}{hint}", failure.message);
        Self { health: Health::Unknown, summary, findings: Vec::new(), figures: Vec::new() }
    }
}

fn hangs(check: &Check, left: &Left) -> Failure {
    let message = format!(
        "a run of {} {} ago hangs still in {}, which cannot be ended",
        check.operation,
        amount::span(left.since.elapsed().as_secs_f64()),
        left.what
    );
    Failure::new(ErrorCode::HostFault, message)
        .hint("disk usage tells a file system that does not answer; this runs again when it does")
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
