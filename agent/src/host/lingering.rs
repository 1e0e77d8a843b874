//! What is left of a run that was given up: a thread that waits for a file system which does not answer, or a
//! program that cannot even be killed, since it waits for the same. Neither can be ended. Who runs something
//! again and again asks here first, and lets no second one come to it.
//!
//! `disk.usage` keeps count of what it asks by itself: it is to tell of such a file system, each time anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, test_kill_process_group};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::processes;

/// How often it is looked whether something is over, at first and at last.
const FIRST: Duration = Duration::from_millis(10);
const LAST: Duration = Duration::from_secs(1);

tokio::task_local! {
    static RUN: Lingering;
}

/// The runs of one kind, and what is left of them. A clone is the same ones.
#[derive(Debug, Clone, Default)]
pub struct Lingering(Arc<Mutex<Runs>>);

#[derive(Debug, Default)]
struct Runs {
    next: u64,
    left: BTreeMap<u64, Left>,
}

/// Something that is under way, or hangs.
#[derive(Debug, Clone)]
pub struct Left {
    /// For people: what of the machine it is.
    pub what: String,
    /// When it began.
    pub since: Instant,
}

/// It is under way for as long as this lives.
#[derive(Debug)]
pub struct UnderWay {
    runs: Lingering,
    number: u64,
}

impl Lingering {
    /// Runs this as one of them: what it leaves behind is known here.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        RUN.scope(self.clone(), work).await
    }

    /// What is left of them the longest, once `patience` is over: what was just killed takes a moment to end.
    pub async fn after(&self, patience: Duration) -> Option<Left> {
        let (began, mut wait) = (Instant::now(), FIRST);
        loop {
            let oldest = self.runs().left.values().next().cloned();
            if oldest.is_none() || began.elapsed() >= patience {
                return oldest;
            }
            sleep(wait).await;
            wait = (wait * 2).min(LAST);
        }
    }

    /// For what this run begins and may leave behind; none where nobody asks.
    pub(super) fn here(what: impl FnOnce() -> String) -> Option<UnderWay> {
        let runs = RUN.try_with(Self::clone).ok()?;
        Some(runs.begin(what()))
    }

    /// Counts something that begins.
    pub fn begin(&self, what: String) -> UnderWay {
        let mut runs = self.runs();
        let number = runs.next;
        runs.next += 1;
        runs.left.insert(number, Left { what, since: Instant::now() });
        UnderWay { runs: self.clone(), number }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Keeps this until nothing runs any more in a group that was killed. Zombies do not run: in a container
    /// there may be nobody who takes them in.
    pub(super) fn until_gone(self, group: Pid) {
        // Without a runtime nothing is run again either.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut wait = FIRST;
            let runs = move || processes::any_in_group(group.as_raw_pid());
            while test_kill_process_group(group).is_ok()
                && tokio::task::spawn_blocking(runs).await.unwrap_or(false)
            {
                sleep(wait).await;
                wait = (wait * 2).min(LAST);
            }
            drop(self);
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.runs.runs().left.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::host::{
        blocking,
        exec::{Line, Program},
    };

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_thread_that_was_given_up_is_left_until_it_ends() {
        let left = Lingering::default();
        let (go, wait) = mpsc::channel::<()>();
        let hanging = left.run(blocking(move || Ok(wait.recv().is_ok())));
        assert!(tokio::time::timeout(SHORT, hanging).await.is_err());
        assert!(left.after(SHORT).await.is_some());
        assert!(
            Lingering::default().after(SHORT).await.is_none(),
            "that of others is none of this"
        );
        go.send(()).expect("it waits");
        assert!(left.after(LONG).await.is_none());
    }

    #[tokio::test]
    async fn a_program_that_was_given_up_is_left_until_it_is_gone() {
        let left = Lingering::default();
        let program = Program::new("/bin/sleep").arg("300");
        let mut running = left.run(async { program.start() }).await.expect("run");
        assert!(tokio::time::timeout(SHORT, running.line()).await.is_err());
        let seen = left.after(Duration::ZERO).await.expect("it runs");
        assert!(seen.what.starts_with("/bin/sleep, process "), "{seen:?}");
        drop(running);
        assert!(left.after(LONG).await.is_none());
    }

    #[tokio::test]
    async fn what_a_program_left_in_its_group_is_left_until_it_is_gone() {
        let left = Lingering::default();
        let program = Program::new("/bin/sh").arg("-c").arg("sleep 300 & echo $!");
        let mut running = left.run(async { program.start() }).await.expect("run");
        let Ok(Some(Line::Text(_))) = running.line().await else { panic!("no line") };
        running.ended().await.expect("ended");
        assert!(left.after(LONG).await.is_none(), "it was killed with its group");
    }
}
