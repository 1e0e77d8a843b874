//! Which looks are new: who watches the fleet asks every other second, and one record a minute tells
//! that as well.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::Entry;

/// For so long the same look of the same principal is one with the one that was recorded.
const AGAIN_US: i64 = 60_000_000;
/// Looks that are kept in mind. Beyond them each is recorded.
const MEMORY: usize = 4096;

/// Who looked at what.
type Look = (String, String, String);

/// The looks of the last minute, with when they were recorded.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<HashMap<Look, i64>>);

impl Looks {
    /// Whether this look is to be recorded.
    pub(super) fn is_new(&self, entry: &Entry, now_us: i64) -> bool {
        let look = (entry.principal.clone(), entry.operation.clone(), entry.subject.clone());
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes nothing look recent for ever.
        let recent = |at: i64| (0..AGAIN_US).contains(&now_us.saturating_sub(at));
        if looks.get(&look).is_some_and(|at| recent(*at)) {
            return false;
        }
        if looks.len() >= MEMORY {
            looks.retain(|_, at| recent(*at));
        }
        if looks.len() < MEMORY {
            looks.insert(look, now_us);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(operation: &str, subject: &str) -> Entry {
        let (principal, operation) = ("operator/a".to_owned(), operation.to_owned());
        Entry { principal, operation, subject: subject.to_owned(), ..Entry::default() }
    }

    #[test]
    fn who_watches_is_recorded_once_a_minute_and_who_looks_elsewhere_at_once() {
        let looks = Looks::default();
        let status = look("fleet.status", "");
        assert!(looks.is_new(&status, 0));
        assert!(!looks.is_new(&status, AGAIN_US - 1));
        assert!(looks.is_new(&status, AGAIN_US));
        assert!(looks.is_new(&look("health.host", "web-1"), AGAIN_US));
        assert!(looks.is_new(&look("health.host", "web-2"), AGAIN_US));
        let other = Entry { principal: "operator/b".to_owned(), ..status };
        assert!(looks.is_new(&other, AGAIN_US));
    }

    #[test]
    fn a_clock_that_is_set_back_hides_no_look() {
        let looks = Looks::default();
        assert!(looks.is_new(&look("fleet.status", ""), 1_000 * AGAIN_US));
        assert!(looks.is_new(&look("fleet.status", ""), 0));
    }

    #[test]
    fn more_looks_than_can_be_kept_in_mind_are_all_recorded() {
        let looks = Looks::default();
        for host in 0..2 * MEMORY {
            assert!(looks.is_new(&look("health.host", &host.to_string()), 0));
        }
        assert!(looks.0.lock().expect("looks").len() <= MEMORY);
        assert!(looks.is_new(&look("health.host", "later"), AGAIN_US));
        assert!(!looks.is_new(&look("health.host", "later"), AGAIN_US));
    }
}
