//! What is made of what agents tell.

use hostler_proto::wire::Finding;

use super::*;

const MINUTE: i64 = 60_000_000;

fn state(check: &str, hard: Status) -> CheckState {
    CheckState {
        check: check.into(),
        status: hard.into(),
        hard: hard.into(),
        interval_s: 60,
        checked_us: 1,
        ..CheckState::default()
    }
}

/// One that did not run since its agent was started.
fn unseen(check: &str, hard: Status) -> CheckState {
    let (summary, status) = ("has not run yet".into(), Status::Unknown.into());
    CheckState { checked_us: 0, summary, status, ..state(check, hard) }
}

fn turn(number: u64, hard: bool) -> Turn {
    Turn {
        number,
        hard,
        check: "disk".into(),
        was: Status::Ok.into(),
        became: Status::Critical.into(),
        ..Turn::default()
    }
}

fn report(checks: Vec<CheckState>, turns: Vec<Turn>, whole: bool) -> HealthReport {
    HealthReport { memory: "m".into(), checks, turns, whole, ..HealthReport::default() }
}

fn web() -> HostName {
    "web-1".parse().expect("name")
}

#[test]
fn a_turn_that_is_told_twice_is_written_down_once_and_a_soft_one_never() {
    let fleet = Fleet::default();
    let turns = || vec![turn(1, true), turn(2, false), turn(3, true)];
    let news = fleet.hear(&web(), report(vec![], turns(), true), 1).expect("news");
    assert_eq!(news.turns.iter().map(|t| t.number).collect::<Vec<_>>(), [1, 3]);
    assert!(fleet.hear(&web(), report(vec![], turns(), true), 2).is_none());
    assert_eq!((fleet.request(&web()).after, fleet.request(&web()).memory), (3, "m".into()));
}

#[test]
fn a_status_that_there_is_not_is_none() {
    let fleet = Fleet::default();
    let odd = Turn { was: 99, became: -1, at_us: -5, ..turn(1, true) };
    let news = fleet.hear(&web(), report(vec![], vec![odd], true), 1).expect("news");
    assert_eq!((news.turns[0].was, news.turns[0].became, news.turns[0].at_us), (0, 0, 0));
}

#[test]
fn an_agent_that_forgot_everything_begins_anew() {
    let fleet = Fleet::default();
    fleet.hear(&web(), report(vec![], vec![turn(9, true)], true), 1);
    let other = HealthReport { memory: "n".into(), ..report(vec![], vec![turn(1, true)], true) };
    assert_eq!(fleet.hear(&web(), other, 2).expect("news").turns.len(), 1);
}

#[test]
fn a_heartbeat_that_changes_nothing_is_not_written_down() {
    let fleet = Fleet::default();
    let checks = || vec![state("disk", Status::Ok)];
    assert!(fleet.hear(&web(), report(checks(), vec![], true), 1).is_some());
    assert!(fleet.hear(&web(), report(checks(), vec![], false), 2).is_none());
    let gone = fleet.hear(&web(), report(vec![], vec![], true), 3).expect("news");
    assert!(gone.states.is_empty());
}

#[test]
fn a_check_that_was_not_heard_of_in_time_is_unknown() {
    let fleet = Fleet::default();
    fleet.hear(&web(), report(vec![state("disk", Status::Ok)], vec![], true), 0);
    let host = fleet.host(&web()).expect("known");
    let disk = host.checks.get("disk").expect("a check");
    assert_eq!(disk.hard(4 * MINUTE), Status::Ok);
    assert_eq!(disk.hard(4 * MINUTE + 1), Status::Unknown);
}

#[test]
fn what_an_agent_tells_is_held_to_what_can_be_kept() {
    let fleet = Fleet::default();
    let many = (0..MOST + 50).map(|n| state(&format!("c{n}"), Status::Ok));
    let mut checks: Vec<_> = many.collect();
    checks.push(state("no name at all", Status::Ok));
    checks[0].summary = "x".repeat(5000) + "\0";
    fleet.hear(&web(), report(checks, vec![], true), 1);
    let host = fleet.host(&web()).expect("known");
    assert_eq!(host.checks.len(), MOST);
    assert_eq!(host.checks.get("c0").expect("a check").state().summary.len(), TEXT);
}

