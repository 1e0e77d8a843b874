//! How checks stand and stood: problems, one host, its history, downtimes.

use hostler_proto::wire::{
    CheckHealth, CheckState, Connection, DowntimeRecord, HistoryReply, HostHealth, Outlook,
    Problem, Series, Status,
};

use super::{
    fleet,
    grid::{Cell, grid, parts},
    report::word,
    value,
};
use crate::{
    exit::Exit,
    screen::{Traits, harmless},
};

const HOUR_US: i64 = 3_600_000_000;
/// Characters of a sparkline.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Its width.
const WIDTH: usize = 48;

/// The worst that nobody knows of yet.
pub fn exit(problems: &[Problem]) -> Exit {
    let any =
        |wanted: Status| problems.iter().any(|p| p.status() == wanted && p.handled.is_empty());
    match () {
        () if any(Status::Critical) => Exit::Failed,
        () if any(Status::Unknown) => Exit::Unanswered,
        () => Exit::AllWell,
    }
}

/// Problems with what follows from each, and below each the command to type next: the headers, and
/// each problem.
pub fn problems(problems: &[Problem], now_us: i64, traits: Traits) -> Vec<String> {
    let row = |p: &&Problem| {
        let mut summary = p.summary.clone();
        if p.flapping {
            summary += " (flapping)";
        }
        if !p.follows.is_empty() {
            summary += &format!("; with it {}", p.follows.join(", "));
        }
        if !p.handled.is_empty() {
            summary += &format!(" [{}]", p.handled);
        }
        let status = match p.handled.is_empty() {
            true => Cell::word(word(p.status())),
            false => Cell::text(word(p.status())),
        };
        vec![
            status,
            Cell::text(&p.subject),
            Cell::text(value::ago(p.since_us, now_us)),
            Cell::text(summary),
        ]
    };
    let mut problems: Vec<_> = problems.iter().collect();
    // The controller sends the worst first; a stable sort keeps its order among equals.
    problems.sort_by_key(|p| (!p.handled.is_empty(), badness(p.status())));
    let rows: Vec<_> = problems.iter().map(row).collect();
    let next = problems.iter().map(|p| p.next.as_str());
    with_next(parts(&["STATUS", "WHAT", "FOR", "PROBLEM"], &rows, traits), next)
}

/// What runs out soon.
pub fn outlooks(outlooks: &[Outlook], traits: Traits) -> String {
    let row = |o: &Outlook| {
        vec![
            Cell::text(format!("in {}", value::duration(o.runs_out_s))),
            Cell::text(format!("{}: {}", o.host, o.check)),
            Cell::text(figure(&o.name, &o.subject)),
            Cell::text(format!("{:.0} %", o.confidence * 100.0)),
        ]
    };
    if outlooks.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = outlooks.iter().map(row).collect();
    let next = outlooks.iter().map(|o| o.next.as_str());
    with_next(parts(&["RUNS OUT", "WHAT", "FIGURE", "EXPLAINED"], &rows, traits), next).concat()
}

/// Rows with the command to type next below them: a line of its own, which can be copied.
fn with_next<'a>(mut parts: Vec<String>, next: impl Iterator<Item = &'a str>) -> Vec<String> {
    for (part, next) in parts.iter_mut().skip(1).zip(next).filter(|(_, next)| !next.is_empty()) {
        part.push_str(&format!("    next: {}\n", harmless(next)));
    }
    parts
}

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
        page += &format!("{}\n", harmless(&problem.summary));
        if !problem.next.is_empty() {
            page += &format!("    next: {}\n", harmless(&problem.next));
        }
    }
    let away = !matches!(link, Connection::Up | Connection::Unspecified);
    let known = if away { "; how they stand now nobody knows" } else { "" };
    page += &format!("{host}: {} checks, {heard}{known}\n\n", health.checks.len());
    let mut checks: Vec<&CheckHealth> = health.checks.iter().collect();
    checks.sort_by_key(|c| rank(c));
    let rows: Vec<_> = checks.iter().filter_map(|c| row(c, away, health.now_us)).collect();
    page += &grid(&["STATUS", "CHECK", "FOR", "RAN", "WHAT IT SAID"], &rows, traits);
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

fn badness(status: Status) -> u8 {
    match status {
        Status::Critical => 0,
        Status::Unknown => 1,
        Status::Warning => 2,
        Status::Ok | Status::Unspecified => 3,
    }
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

/// A state of a check in one word.
fn state_word(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "pending",
        status => word(status),
    }
}

fn row(check: &CheckHealth, away: bool, now_us: i64) -> Option<Vec<Cell>> {
    let state = check.state.as_ref()?;
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
    Some(vec![
        Cell::word(state_word(hard(state, check.stale))),
        Cell::text(&state.check),
        Cell::text(value::ago(since_us, now_us)),
        Cell::text(value::ago(state.checked_us, now_us)),
        Cell::text(said),
    ])
}

