//! Queues whose workers have taken tasks and begin none for a while, as a `rate_limit` makes them: that
//! is no worker that takes nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use hostler_proto::wire::{Finding, Status};
use serde_json::Value;

use super::{pidbox::Answers, text};
use crate::bounds::{Bound, Bounds};

/// Seconds without a task that was begun that no rate explains; slower ones have twice the time between two
/// of their tasks.
const LONG_S: f64 = 600.0;
/// Applications that are remembered.
const APPS: usize = 64;

/// How many tasks an application's workers had begun when that was first seen to stand still, and when. It
/// lasts as long as the agent runs.
static BEGUN: Mutex<BTreeMap<String, (u64, i64)>> = Mutex::new(BTreeMap::new());

/// What workers hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// The queues that it was taken from.
    queues: Vec<String>,
    /// Seconds between two tasks of the slowest rate.
    slowest_s: f64,
}

/// The same, and for how long nothing of it was begun.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limited {
    held: Held,
    still_s: f64,
}

/// Takes those that a worker has taken tasks from away from queues that nobody seems to empty. Tasks
/// that wait for their rate are not among the reserved ones; they are where a task has a rate, and
/// some are taken and not finished.
pub(super) fn apart(
    idle: Vec<String>,
    queues: &Answers,
    reserved: &Answers,
    registered: &Answers,
    taken: u64,
) -> (Vec<String>, Option<Held>) {
    let mut slowest_s = 0.0_f64;
    let mut holds = |worker: &String| {
        let reserves = reserved.by_worker.get(worker).and_then(Value::as_array);
        let rate = registered.by_worker.get(worker).and_then(slowest).filter(|_| taken > 0);
        slowest_s = slowest_s.max(rate.unwrap_or(0.0));
        reserves.is_some_and(|tasks| !tasks.is_empty()) || rate.is_some()
    };
    let (held, stuck): (Vec<_>, Vec<_>) = idle.into_iter().partition(|queue| {
        let takes = |told: &Value| {
            told.as_array().into_iter().flatten().any(|one| text(one, "name") == *queue)
        };
        let workers = queues.by_worker.iter().filter(|(_, told)| takes(told));
        // Every one of them is looked at: the slowest rate counts.
        workers.filter(|(worker, _)| holds(worker)).count() > 0
    });
    (stuck, (!held.is_empty()).then_some(Held { queues: held, slowest_s }))
}

/// Seconds between two tasks of the slowest rate of a worker's tasks, which it tells as
/// `name [rate_limit=6/m]`.
fn slowest(registered: &Value) -> Option<f64> {
    let rates = registered.as_array()?.iter().filter_map(|task| {
        let (_, rate) = task.as_str()?.split_once("[rate_limit=")?;
        let rate = rate.split([']', ' ']).next()?;
        let (count, per) = rate.split_once('/').unwrap_or((rate, "s"));
        let unit = match per {
            "m" => 60.0,
            "h" => 3600.0,
            _ => 1.0,
        };
        let count: f64 = count.parse().ok()?;
        (count > 0.0).then_some(unit / count)
    });
    rates.reduce(f64::max)
}

/// For how long an application's workers have begun nothing, `done` being all that they ever began; `now`
/// in seconds since 1970.
pub(super) fn remembered(app: &str, held: Held, done: u64, now: i64) -> Limited {
    let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    let since = match begun.get(app) {
        Some((before, since)) if *before == done => *since,
        _ => {
            if begun.len() >= APPS {
                begun.pop_first();
            }
            begun.insert(app.to_owned(), (done, now));
            now
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds of an agent's life")]
    let still_s = now.saturating_sub(since).max(0) as f64;
    Limited { held, still_s }
}

impl Limited {
    /// That it lasts longer than any rate explains.
    pub(super) fn finding(&self, app: &str) -> Option<Finding> {
        let bound = LONG_S.max(self.held.slowest_s * 2.0);
        if self.still_s < bound {
            return None;
        }
        let (queues, minutes) = (self.held.queues.join(", "), self.still_s / 60.0);
        let summary =
            format!("tasks wait in {queues}, and for {minutes:.0} min no worker has begun one");
        let finding = Finding::new(Status::Warning, app, summary)
            .why("the workers hold tasks that they took, for longer than a rate limit explains")
            .next(format!("celery stats {app}"));
        let bounds = Bounds::warning(Bound::fixed(bound), "");
        Some(bounds.told(finding, self.still_s, "s"))
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues = self.held.queues.join(", ");
        write!(
            f,
            "tasks wait in {queues}: its workers hold some, and begin no more than a rate limit \
             lets them"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn answers(by_worker: &[(&str, Value)]) -> Answers {
        let by_worker: BTreeMap<_, _> =
            by_worker.iter().map(|(name, answer)| ((*name).to_owned(), answer.clone())).collect();
        let answered = by_worker.len();
        Answers { subscribed: answered, answered, by_worker, took: Duration::ZERO }
    }

    #[test]
    fn a_worker_that_holds_tasks_is_not_one_that_takes_none() {
        let queues =
            answers(&[("w@1", json!([{ "name": "a" }])), ("w@2", json!([{ "name": "b" }]))]);
        let of = |reserved: &[(&str, Value)], registered: &[(&str, Value)], taken| {
            let idle = vec!["a".to_owned(), "b".to_owned()];
            let (stuck, held) =
                apart(idle, &queues, &answers(reserved), &answers(registered), taken);
            (stuck.join(" "), held.map(|held| (held.queues.join(" "), held.slowest_s)))
        };
        let free = json!(["t.x", "t.y [rate_limit=0]"]);
        let slow = json!(["t.x [rate_limit=6/m]", "t.y [rate_limit=10]", "t.z"]);
        assert_eq!(of(&[], &[("w@1", free.clone())], 9), ("a b".into(), None));
        let limited = Some(("a".to_owned(), 10.0));
        assert_eq!(of(&[], &[("w@1", slow.clone()), ("w@2", free)], 1), ("b".into(), limited));
        assert_eq!(of(&[], &[("w@1", slow)], 0), ("a b".into(), None), "nothing is taken");
        let reserves = [("w@1", json!([])), ("w@2", json!([{ "id": "1" }]))];
        assert_eq!(of(&reserves, &[], 1), ("a".into(), Some(("b".to_owned(), 0.0))));
    }

    #[test]
    fn tasks_that_are_held_are_a_warning_when_no_rate_explains_it_any_more() {
        let held = |slowest_s| Held { queues: vec!["celery".into()], slowest_s };
        let status = |slowest_s, done, now| {
            let limited = remembered("held", held(slowest_s), done, now);
            limited.finding("held").map(|f| f.status())
        };
        assert_eq!(status(10.0, 5, 1000), None);
        assert_eq!(status(10.0, 5, 1599), None);
        assert_eq!(status(10.0, 5, 1600), Some(Status::Warning));
        assert_eq!(status(3600.0, 5, 1600), None, "one an hour");
        assert_eq!(status(10.0, 6, 1601), None, "one was begun");
        assert_eq!(status(10.0, 6, 2201), Some(Status::Warning));
    }
}