fn told(news: &News) -> Vec<(&str, Status, Status, i64)> {
    let turn = |t: &'_ Turn| (t.was(), t.became(), t.at_us);
    let all = news.turns.iter().map(|t| (t.check.as_str(), turn(t)));
    all.map(|(check, (was, became, at))| (check, was, became, at)).collect()
}

#[test]
fn a_check_that_is_taken_away_while_it_is_not_well_ends() {
    let fleet = Fleet::default();
    let both = vec![state("disk", Status::Critical), state("units", Status::Ok)];
    fleet.hear(&web(), report(both, vec![turn(1, true)], true), 1);
    let news = fleet.hear(&web(), report(vec![], vec![], true), 7).expect("news");
    assert_eq!(told(&news), [("disk", Status::Critical, Status::Ok, 7)]);
    assert_eq!(news.gone, ["disk", "units"]);
}

#[test]
fn a_turn_that_was_lost_is_made_up_for_by_the_state_and_what_was_forgotten_is_told() {
    let fleet = Fleet::default();
    let at = |hard, since_us| CheckState { since_us, ..state("disk", hard) };
    fleet.hear(&web(), report(vec![at(Status::Ok, 1)], vec![], true), 10);
    let late = HealthReport { forgotten: 3, ..report(vec![at(Status::Warning, 20)], vec![], true) };
    let news = fleet.hear(&web(), late, 30).expect("news");
    assert_eq!(told(&news)[1..], [("disk", Status::Ok, Status::Warning, 20)]);
    assert!(news.turns[0].summary.starts_with("3 changes of its checks were forgotten"));
    let same = fleet.hear(&web(), report(vec![at(Status::Warning, 20)], vec![], false), 40);
    assert!(same.is_none(), "it is told once");
}

#[test]
fn a_state_that_comes_before_its_turn_waits_for_it() {
    let fleet = Fleet::default();
    fleet.hear(&web(), report(vec![state("disk", Status::Ok)], vec![], true), 1);
    let early = |turns| HealthReport {
        last_turn: 1,
        ..report(vec![state("disk", Status::Critical)], turns, false)
    };
    assert!(fleet.hear(&web(), early(vec![]), 2).expect("news").turns.is_empty());
    let news = fleet.hear(&web(), early(vec![turn(1, true)]), 3).expect("news");
    assert_eq!(news.turns.len(), 1);
}

#[test]
fn what_an_agent_forgot_stands_until_it_is_known_anew() {
    let fleet = Fleet::default();
    fleet.hear(&web(), report(vec![state("disk", Status::Critical)], vec![turn(1, true)], true), 1);
    let anew = |state: CheckState, whole| HealthReport {
        memory: "n".into(),
        ..report(vec![state], vec![], whole)
    };
    let never = unseen("disk", Status::Unspecified);
    let news = fleet.hear(&web(), anew(never, true), 2).expect("news");
    assert!(news.turns.is_empty());
    assert_eq!(
        fleet.host(&web()).expect("known").checks.get("disk").expect("a check").hard(2),
        Status::Critical
    );
    let first =
        CheckState { attempt: 1, status: Status::Critical.into(), ..state("disk", Status::Ok) };
    assert!(fleet.hear(&web(), anew(first, false), 3).expect("news").turns.is_empty());
    let news = fleet.hear(&web(), anew(state("disk", Status::Ok), false), 4).expect("news");
    assert_eq!(told(&news), [("disk", Status::Critical, Status::Ok, 4)]);
}

