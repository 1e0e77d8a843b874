//! The course of one check: soft and hard states, attempts, flapping. Pure; time comes from outside.

use std::collections::VecDeque;

use hostler_proto::wire::Status;
use serde::{Deserialize, Serialize};

/// Results by which flapping is judged: 20 possible changes, as Nagios does it.
const REMEMBERED: usize = 21;
/// Weighted share of changes from which a check flaps, and below which it no longer does.
const FLAPPING: (f64, f64) = (0.30, 0.25);

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing to do.
    Ok,
    /// Somebody should look.
    Warning,
    /// Somebody must look.
    Critical,
    /// It could not be measured.
    Unknown,
}

impl Health {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Status> for Health {
    fn from(status: Status) -> Self {
        match status {
            // What only reports has nothing to complain about.
            Status::Unspecified | Status::Ok => Self::Ok,
            Status::Warning => Self::Warning,
            Status::Critical => Self::Critical,
            Status::Unknown => Self::Unknown,
        }
    }
}

impl From<Health> for Status {
    fn from(health: Health) -> Self {
        match health {
            Health::Ok => Self::Ok,
            Health::Warning => Self::Warning,
            Health::Critical => Self::Critical,
            Health::Unknown => Self::Unknown,
        }
    }
}

/// Where a check stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// Its last result.
    pub now: Health,
    /// Its hard state: what people are told.
    pub hard: Health,
    /// Bad results in a row while the hard state does not have them yet; 0 when it has.
    pub attempt: u32,
    /// Since when the hard state is so, in microseconds.
    pub since_us: i64,
    /// It changes too often to be told about each time.
    pub flapping: bool,
    /// It was found well once, or bad often enough.
    #[serde(default)]
    settled: bool,
    recent: VecDeque<Health>,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The state before.
    pub from: Health,
    /// The state now.
    pub to: Health,
    /// Whether it is the hard state that changed.
    pub hard: bool,
    /// Whether it began to flap, or no longer does.
    pub flapped: bool,
}

impl Course {
    /// A check that was never run: its first bad results are no less soft than those after good ones.
    pub fn new(now_us: i64) -> Self {
        Self {
            now: Health::Ok,
            hard: Health::Ok,
            attempt: 0,
            since_us: now_us,
            flapping: false,
            settled: false,
            recent: VecDeque::new(),
        }
    }

    /// The hard state; none as long as there was none.
    pub fn stands(&self) -> Option<Health> {
        (self.settled || self.hard != Health::Ok).then_some(self.hard)
    }

    /// Whether the last result is not the hard state yet: then it is asked again sooner.
    pub fn soft(&self) -> bool {
        self.attempt > 0
    }

    /// Takes a result; a change is hard after `attempts` bad results in a row. A recovery, and a
    /// change between bad states that are hard already, is hard at once.
    pub fn take(&mut self, result: Health, attempts: u32, now_us: i64) -> Option<Turn> {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(result);
        let before = std::mem::replace(&mut self.now, result);
        self.attempt = match (self.hard, result) {
            (_, Health::Ok) => 0,
            (Health::Ok, _) => self.attempt + 1,
            _ => 0,
        };
        let hardens = result != self.hard && (self.attempt == 0 || self.attempt >= attempts);
        let flapped = self.flaps();
        self.settled |= hardens || result == Health::Ok;
        if hardens {
            let turn = Turn { from: self.hard, to: result, hard: true, flapped };
            (self.hard, self.attempt, self.since_us) = (result, 0, now_us);
            return Some(turn);
        }
        let turn = Turn { from: before, to: result, hard: false, flapped };
        (before != result || flapped).then_some(turn)
    }

    /// Judges anew whether it flaps; true when that changed.
    fn flaps(&mut self) -> bool {
        let share = self.changes();
        let flaps = if self.flapping { share >= FLAPPING.1 } else { share >= FLAPPING.0 };
        std::mem::replace(&mut self.flapping, flaps) != flaps
    }

    /// The share of changes among the last results: the newest weighs 1.2, the oldest 0.8.
    fn changes(&self) -> f64 {
        let possible = REMEMBERED - 1;
        let missing = REMEMBERED - self.recent.len();
        let pairs = self.recent.iter().zip(self.recent.iter().skip(1)).enumerate();
        let weight = |(at, (a, b)): (usize, (&Health, &Health))| match a == b {
            true => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "at most 20")]
            false => 0.8 + 0.4 * (at + missing) as f64 / (possible - 1) as f64,
        };
        #[expect(clippy::cast_precision_loss, reason = "20")]
        let whole = possible as f64;
        pairs.map(weight).sum::<f64>() / whole
    }
}

