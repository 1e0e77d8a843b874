//! The requests that are under way, so that one can be ended before it has reached every host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_core::{clock::InvocationId, identity::PrincipalName};
use tokio_util::sync::CancellationToken;

/// All requests under way. A clone is the same set.
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<Mutex<HashMap<InvocationId, Run>>>);

#[derive(Debug)]
struct Run {
    operator: PrincipalName,
    stop: CancellationToken,
}

/// A request under way; it is no longer one when this is dropped.
#[derive(Debug)]
pub struct Running {
    runs: Runs,
    id: InvocationId,
    /// No further host is asked once it is cancelled.
    pub stop: CancellationToken,
}

impl Runs {
    /// Counts a request; none when one with this id is under way already.
    pub fn begin(&self, id: InvocationId, operator: PrincipalName) -> Option<Running> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.contains_key(&id) {
            return None;
        }
        let stop = CancellationToken::new();
        runs.insert(id, Run { operator, stop: stop.clone() });
        Some(Running { runs: self.clone(), id, stop })
    }

    /// Lets a request begin on no further host, when the operator fits.
    pub fn stop(&self, id: InvocationId, fits: impl FnOnce(&PrincipalName) -> bool) {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = runs.get(&id).filter(|run| fits(&run.operator)) {
            run.stop.cancel();
        }
    }

    /// Lets no request of an operator begin on any further host.
    pub fn stop_all_of(&self, operator: &PrincipalName) {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.values().filter(|run| run.operator == *operator).for_each(|run| run.stop.cancel());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::SystemClock;

    use super::*;

    #[test]
    fn a_request_is_stopped_by_its_id_or_with_its_operator_and_its_id_is_free_after_it() {
        let runs = Runs::default();
        let id = || InvocationId::new(&SystemClock);
        let (alice, bob): (PrincipalName, PrincipalName) =
            ("alice".parse().expect("name"), "bob".parse().expect("name"));
        let (first, second) = (id(), id());
        let a = runs.begin(first, alice.clone()).expect("new");
        let b = runs.begin(second, bob).expect("new");
        assert!(runs.begin(first, alice.clone()).is_none());
        runs.stop(second, |operator| *operator == alice);
        assert!(!b.stop.is_cancelled());
        runs.stop(second, |_| true);
        runs.stop_all_of(&alice);
        assert!(a.stop.is_cancelled() && b.stop.is_cancelled());
        drop(a);
        assert!(runs.begin(first, alice).is_some());
    }
}