#[test]
fn what_was_seen_of_a_standing_problem_is_kept_until_its_check_ran_again() {
    let fleet = Fleet::default();
    let finding = Finding::new(Status::Critical, "/", "97 % full").next("disk tree /");
    let full = CheckState {
        summary: "/ is full".into(),
        findings: vec![finding],
        ..state("disk", Status::Critical)
    };
    fleet.hear(&web(), report(vec![full], vec![turn(1, true)], true), 1);
    let restarted = report(vec![unseen("disk", Status::Critical)], vec![], true);
    assert!(fleet.hear(&web(), restarted, 2).is_none(), "nothing changed");
    let kept = fleet.host(&web()).expect("known").checks.get("disk").expect("a check").state();
    assert_eq!((kept.summary.as_str(), kept.findings.len()), ("/ is full", 1));
    assert_eq!((kept.hard(), kept.checked_us), (Status::Critical, 1));
}

#[test]
fn a_check_has_no_state_until_its_first_results_are_sure() {
    let fleet = Fleet::default();
    let pending = |fleet: &Fleet| {
        fleet.host(&web()).expect("known").checks.get("disk").expect("a check").pending()
    };
    fleet.hear(&web(), report(vec![unseen("disk", Status::Unspecified)], vec![], true), 1);
    assert!(pending(&fleet));
    let bad = Status::Critical.into();
    let first = CheckState { attempt: 1, status: bad, ..state("disk", Status::Ok) };
    let news = fleet.hear(&web(), report(vec![first], vec![], false), 2).expect("news");
    assert!(pending(&fleet) && news.turns.is_empty());
    let sure = report(vec![state("disk", Status::Critical)], vec![turn(1, true)], false);
    let news = fleet.hear(&web(), sure, 3).expect("news");
    assert!(!pending(&fleet));
    assert_eq!(told(&news), [("disk", Status::Unspecified, Status::Critical, 0)], "it was not ok");
}

#[test]
fn flapping_is_told_with_its_begin_and_its_end() {
    let fleet = Fleet::default();
    let flaps = |flapping| CheckState { flapping, ..state("disk", Status::Ok) };
    fleet.hear(&web(), report(vec![flaps(false)], vec![], true), 1);
    for flapping in [true, false] {
        let news = fleet.hear(&web(), report(vec![flaps(flapping)], vec![], false), 2);
        let turns = news.expect("news").turns;
        assert_eq!((turns.len(), turns[0].hard, turns[0].flapping), (1, false, flapping));
    }
    fleet.hear(&web(), report(vec![flaps(true)], vec![], false), 3);
    fleet.hear(&web(), report(vec![flaps(true)], vec![], false), 9);
    let host = fleet.host(&web()).expect("known");
    assert_eq!(
        host.checks.get("disk").expect("a check").shown(9),
        Status::Warning,
        "it is not well"
    );
    assert_eq!(
        host.checks.get("disk").expect("a check").state().flapping_since_us,
        3,
        "since it began"
    );
}

#[test]
fn times_of_a_clock_that_is_wrong_are_brought_to_this_one() {
    let fleet = Fleet::default();
    let (now, hour) = (1_000 * MINUTE, 60 * MINUTE);
    let wrong = |late: i64| {
        let disk = CheckState { since_us: now + hour - MINUTE, ..state("disk", Status::Critical) };
        let turn = Turn { at_us: disk.since_us, ..turn(1, true) };
        HealthReport { now_us: now + hour - late, ..report(vec![disk], vec![turn], true) }
    };
    let news = fleet.hear(&web(), wrong(0), now).expect("news");
    assert_eq!(news.turns[0].at_us, now - MINUTE);
    assert!(
        fleet.hear(&web(), wrong(1_000_000), now).is_none(),
        "a second on the way is no change"
    );
    let right = |since_us| {
        let disk = CheckState { since_us, ..state("disk", Status::Ok) };
        HealthReport { now_us: now - 1, ..report(vec![disk], vec![], false) }
    };
    let news = fleet.hear(&web(), right(now - 5), now).expect("news");
    assert_eq!(news.states[0].since_us, now - 5);
}