/// How the checks of a host changed, and their figures.
pub fn history(history: &HistoryReply, traits: Traits) -> String {
    let mut page = String::new();
    let row = |t: &hostler_proto::wire::Turn| {
        vec![
            Cell::text(value::moment(t.at_us)),
            // The host's link is the check without a name.
            Cell::text(if t.check.is_empty() { "(host)" } else { &t.check }),
            Cell::word(state_word(t.became())),
            Cell::text(match (t.hard, t.check.is_empty()) {
                (true, _) if t.was() == Status::Unspecified => "not known".to_owned(),
                (true, _) => format!("was {}", word(t.was())),
                // It began to flap, or no longer does; what it said tells which.
                (false, false) => "the same".to_owned(),
                (false, true) => String::new(),
            }),
            Cell::text(&t.summary),
        ]
    };
    let rows: Vec<_> = history.turns.iter().map(row).collect();
    match rows.is_empty() {
        true => page += "no check changed in that time\n",
        false => {
            page += &grid(&["WHEN", "CHECK", "STATUS", "BEFORE", "WHAT IT SAID"], &rows, traits)
        }
    }
    if !history.series.is_empty() {
        let rows: Vec<_> = history.series.iter().map(series).collect();
        page.push('\n');
        page += &grid(&["CHECK", "FIGURE", "OVER TIME", "NOW", "RUNS OUT"], &rows, traits);
    }
    page
}

fn series(series: &Series) -> Vec<Cell> {
    let runs_out = series.runs_out_s.map(|seconds| {
        let sure = series.confidence * 100.0;
        format!("in {} ({sure:.0} % explained)", value::duration(seconds))
    });
    vec![
        Cell::text(&series.check),
        Cell::text(figure(&series.name, &series.subject)),
        Cell::text(spark(&evenly(&series.at_us, &series.mean))),
        Cell::number(amount(series.last, &series.unit)),
        Cell::text(runs_out.unwrap_or_default()),
    ]
}

/// What is counted, and of what.
fn figure(name: &str, subject: &str) -> String {
    format!("{name} {subject}").trim_end().to_owned()
}

fn amount(number: f64, unit: &str) -> String {
    match unit {
        "bytes" => value::bytes(number),
        "s" => value::duration(number),
        "percent" => format!("{number:.1} %"),
        unit => format!("{} {unit}", (number * 100.0).round() / 100.0).trim_end().to_owned(),
    }
}

/// Points at any times as values at even ones: means of hours and of minutes lie on one line. A
/// point holds until the next, but not for longer than an hour; then nothing is known.
fn evenly(at_us: &[i64], values: &[f64]) -> Vec<f64> {
    let points: Vec<(i64, f64)> = at_us.iter().copied().zip(values.iter().copied()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let parts = WIDTH.min(points.len());
    let length = (last.0 - first.0) / i64::try_from(parts).unwrap_or(i64::MAX) + 1;
    let (mut even, mut rest, mut held) = (Vec::with_capacity(parts), points.as_slice(), *first);
    for begins in (0..parts).scan(first.0, |at, _| Some(std::mem::replace(at, *at + length))) {
        let (within, after) = rest.split_at(rest.partition_point(|p| p.0 < begins + length));
        rest = after;
        #[expect(clippy::cast_precision_loss, reason = "a number of points")]
        let mean = within.iter().map(|p| p.1).sum::<f64>() / within.len() as f64;
        even.push(match within.last() {
            Some(point) => {
                held = *point;
                mean
            }
            None if begins - held.0 <= HOUR_US => held.1,
            None => f64::NAN,
        });
    }
    even
}

/// Values in one line of text; blank where there is none.
pub fn spark(values: &[f64]) -> String {
    let values = &values[values.len().saturating_sub(WIDTH)..];
    let (least, most) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(*v), m.max(*v)));
    let step = |v: f64| {
        let share = if most > least { (v - least) / (most - least) } else { 0.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share times seven"
        )]
        let at = (share * 7.0).round() as usize;
        SPARKS[at.min(7)]
    };
    values.iter().map(|v| if v.is_finite() { step(*v) } else { ' ' }).collect()
}

/// Downtimes.
pub fn downtimes(downtimes: &[DowntimeRecord], now_us: i64, traits: Traits) -> String {
    let row = |d: &DowntimeRecord| {
        let state = match () {
            () if d.begins_us > now_us => "begins later",
            () if d.lasts_s > 0 => "waits for a problem",
            () => "now",
        };
        vec![
            Cell::text(&d.id),
            Cell::text(&d.on),
            Cell::text(&d.checks),
            Cell::text(value::moment(d.begins_us)),
            Cell::text(value::moment(d.ends_us)),
            Cell::text(state),
            Cell::text(&d.made_by),
            Cell::text(&d.comment),
        ]
    };
    let rows: Vec<_> = downtimes.iter().map(row).collect();
    grid(&["ID", "HOSTS", "CHECKS", "FROM", "UNTIL", "STATE", "BY", "COMMENT"], &rows, traits)
}

