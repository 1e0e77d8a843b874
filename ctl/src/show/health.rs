//! How the checks of one host stand.

use hostler_proto::{
    finding::command_line,
    wire::{CheckHealth, CheckState, Connection, HostHealth, Problem, Status},
};

use super::{
    fleet,
    grid::{Cell, parts},
    problems::{badness, outlooks},
    report::word,
    value,
};
use crate::screen::{Traits, harmless};

/// Findings of a check that are told below it.
const TOLD: usize = 3;

/// Every check of a host, those that are not well first; before them what is with the host itself.
pub fn host(health: &HostHealth, traits: Traits) -> String {
    let heard = match health.heard_us {
        0 => "its agent has told nothing yet".to_owned(),
        at => format!("heard {} ago", value::ago(at, health.now_us)),
    };
    let (host, link) = (harmless(&health.host), health.connection());
    let mut page = String::new();
    for problem in health.problems.iter().filter(|p| p.check.is_empty()) {
        let since = value::ago(problem.since_us, health.now_us);
        let status = word(problem.status()).to_uppercase();
        page += &format!("{host} is {}, {status} for {since}: ", fleet::link(link));
        page += &harmless(&problem.summary);
        if !problem.handled.is_empty() {
            page += &format!(" [{}]", harmless(&problem.handled));
        }
        page.push('\n');
        if !problem.next.is_empty() {
            page += &format!("    next: {}\n", harmless(&problem.next));
        }
    }
    let away = !matches!(link, Connection::Up | Connection::Unspecified);
    let known = if away { "; how they stand now nobody knows" } else { "" };
    page += &format!("{host}: {} checks, {heard}{known}\n\n", health.checks.len());
    let mut checks: Vec<&CheckHealth> = health.checks.iter().collect();
    checks.sort_by_key(|c| rank(c));
    let told: Vec<_> = checks
        .iter()
        .filter_map(|c| Some((row(c, away, health)?, below(c, away, health))))
        .collect();
    let (rows, below): (Vec<_>, Vec<_>) = told.into_iter().unzip();
    let mut parts = parts(&["STATUS", "CHECK", "FOR", "RAN", "WHAT IT SAID"], &rows, traits);
    for (part, below) in parts.iter_mut().skip(1).zip(below) {
        part.push_str(&below);
    }
    page += &parts.concat();
    let outlooks = outlooks(&health.outlooks, traits);
    if !outlooks.is_empty() {
        page.push('\n');
        page += &outlooks;
    }
    page
}

fn rank(check: &CheckHealth) -> (u8, bool) {
    let hard = check.state.as_ref().map_or(Status::Unknown, |state| hard(state, check.stale));
    (badness(hard), hard != Status::Unspecified)
}

/// What people are told of a check: one that changes again and again is not well, and one that never
/// ran is unspecified.
fn hard(state: &CheckState, stale: bool) -> Status {
    match state.hard() {
        _ if stale => Status::Unknown,
        Status::Ok | Status::Unspecified if state.flapping => Status::Warning,
        Status::Ok if state.checked_us == 0 => Status::Unspecified,
        hard => hard,
    }
}

/// Who knows of a check's trouble, or of that from which it follows; empty when nobody does.
fn handled<'h>(check: &str, problems: &'h [Problem]) -> &'h str {
    let follows = |p: &&Problem| p.follows.iter().any(|name| name == check);
    let own = problems.iter().find(|p| p.check == check);
    own.or_else(|| problems.iter().find(follows)).map_or("", |p| &p.handled)
}

