//! A report of how checks stand, told in parts: whoever hears ten thousand hosts keeps room for one part of
//! each, and not for all that a host can say at once.

use prost::Message as _;

use crate::wire::{CheckState, HealthReport};

/// Bytes of what only the last part says.
const LAST: usize = 4;
/// Bytes of a part, unless one check alone has more: what a stream has room for after it grew once.
const PART: usize = 2000;

impl HealthReport {
    /// The same in parts, of which each tells of as many checks as fit, and of one at least. The first one
    /// has the turns and the checks that they are of, which explain each other; where it is whole it names
    /// the checks of all others. Only the last one says that the agent is leaving.
    pub fn parts(mut self) -> Vec<Self> {
        let turned = |check: &CheckState| self.turns.iter().any(|turn| turn.check == check.check);
        let (first, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.checks).into_iter().partition(turned);
        self.checks = first;
        let (leaving, host_stopping) = (self.leaving, self.host_stopping);
        (self.leaving, self.host_stopping) = (false, false);
        let next = Self {
            memory: self.memory.clone(),
            last_turn: self.last_turn,
            now_us: self.now_us,
            ..Self::default()
        };
        let mut parts = vec![self];
        let free = |part: &Self| PART.saturating_sub(part.encoded_len() + LAST);
        let mut room = free(&parts[0]);
        for check in rest {
            let bytes = told(&check);
            let full = |part: &Self| !part.checks.is_empty() && bytes > room;
            if parts.last().is_none_or(full) {
                room = free(&next);
                parts.push(next.clone());
            }
            room = room.saturating_sub(bytes);
            if let Some(part) = parts.last_mut() {
                part.checks.push(check);
            }
        }
        if parts[0].whole {
            let others = parts.iter().skip(1).flat_map(|part| &part.checks);
            parts[0].others = others.map(|check| check.check.clone()).collect();
        }
        if let Some(last) = parts.last_mut() {
            (last.leaving, last.host_stopping) = (leaving, host_stopping);
        }
        parts
    }

    /// Whether a check is among all those that there are, as a whole one tells.
    pub fn has(&self, check: &str) -> bool {
        self.checks.iter().any(|there| there.check == check)
            || self.others.iter().any(|other| other == check)
    }
}

/// Bytes of a check in a report.
fn told(check: &CheckState) -> usize {
    let bytes = check.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Turn;

    proptest! {
        #[test]
        fn parts_tell_together_what_the_whole_one_does_and_none_has_more_than_there_is_room_for(
            lengths in prop::collection::vec(0_usize..2500, 0..30),
            whole: bool,
            leaving: bool,
        ) {
            let state = |(n, length): (usize, &usize)| CheckState {
                check: format!("check-{n}"),
                summary: "x".repeat(*length),
                ..CheckState::default()
            };
            let checks: Vec<_> = lengths.iter().enumerate().map(state).collect();
            let check = "check-3".to_owned();
            let turns = vec![Turn { number: 7, check, ..Turn::default() }];
            let memory = "m".to_owned();
            let report = HealthReport {
                memory, checks: checks.clone(), whole, turns, leaving, host_stopping: leaving,
                forgotten: 3, last_turn: 7, now_us: 9, others: Vec::new(),
            };
            let parts = report.parts();
            let (first, rest) = parts.split_first().expect("one at least");
            let named: usize = first.others.iter().map(|name| name.len() + 2).sum();
            let turned = checks.get(3).map_or(0, told);
            prop_assert!(first.checks.len() <= 1 || first.encoded_len() <= PART + turned + named);
            prop_assert!(checks.len() < 4 || first.checks.iter().any(|c| c.check == "check-3"));
            prop_assert_eq!((first.whole, first.turns.len(), first.forgotten), (whole, 1, 3));
            prop_assert!(!whole || checks.iter().all(|check| first.has(&check.check)));
            for part in rest {
                prop_assert!(part.checks.len() == 1 || part.encoded_len() <= PART);
                prop_assert!(!part.whole && part.turns.is_empty() && part.forgotten == 0);
                prop_assert!(part.others.is_empty() && !part.checks.is_empty());
            }
            for part in &parts {
                prop_assert_eq!((part.memory.as_str(), part.last_turn, part.now_us), ("m", 7, 9));
            }
            let leave: Vec<_> = parts.iter().map(|p| p.leaving && p.host_stopping).collect();
            prop_assert_eq!(leave.iter().filter(|l| **l).count(), usize::from(leaving));
            prop_assert_eq!(leave.last(), Some(&leaving));
            let mut all: Vec<_> = parts.into_iter().flat_map(|part| part.checks).collect();
            all.sort_by_key(|c| c.check["check-".len()..].parse::<usize>().expect("a number"));
            prop_assert_eq!(all, checks);
        }
    }
}
