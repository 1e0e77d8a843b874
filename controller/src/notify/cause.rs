//! What a problem follows from, as far as notices go. Pure.
//!
//! A check that needs another one often sees the trouble first: its notice waits until it is known how
//! the other one is, and for as long as that one is not well. Then the notice of that one names it.

use crate::health::{
    Host, Standing,
    problems::{root, severity},
};

/// How long it is waited for what a check needs to be looked at, and to be hard.
const UNSURE_US: i64 = 180_000_000;
/// What follows from a problem is well again so long after it.
const SETTLE_US: i64 = 120_000_000;

/// Whether a problem of a check, which began at some time, is to be told later: with its cause, or
/// when it is known that it is its own.
pub(super) fn waits(health: &Host, check: &str, began_us: i64, now_us: i64) -> bool {
    let follows = |bad: &dyn Fn(&Standing) -> u8| root(health, check, bad) != check;
    if follows(&|standing| severity(standing.shown(now_us))) {
        return true;
    }
    let needed = needed(health, check);
    let settles = |s: &&Standing| {
        severity(s.shown(now_us)) == 0 && s.since_us > began_us && now_us - s.since_us < SETTLE_US
    };
    if needed.iter().any(settles) {
        return true;
    }
    // A controller that was away hears of what is long known.
    if now_us - began_us > UNSURE_US {
        return false;
    }
    let unseen = |s: &&Standing| {
        let checked_us = s.state().checked_us;
        checked_us > 0 && checked_us < began_us && severity(s.hard(now_us)) == 0
    };
    follows(&|standing| severity(standing.worst(now_us))) || needed.iter().any(unseen)
}

/// Checks that are not well with this one, hard or not.
pub(super) fn followers(health: &Host, check: &str, now_us: i64) -> Vec<String> {
    let bad = |standing: &Standing| severity(standing.worst(now_us));
    let follows = |(name, standing): &(&str, &Standing)| {
        *name != check && bad(standing) > 0 && root(health, name, &bad) == check
    };
    health.checks.iter().filter(follows).map(|(name, _)| name.to_owned()).collect()
}

/// Everything that a check needs, and what that needs.
fn needed<'h>(health: &'h Host, check: &'h str) -> Vec<&'h Standing> {
    let mut names = vec![check];
    let mut at = 0;
    while let Some(standing) = names.get(at).map(|name| health.checks.get(name)) {
        for name in standing.into_iter().flat_map(|s| &s.after) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        at += 1;
    }
    names.into_iter().skip(1).filter_map(|name| health.checks.get(name)).collect()
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{CheckState, Status};

    use super::*;

    const MINUTE: i64 = 60_000_000;
    const NOW: i64 = 1_000 * MINUTE;

    /// The unit, and what needs it.
    fn host(unit: CheckState, http: CheckState) -> Host {
        let unit = CheckState { check: "unit".into(), interval_s: 60, ..unit };
        let http =
            CheckState { check: "http".into(), after: vec!["unit".into()], interval_s: 60, ..http };
        let standing = |state: CheckState| (state.check.clone(), Standing::new(state, NOW));
        Host { checks: [unit, http].into_iter().map(standing).collect(), ..Host::default() }
    }

    fn hard(status: Status, since_us: i64) -> CheckState {
        let status = status.into();
        CheckState { status, hard: status, since_us, checked_us: NOW, ..CheckState::default() }
    }

    #[test]
    fn what_follows_waits_for_as_long_as_its_cause_is_there_and_a_moment_longer() {
        let http = || hard(Status::Critical, NOW - 60 * MINUTE);
        let began_us = NOW - 60 * MINUTE;
        let of = |unit| waits(&host(unit, http()), "http", began_us, NOW);
        assert!(of(hard(Status::Critical, NOW - 59 * MINUTE)));
        assert!(of(hard(Status::Ok, NOW - MINUTE)), "it has just come back");
        assert!(!of(hard(Status::Ok, NOW - 3 * MINUTE)), "it is a problem of its own");
        assert!(!of(hard(Status::Warning, NOW - 59 * MINUTE)), "that is not all of its cause");
        let unit = || hard(Status::Critical, NOW);
        assert!(!waits(&host(unit(), http()), "unit", NOW, NOW), "the cause does not wait");
        assert_eq!(followers(&host(unit(), http()), "unit", NOW), ["http"]);
    }

    #[test]
    fn one_that_is_seen_first_waits_until_its_cause_was_looked_at_and_not_for_ever() {
        let http = || hard(Status::Critical, NOW);
        let of = |unit, began_us| waits(&host(unit, http()), "http", began_us, NOW);
        let soft = CheckState { status: Status::Critical.into(), ..hard(Status::Ok, 5) };
        assert!(of(soft.clone(), NOW - MINUTE));
        assert!(!of(soft, NOW - 4 * MINUTE));
        let unseen = CheckState { checked_us: NOW - 2 * MINUTE, ..hard(Status::Ok, 5) };
        assert!(of(unseen, NOW - MINUTE));
        assert!(!of(hard(Status::Ok, 5), NOW - MINUTE), "it was looked at since, and is well");
    }
}