#[test]
fn a_check_of_a_linked_host_that_is_heard_of_no_more_is_told_and_so_is_that_it_is_again() {
    let fleet = Fleet::default();
    let both = || vec![state("disk", Status::Ok), state("units", Status::Ok)];
    fleet.hear(&web(), report(both(), vec![], true), 0);
    fleet.hear(&web(), report(vec![state("units", Status::Ok)], vec![], false), 3 * MINUTE);
    assert!(fleet.lapse(&[], 5 * MINUTE).is_empty(), "it is not linked");
    let news = fleet.lapse(&[web()], 5 * MINUTE);
    assert_eq!(told(&news[0]), [("disk", Status::Ok, Status::Unknown, 5 * MINUTE)]);
    assert!(news[0].untold.is_empty());
    assert!(fleet.lapse(&[web()], 6 * MINUTE).is_empty(), "once");
    let again = fleet.hear(&web(), report(both(), vec![], false), 6 * MINUTE).expect("news");
    assert_eq!(told(&again), [("disk", Status::Unknown, Status::Ok, 6 * MINUTE)]);
    let silent = fleet.lapse(&[web()], 20 * MINUTE);
    assert_eq!((silent[0].turns.len(), silent[0].untold.len()), (3, 2), "one cause, one notice");
    fleet.arrived(&web(), 30 * MINUTE);
    fleet.hear(&web(), report(both(), vec![], true), 30 * MINUTE);
    fleet.arrived(&web(), 90 * MINUTE);
    assert!(fleet.lapse(&[web()], 91 * MINUTE).is_empty(), "it has just come back");
}

#[test]
fn an_agent_that_falls_silent_is_told_of_once_as_its_host_and_so_is_that_it_speaks() {
    let fleet = Fleet::default();
    let every = |name: &str, interval_s| CheckState { interval_s, ..state(name, Status::Ok) };
    let all = || vec![every("a", 10), every("b", 60), every("c", 600)];
    fleet.hear(&web(), report(all(), vec![], true), 0);
    fleet.hear(&web(), report(vec![every("c", 600)], vec![], false), MINUTE);
    // The first is late, and the agent may be the reason.
    assert!(fleet.lapse(&[web()], 4 * MINUTE).is_empty());
    let news = fleet.lapse(&[web()], 6 * MINUTE);
    let at = 6 * MINUTE;
    let (well, unknown) = (Status::Ok, Status::Unknown);
    assert_eq!(
        told(&news[0]),
        [("", well, unknown, at), ("a", well, unknown, at), ("b", well, unknown, at)]
    );
    assert_eq!(news[0].untold, ["a", "b"]);
    let news = fleet.lapse(&[web()], 30 * MINUTE);
    assert_eq!(told(&news[0]), [("c", well, unknown, 30 * MINUTE)]);
    assert_eq!(news[0].untold, ["c"], "people know of the host");
    let empty = fleet.hear(&web(), report(vec![], vec![], false), 31 * MINUTE);
    assert!(empty.is_none_or(|news| news.turns.is_empty()), "that tells of no check");
    let again = fleet.hear(&web(), report(all(), vec![], false), 32 * MINUTE).expect("news");
    assert_eq!(told(&again)[0], ("", unknown, well, 32 * MINUTE));
    assert!(again.untold.is_empty() && again.turns.len() == 4);
    let late = fleet.lapse(&[web()], 36 * MINUTE + 1);
    assert_eq!(late[0].turns[0].check, "", "it is told anew");
}

#[test]
fn what_figures_are_of_is_short_and_has_no_nul() {
    let figure = hostler_proto::wire::Figure {
        name: "used".into(),
        subject: "a\0b".into(),
        unit: "u".repeat(5000),
        ..Default::default()
    };
    let disk = CheckState { figures: vec![figure], ..state("disk", Status::Ok) };
    let disk = harmless(disk).expect("a check");
    assert_eq!((disk.figures[0].subject.as_str(), disk.figures[0].unit.len()), ("ab", FIGURE_TEXT));
    assert!(harmless(state("no name", Status::Ok)).is_none());
}

