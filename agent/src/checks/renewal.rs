//! The list of checks, made anew while they run: discovery finds more, and what it found before changes
//! or is gone.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Checks, State, definition::Check};

/// What became of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Those that were not there before.
    pub begun: Vec<String>,
    /// Those that are there no more.
    pub ended: Vec<String>,
}

impl Checks {
    /// From now on these are the checks, and no others. One that changed runs as it is now, and stands as
    /// it did.
    pub fn renew(
        &self,
        checks: Vec<Check>,
        tasks: &TaskTracker,
        seed: &str,
        stop: &CancellationToken,
    ) -> Renewed {
        let mut renewed = Renewed::default();
        let mut anew = Vec::new();
        let mut state = self.state();
        let before = std::mem::take(&mut state.checks);
        for check in checks {
            let there = before.iter().find(|there| there.name == check.name);
            if let Some(same) = there.filter(|there| ***there == check) {
                state.checks.push(Arc::clone(same));
                continue;
            }
            match there {
                Some(_) => state.end(check.name.as_str()),
                None => renewed.begun.push(check.name.to_string()),
            }
            let check = Arc::new(check);
            state.checks.push(Arc::clone(&check));
            anew.push(check);
        }
        for gone in before {
            if !state.checks.iter().any(|check| check.name == gone.name) {
                let name = gone.name.to_string();
                state.end(&name);
                state.memory.courses.remove(&name);
                state.memory.said.remove(&name);
                state.seen.remove(&name);
                renewed.ended.push(name);
            }
        }
        if !anew.is_empty() || !renewed.ended.is_empty() {
            state.renewals += 1;
            self.0.unsaved.notify_one();
        }
        drop(state);
        anew.into_iter().for_each(|check| self.begin(check, tasks, seed, stop));
        renewed
    }
}

impl State {
    fn end(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.end.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hostler_proto::wire::{HealthReport, HealthRequest};
    use tokio::sync::mpsc;

    use super::*;
    use crate::checks::{
        course::Health,
        tests::{absent, checks, until},
    };

    const OFTEN: Duration = Duration::from_secs(2);

    fn list(names: &[&str]) -> Vec<Check> {
        names.iter().map(|name| absent(name, OFTEN, OFTEN)).collect()
    }

    fn names(report: &HealthReport) -> Vec<&str> {
        report.checks.iter().map(|check| check.check.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_begins_what_is_gone_ends_and_what_is_the_same_goes_on() {
        let directory = tempfile::tempdir().expect("directory");
        let checks = checks(directory.path(), list(&["a", "b"]), Vec::new());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        checks.start(&tasks, "web-1", &stop);
        until(&|| checks.ran("a") > 0 && checks.ran("b") > 0).await;
        let before = checks.ran("a");
        let renewed = checks.renew(list(&["a", "c"]), &tasks, "web-1", &stop);
        assert_eq!((renewed.begun, renewed.ended), (vec!["c".to_owned()], vec!["b".to_owned()]));
        assert_eq!(checks.renew(list(&["a", "c"]), &tasks, "web-1", &stop), Renewed::default());
        until(&|| checks.ran("a") > before && checks.ran("c") > 0).await;
        assert_eq!(checks.ran("b"), 0, "forgotten, and it ran no more");
        assert_eq!(names(&checks.report(0, 0, true).0), ["a", "c"]);
        assert!(!checks.state().memory.courses.contains_key("b"));
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_changed_stands_as_it_did_and_runs_as_it_is_now() {
        let directory = tempfile::tempdir().expect("directory");
        let day = Duration::from_secs(86_400);
        let slow = vec![absent("units", day, day)];
        let checks = checks(directory.path(), slow, Vec::new());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        checks.start(&tasks, "web-1", &stop);
        until(&|| checks.ran("units") > 0).await;
        let renewed = checks.renew(list(&["units"]), &tasks, "web-1", &stop);
        assert_eq!(renewed, Renewed::default());
        until(&|| checks.ran("units") == 3).await;
        let course = checks.state().memory.courses["units"].clone();
        assert_eq!(course.hard, Health::Unknown, "the third bad result, of both together");
        assert_eq!(checks.state().checks.len(), 1);
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_listens_is_told_at_once_which_checks_are_there_now() {
        let directory = tempfile::tempdir().expect("directory");
        let checks = checks(directory.path(), list(&["a", "b"]), Vec::new());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        checks.start(&tasks, "web-1", &stop);
        let (reports, mut told) = mpsc::channel(8);
        let telling = checks.clone();
        tasks.spawn(async move { telling.tell(HealthRequest::default(), reports).await });
        let first = told.recv().await.expect("a report");
        assert_eq!((first.whole, names(&first)), (true, vec!["a", "b"]));
        checks.renew(list(&["b", "c"]), &tasks, "web-1", &stop);
        let mut next = told.recv().await.expect("a report");
        // What was under way may come before it.
        for _ in 0..2 {
            if !next.whole {
                next = told.recv().await.expect("a report");
            }
        }
        assert_eq!((next.whole, names(&next)), (true, vec!["b", "c"]));
        stop.cancel();
    }
}