/// Why a check is not well, and what to type next.
fn below(check: &CheckHealth, away: bool, health: &HostHealth) -> String {
    let Some(state) = check.state.as_ref().filter(|_| !away) else { return String::new() };
    let bad = |status| !matches!(status, Status::Ok | Status::Unspecified);
    if !bad(hard(state, check.stale)) && !bad(state.status()) {
        return String::new();
    }
    let mut text = String::new();
    let mut next = Vec::new();
    // What was heard long ago tells nothing of now.
    let findings = state.findings.iter().filter(|f| !check.stale && bad(f.status()));
    for finding in findings.take(TOLD) {
        let why = harmless(&finding.why);
        match (state.summary.contains(&finding.summary), why.is_empty()) {
            (true, true) => {}
            (true, false) => text += &format!("    why: {why}\n"),
            (false, true) => text += &format!("    {}\n", harmless(&finding.summary)),
            (false, false) => text += &format!("    {}: {why}\n", harmless(&finding.summary)),
        }
        next.push(command_line(&finding.next, &health.host));
    }
    next.retain(|line| !line.is_empty());
    if next.is_empty() {
        let own = health.problems.iter().find(|p| p.check == state.check);
        next.extend(own.map(|p| p.next.clone()).filter(|next| !next.is_empty()));
    }
    next.dedup();
    for line in next {
        text += &format!("    next: {}\n", harmless(&line));
    }
    text
}

fn row(check: &CheckHealth, away: bool, health: &HostHealth) -> Option<Vec<Cell>> {
    let (state, now_us) = (check.state.as_ref()?, health.now_us);
    let mut said = state.summary.clone();
    if check.stale {
        let late = if away { "" } else { "not heard of in time; " };
        said = format!("{late}it said: {said}");
    } else if state.attempt > 0 && state.checked_us > 0 {
        let now = word(state.status());
        said = format!("{now}, attempt {} of {}: {said}", state.attempt, state.attempts);
    } else if state.flapping {
        said = format!("{}: {said}", word(state.status()));
    }
    let mut since_us = state.since_us;
    if state.flapping {
        said += " (flapping)";
        since_us = if state.flapping_since_us > 0 { state.flapping_since_us } else { since_us };
    }
    let handled = handled(&state.check, &health.problems);
    let status = state_word(hard(state, check.stale));
    if !handled.is_empty() {
        said += &format!(" [{handled}]");
    }
    Some(vec![
        if handled.is_empty() { Cell::word(status) } else { Cell::text(status) },
        Cell::text(&state.check),
        Cell::text(value::ago(since_us, now_us)),
        Cell::text(value::ago(state.checked_us, now_us)),
        Cell::text(said),
    ])
}