#[test]
fn an_agent_that_stays_silent_after_it_was_linked_anew_is_told_of_again() {
    let fleet = Fleet::default();
    let every = CheckState { interval_s: 60, ..state("disk", Status::Ok) };
    fleet.hear(&web(), report(vec![every], vec![], true), 0);
    assert_eq!(fleet.lapse(&[web()], 6 * MINUTE)[0].turns.len(), 2);
    fleet.arrived(&web(), 7 * MINUTE);
    assert!(fleet.lapse(&[web()], 8 * MINUTE).is_empty());
    let news = fleet.lapse(&[web()], 12 * MINUTE);
    let at = 12 * MINUTE;
    assert_eq!(told(&news[0]), [("", Status::Ok, Status::Unknown, at)], "of the host alone");
    assert!(fleet.lapse(&[web()], 13 * MINUTE).is_empty(), "once");
}

#[test]
fn the_name_of_a_memory_fits_into_a_key() {
    let fleet = Fleet::default();
    let memory = format!("m\n{}", "ü".repeat(900) + &"x".repeat(900));
    let strange = HealthReport { memory, ..report(vec![], vec![turn(1, true)], true) };
    let news = fleet.hear(&web(), strange, 1).expect("news");
    assert_eq!(news.memory.len(), MEMORY);
}

#[test]
fn a_report_that_comes_in_parts_is_heard_like_one() {
    let names: Vec<String> = (0..40).map(|n| format!("check-{n:02}")).collect();
    let long = |name: &String| CheckState { summary: "x".repeat(200), ..state(name, Status::Ok) };
    let told = |names: &[String], turns| report(names.iter().map(long).collect(), turns, true);
    let heard = |report: HealthReport, parts: bool| {
        let fleet = Fleet::default();
        let hear = |report, at| fleet.hear(&web(), report, at);
        hear(told(&names, vec![]), 1);
        let all = if parts { report.parts() } else { vec![report] };
        assert_eq!(all.len() > 2, parts);
        let news: Vec<News> = all.into_iter().filter_map(|part| hear(part, 2)).collect();
        let turns: Vec<_> = news.iter().flat_map(|news| news.turns.clone()).collect();
        let gone: Vec<_> = news.into_iter().flat_map(|news| news.gone).collect();
        let host = fleet.host(&web()).expect("known");
        let stands: Vec<_> = host.checks.values().map(Standing::state).collect();
        (turns, gone, stands, fleet.request(&web()).after)
    };
    let fewer: Vec<String> = names.iter().skip(1).step_by(2).cloned().collect();
    let of = |number: u64| Turn { check: fewer[number as usize].clone(), ..turn(number, true) };
    let mut report = told(&fewer, (1..4).map(of).collect());
    report.last_turn = 3;
    for check in &mut report.checks[1..4] {
        check.hard = Status::Critical.into();
    }
    let whole = heard(report.clone(), false);
    assert_eq!((whole.0.len(), whole.1.len(), whole.2.len(), whole.3), (3, 20, 20, 3));
    assert_eq!(heard(report, true), whole);
}

#[test]
fn what_is_told_of_a_check_before_it_is_known_is_told_once_though_it_comes_in_a_later_part() {
    let names: Vec<String> = (0..40).map(|n| format!("check-{n:02}")).collect();
    let fleet = Fleet::default();
    let mut checks: Vec<_> = names.iter().map(|name| state(name, Status::Ok)).collect();
    checks.iter_mut().for_each(|check| check.summary = "x".repeat(200));
    checks[39].hard = Status::Critical.into();
    let turns = vec![Turn { check: names[39].clone(), ..turn(1, true) }];
    let report = HealthReport { last_turn: 1, ..report(checks, turns, true) };
    let news = report.parts().into_iter().filter_map(|part| fleet.hear(&web(), part, 1));
    assert_eq!(news.map(|news| news.turns.len()).sum::<usize>(), 1);
    assert_eq!(fleet.host(&web()).expect("known").checks.len(), 40);
}