#[cfg(test)]
mod tests {
    use Health::{Critical, Ok, Unknown, Warning};
    use proptest::prelude::*;

    use super::*;

    fn course(results: &[Health]) -> (Course, Vec<Option<Turn>>) {
        let mut course = Course::new(0);
        let turns = (1..).zip(results).map(|(at, r)| course.take(*r, 3, at)).collect();
        (course, turns)
    }

    const fn soft(from: Health, to: Health) -> Option<Turn> {
        Some(Turn { from, to, hard: false, flapped: false })
    }

    const fn hard(from: Health, to: Health) -> Option<Turn> {
        Some(Turn { from, to, hard: true, flapped: false })
    }

    #[test]
    fn one_bad_sample_wakes_nobody() {
        let (course, turns) = course(&[Ok, Critical, Ok]);
        assert_eq!(turns, [None, soft(Ok, Critical), soft(Critical, Ok)]);
        assert_eq!((course.hard, course.since_us), (Ok, 0));
    }

    #[test]
    fn the_third_bad_result_in_a_row_is_hard_whatever_kind_the_others_were() {
        let (course, turns) = course(&[Warning, Unknown, Critical]);
        assert_eq!(turns[2], hard(Ok, Critical));
        assert_eq!((course.hard, course.since_us, course.soft()), (Critical, 3, false));
    }

    #[test]
    fn what_was_not_well_from_the_first_look_on_stands_nowhere_until_it_is_hard() {
        assert_eq!(Course::new(0).stands(), None);
        assert_eq!(course(&[Critical, Unknown]).0.stands(), None);
        assert_eq!(course(&[Critical, Unknown, Critical]).0.stands(), Some(Critical));
        assert_eq!(course(&[Critical, Ok, Critical]).0.stands(), Some(Ok));
        assert_eq!(course(&[Ok]).0.stands(), Some(Ok));
    }

    #[test]
    fn a_recovery_and_a_change_between_hard_states_count_at_once() {
        let (_, turns) = course(&[Critical, Critical, Critical, Warning, Ok]);
        assert_eq!(turns[3..], [hard(Critical, Warning), hard(Warning, Ok)]);
    }

    #[test]
    fn a_check_that_goes_back_and_forth_flaps_until_it_is_steady() {
        let mut course = Course::new(0);
        let mut at = 0;
        let mut take = |course: &mut Course, result| {
            at += 1;
            course.take(result, 1, at)
        };
        let began = |turn: Option<Turn>| usize::from(turn.is_some_and(|t| t.flapped));
        let mut flapped = 0;
        for _ in 0..4 {
            flapped += began(take(&mut course, Critical));
            flapped += began(take(&mut course, Ok));
        }
        assert!(course.flapping);
        assert_eq!(flapped, 1, "its begin is told once");
        let steady = (0..30).take_while(|_| {
            take(&mut course, Ok);
            course.flapping
        });
        assert!((10..20).contains(&steady.count()));
    }

    proptest! {
        #[test]
        fn the_hard_state_is_one_that_was_seen_and_never_changes_without_a_turn(
            results in prop::collection::vec(0..4_u8, 0..200), attempts in 1..6_u32,
        ) {
            let mut course = Course::new(0);
            let mut bad = 0;
            for (at, result) in (1..).zip(results) {
                let result = [Ok, Warning, Critical, Unknown][usize::from(result)];
                bad = if result == Ok { 0 } else { bad + 1 };
                let before = course.hard;
                let turn = course.take(result, attempts, at);
                let turned = turn.is_some_and(|t| t.hard);
                prop_assert_eq!(turned, before != course.hard);
                prop_assert!(!turned || (course.hard == result && course.since_us == at));
                prop_assert!(result != Ok || course.hard == Ok);
                prop_assert!(bad < attempts || course.hard == result);
                prop_assert!(before != Ok || bad >= attempts || course.hard == Ok);
            }
        }

        #[test]
        fn attempts_never_reach_the_bound_without_being_hard(
            results in prop::collection::vec(0..4_u8, 0..100), attempts in 1..6_u32,
        ) {
            let mut course = Course::new(0);
            for result in results {
                course.take([Ok, Warning, Critical, Unknown][usize::from(result)], attempts, 1);
                prop_assert!(course.attempt < attempts);
            }
        }
    }
}
