//! When a check runs next: at its interval, and sooner while it stands badly or where what it needs has
//! recovered. Otherwise what is looked at once a day would stand badly for a day after its cause is gone.

use std::time::Duration;

use tokio::{sync::Notify, time::Instant};

use super::{
    Checks, State,
    course::{Course, Health},
    definition::Check,
};
use crate::stack::Pace;

/// What stands badly is looked at again this often, where its interval is longer...
const BAD: Duration = Duration::from_secs(300);
/// ... but not more often than so many times an interval: what is looked at once a day costs more.
const TIMES: u32 = 24;

/// How long it is waited after a result.
pub(super) fn next(pace: Pace, course: &Course) -> Duration {
    let Pace { interval, retry, .. } = pace;
    match course.hard {
        _ if course.soft() => retry,
        Health::Ok => interval,
        _ => interval.min(retry.max(BAD).max(interval / TIMES)),
    }
}

/// Whether what needs it can work again.
pub(super) fn recovered(before: Health, now: Health) -> bool {
    let serves = |health| matches!(health, Health::Ok | Health::Warning);
    !serves(before) && serves(now)
}

impl Checks {
    /// Waits until a check is due. It is `spread` after something that it needs has recovered, where it was
    /// not well.
    pub(super) async fn until_due(
        &self,
        check: &Check,
        mut due: Instant,
        spread: Duration,
        soon: &Notify,
    ) -> Instant {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return due,
                () = soon.notified() => if self.state().is_bad(check.name.as_str()) {
                    due = due.min(Instant::now() + spread);
                }
            }
        }
    }
}

impl State {
    /// Tells the checks that need one that it has recovered.
    pub(super) fn look_again_after(&self, recovered: &str) {
        let needs = |check: &Check| check.after.iter().any(|name| name == recovered);
        for check in self.checks.iter().filter(|check| needs(check)) {
            if let Some(running) = self.running.get(check.name.as_str()) {
                running.soon.notify_one();
            }
        }
    }

    fn is_bad(&self, name: &str) -> bool {
        self.memory.courses.get(name).is_some_and(|course| course.now != Health::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_badly_is_looked_at_sooner_than_its_interval_as_far_as_it_can_bear() {
        let wait = |interval: u64, retry: u64, results: &[Health]| {
            let (interval, retry) = (Duration::from_secs(interval), Duration::from_secs(retry));
            let mut course = Course::new(0);
            for result in results {
                course.take(*result, 2, 0);
            }
            next(Pace { interval, retry, attempts: 2 }, &course).as_secs()
        };
        let (soft, hard) = ([Health::Unknown], [Health::Unknown; 2]);
        let (hour, day) = (3600, 86_400);
        for (interval, retry, results, expected) in [
            (60, 20, &hard[..], 60),
            (900, 20, &hard, 300),
            (hour, 20, &hard, 300),
            (hour, 900, &hard, 900),
            (day, 900, &hard, hour),
            (60, 300, &hard, 60),
            (day, 900, &soft, 900),
            (day, 900, &[Health::Ok], day),
        ] {
            assert_eq!(wait(interval, retry, results), expected, "{interval} {retry} {results:?}");
        }
    }

    #[test]
    fn what_serves_again_has_recovered_and_what_only_gets_better_has_not() {
        use Health::{Critical, Ok, Unknown, Warning};
        for (before, now) in [(Critical, Ok), (Unknown, Ok), (Critical, Warning)] {
            assert!(recovered(before, now), "{before:?} {now:?}");
        }
        for (before, now) in [(Warning, Ok), (Critical, Unknown), (Ok, Warning), (Ok, Ok)] {
            assert!(!recovered(before, now), "{before:?} {now:?}");
        }
    }
}