#[cfg(test)]
mod tests {
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
    fn history_tells_what_was_before_and_when_a_figure_reaches_its_end() {
        let turn = |check: &str, was: Status, became: Status, hard: bool, summary: &str| {
            hostler_proto::wire::Turn {
                check: check.into(),
                was: was.into(),
                became: became.into(),
                hard,
                flapping: !hard,
                at_us: NOW - 60 * MINUTE,
                summary: summary.into(),
                ..hostler_proto::wire::Turn::default()
            }
        };
        let away = "its agent was stopped on purpose";
        let history = HistoryReply {
            host: "web-1".into(),
            turns: vec![
                turn("", Status::Ok, Status::Warning, true, away),
                turn("disk", Status::Warning, Status::Warning, false, "it began to flap: 90 %"),
                turn("units", Status::Unspecified, Status::Critical, true, "1 unit has failed"),
            ],
            series: vec![Series {
                check: "disk".into(),
                name: "used".into(),
                subject: "/srv".into(),
                unit: "bytes".into(),
                at_us: (0..12).map(|n| NOW - (12 - n) * 5 * MINUTE).collect(),
                mean: (0..12).map(|n| f64::from(n) * 1e9).collect(),
                last: 11e9,
                limit: Some(20e9),
                runs_out_s: Some(2_700.0),
                confidence: 0.97,
                ..Series::default()
            }],
            now_us: NOW,
        };
        insta::assert_snapshot!(super::history(&history, Traits::default()));
    }

    #[test]
    fn what_to_type_next_is_a_line_of_its_own_whatever_the_width() {
        let next =
            "hostlerctl journal read --unit postgresql@15-main.service --lines 50 --on web-1";
        let problem = Problem {
            status: Status::Critical.into(),
            subject: "web-1: unit:postgresql".into(),
            summary: "postgresql@15-main.service has failed: exit status 1, again and again".into(),
            since_us: NOW - 5 * MINUTE,
            next: next.into(),
            flapping: true,
            ..Problem::default()
        };
        let narrow = Traits { fitted: true, width: 60, ..Traits::default() };
        let page = problems(&[problem], NOW, narrow).concat();
        assert!(page.lines().any(|line| line == format!("    next: {next}")), "{page}");
        assert!(page.lines().count() > 4, "the rest is folded: {page}");
    }

    #[test]
    fn problems_say_what_follows_and_who_knows_of_them() {
        let list = [
            Problem {
                status: Status::Critical.into(),
                subject: "web-1: unit:postgresql".into(),
                summary: "postgresql@15-main.service has failed: exit status 1".into(),
                since_us: NOW - 5 * MINUTE,
                next: "hostlerctl journal read --unit postgresql@15-main.service --on web-1".into(),
                follows: vec!["http:backend".into(), "postgres:main".into()],
                ..Problem::default()
            },
            Problem {
                status: Status::Warning.into(),
                subject: "db-1: disk".into(),
                summary: "/ is 88.0 % full".into(),
                since_us: NOW - 600 * MINUTE,
                next: "hostlerctl disk tree / --on db-1".into(),
                handled: "acknowledged by eve: new disk at noon".into(),
                ..Problem::default()
            },
        ];
        insta::assert_snapshot!(problems(&list, NOW, Traits::default()).concat());
        assert_eq!(exit(&list), Exit::Failed);
        assert_eq!(exit(&list[1..]), Exit::AllWell);
    }

    #[test]
    fn hours_and_minutes_lie_on_one_line_and_a_gap_is_a_gap() {
        let minute = HOUR_US / 60;
        // Twenty hours of 1.0, then an hour of twelve spans of 2.0: the last hour is not half of it.
        let hours = (0..20).map(|n| (n * HOUR_US, 1.0));
        let spans = (0..12).map(|n| (20 * HOUR_US + n * 5 * minute, 2.0));
        let (at, values): (Vec<_>, Vec<_>) = hours.chain(spans).unzip();
        let even = evenly(&at, &values);
        let low = even.iter().filter(|v| **v < 1.5).count();
        assert!(low * 10 > even.len() * 9, "{even:?}");
        let even = evenly(&[0, HOUR_US, 9 * HOUR_US, 10 * HOUR_US], &[1.0, 1.0, 3.0, 3.0]);
        assert!(even.iter().any(|v| v.is_nan()), "{even:?}");
        assert!(evenly(&[], &[]).is_empty());
        assert_eq!(evenly(&[5], &[1.0]), [1.0]);
    }

    #[test]
    fn a_sparkline_spans_from_the_least_to_the_most_and_is_flat_when_nothing_changes() {
        assert_eq!(spark(&[0.0, 1.0, 7.0]), "▁▂█");
        assert_eq!(spark(&[5.0, 5.0]), "▁▁");
        assert_eq!(spark(&[]), "");
        assert_eq!(spark(&vec![1.0; 500]).chars().count(), WIDTH);
    }
}
