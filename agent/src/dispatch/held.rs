//! Time in which an operation was held back by a reader that did not keep up. A deadline bounds the
//! operation, not whoever pages through what it says.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long one operation was held back. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    since: Option<Instant>,
    before: Duration,
}

/// It is held back for as long as this lives.
#[derive(Debug)]
pub struct Waiting(Held);

impl Held {
    /// Counts from now on.
    pub fn wait(&self) -> Waiting {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        state.since.get_or_insert_with(Instant::now);
        Waiting(self.clone())
    }

    /// How long that was so far.
    pub fn so_far(&self) -> Duration {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.before + state.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting = state.waiting.saturating_sub(1);
        if state.waiting == 0 {
            let waited = state.since.take().map(|since| since.elapsed());
            state.before += waited.unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_that_overlap_count_once_and_time_between_them_does_not() {
        let held = Held::default();
        let second = Duration::from_secs(1);
        let (first, other) = (held.wait(), held.wait());
        tokio::time::sleep(second).await;
        drop(first);
        tokio::time::sleep(second).await;
        assert_eq!(held.so_far(), second * 2);
        drop(other);
        tokio::time::sleep(second).await;
        let _last = held.wait();
        tokio::time::sleep(second).await;
        assert_eq!(held.so_far(), second * 3);
    }
}