/// A state of a check in one word.
pub fn state_word(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "pending",
        status => word(status),
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Finding;

    use super::*;

    const NOW: i64 = 1_774_742_400_000_000;
    const MINUTE: i64 = 60_000_000;

    fn check(name: &str, hard: Status, said: &str) -> CheckHealth {
        let state = CheckState {
            check: name.into(),
            status: hard.into(),
            hard: hard.into(),
            since_us: NOW - 90 * MINUTE,
            checked_us: NOW - MINUTE / 2,
            attempts: 3,
            summary: said.into(),
            ..CheckState::default()
        };
        CheckHealth { state: Some(state), stale: false }
    }

    #[test]
    fn a_host_shows_what_is_not_well_first_and_what_is_on_its_way_there() {
        let mut soft = check("http:backend", Status::Ok, "http://127.0.0.1:8000: 502");
        if let Some(state) = &mut soft.state {
            (state.attempt, state.status) = (2, Status::Critical.into());
        }
        let mut silent = check("plugin:load", Status::Ok, "OK - load 0.1");
        silent.stale = true;
        let health = HostHealth {
            host: "web-1".into(),
            heard_us: NOW - 10 * MINUTE / 60,
            checks: vec![
                check("units", Status::Ok, "no unit has failed or keeps crashing"),
                soft,
                silent,
                check("disk", Status::Critical, "/ is 97.2 % full; 800 MiB are left"),
            ],
            now_us: NOW,
            ..HostHealth::default()
        };
        insta::assert_snapshot!(host(&health, Traits::default()));
    }

    #[test]
    fn a_host_that_is_away_is_said_to_be_so_first() {
        let health = HostHealth {
            host: "web-2".into(),
            connection: Connection::Down.into(),
            heard_us: NOW - MINUTE / 25,
            checks: vec![CheckHealth { stale: true, ..check("units", Status::Ok, "all run") }],
            problems: vec![Problem {
                status: Status::Critical.into(),
                subject: "web-2".into(),
                summary: "down: no answer for 28 s".into(),
                since_us: NOW - 3 * MINUTE,
                next: "hostlerctl host show web-2".into(),
                ..Problem::default()
            }],
            now_us: NOW,
            ..HostHealth::default()
        };
        insta::assert_snapshot!(host(&health, Traits::default()));
    }

    #[test]
    fn a_check_that_never_ran_or_changes_again_and_again_is_not_ok() {
        let mut never = check("disk", Status::Unspecified, "has not run yet");
        let mut flaps = check("resources", Status::Ok, "the processors are busy for 100 %");
        let mut unsure = check("http:app", Status::Unspecified, "502");
        for (state, attempt) in [(&mut never, 0), (&mut flaps, 0), (&mut unsure, 1)] {
            let state = state.state.as_mut().expect("a state");
            state.attempt = attempt;
            match state.check.as_str() {
                "disk" => (state.checked_us, state.since_us) = (0, 0),
                "resources" => {
                    state.status = Status::Critical.into();
                    (state.flapping, state.flapping_since_us) = (true, NOW - 5 * MINUTE);
                }
                _ => state.status = Status::Critical.into(),
            }
        }
        let health = HostHealth {
            host: "web-1".into(),
            connection: Connection::Up.into(),
            heard_us: NOW - MINUTE / 25,
            checks: vec![check("units", Status::Ok, "no unit has failed"), never, flaps, unsure],
            now_us: NOW,
            ..HostHealth::default()
        };
        insta::assert_snapshot!(host(&health, Traits::default()));
    }

    #[test]
    fn what_is_not_well_says_why_what_to_type_next_and_who_knows_of_it() {
        let mut redis = check("redis:main", Status::Critical, "redis \"main\" does not let us in");
        let mut disk = check("disk", Status::Warning, "/ is 88 % full, and one more");
        let flaps = check("plugin:load", Status::Unknown, "no verdict");
        let fine = check("units", Status::Ok, "all run");
        let finding = |status, said: &str| Finding::new(status, "x", said);
        if let Some(state) = &mut redis.state {
            state.findings = vec![
                finding(Status::Critical, "redis \"main\" does not let us in")
                    .why("look at username and password_file"),
            ];
        }
        if let Some(state) = &mut disk.state {
            state.findings = vec![
                finding(Status::Warning, "/ is 88 % full").next("disk tree /"),
                finding(Status::Warning, "/srv is 86 % full").why("of 85 %").next("disk tree /srv"),
                finding(Status::Ok, "/boot is fine").next("disk tree /boot"),
            ];
        }
        let problem = |check: &str, next: &str, handled: &str| Problem {
            check: check.into(),
            next: next.into(),
            handled: handled.into(),
            ..Problem::default()
        };
        let health = HostHealth {
            host: "web-1".into(),
            connection: Connection::Up.into(),
            heard_us: NOW - MINUTE / 25,
            checks: vec![fine, redis, disk, flaps],
            problems: vec![
                problem("redis:main", "hostlerctl diagnose web-1 redis:main", ""),
                Problem {
                    follows: vec!["plugin:load".into()],
                    ..problem("disk", "hostlerctl disk tree / --on web-1", "in downtime d1: move")
                },
            ],
            now_us: NOW,
            ..HostHealth::default()
        };
        insta::assert_snapshot!(host(&health, Traits::default()));
        let coloured = host(&health, Traits { colour: true, ..Traits::default() });
        let red = coloured.lines().filter(|line| line.contains("\x1b[38;5;9m"));
        assert_eq!(red.count(), 1, "what is handled is not red: {coloured:?}");
    }
}
