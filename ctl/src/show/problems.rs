//! What deserves attention: problems, and what runs out.

use hostler_proto::wire::{Outlook, Problem, Status};

use super::{
    grid::{Cell, parts},
    history::figure,
    report::word,
    value,
};
use crate::{
    exit::Exit,
    screen::{Traits, harmless},
};

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
    with_next(parts(&["RUNS OUT", "WHAT", "FIGURE", "SURE"], &rows, traits), next).concat()
}

/// Rows with the command to type next below them: a line of its own, which can be copied.
fn with_next<'a>(mut parts: Vec<String>, next: impl Iterator<Item = &'a str>) -> Vec<String> {
    for (part, next) in parts.iter_mut().skip(1).zip(next).filter(|(_, next)| !next.is_empty()) {
        part.push_str(&format!("    next: {}\n", harmless(next)));
    }
    parts
}

/// Where it stands in a list: the worst first.
pub fn badness(status: Status) -> u8 {
    match status {
        Status::Critical => 0,
        Status::Unknown => 1,
        Status::Warning => 2,
        Status::Ok | Status::Unspecified => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_774_742_400_000_000;
    const MINUTE: i64 = 60_000_000;

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
}
