//! How the fleet is, on one page: counts, problems with the worst first, what runs out, certificates.

use hostler_proto::wire::FleetStatus;

use super::{
    grid::{Cell, Tone, grid},
    problems, value,
};
use crate::{
    exit::Exit,
    screen::{Traits, harmless},
};

/// With fewer days than this a certificate that should have been renewed needs somebody now.
const NOW_DAYS: f64 = 7.0;

/// The page, of at most so many lines when that is said: what is left out of it are the problems that
/// are least bad.
pub fn page(status: &FleetStatus, room: Option<usize>, traits: Traits) -> String {
    let head = head(status);
    let mut tail = String::new();
    for part in [problems::outlooks(&status.outlooks, traits), certificates(status, traits)] {
        if !part.is_empty() {
            tail.push('\n');
            tail += &part;
        }
    }
    if status.problems.is_empty() && status.more_problems == 0 {
        return format!("{head}no problems\n{tail}");
    }
    let problems = problems::problems(&status.problems, status.now_us, traits);
    // An empty line before them, and one that says how many there are beyond.
    let taken = lines(&head, traits) + lines(&tail, traits) + 2;
    let fits = room.map_or(problems.len(), |room| {
        let mut room = room.saturating_sub(taken);
        let fits = |part: &&String| {
            let left = room.checked_sub(lines(part, traits));
            left.inspect(|left| room = *left).is_some()
        };
        // One problem at least, under its headers.
        problems.iter().take_while(fits).count().max(2)
    });
    let (shown, cut) = problems.split_at(fits.min(problems.len()));
    let more = cut.len() + status.more_problems as usize;
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    format!("{head}\n{}{more}{tail}", shown.concat())
}

/// How many hosts and checks there are, and how they are.
fn head(status: &FleetStatus) -> String {
    let mut counts = vec![format!("{} up", status.up)];
    let others = [
        (status.degraded, "of them degraded"),
        (status.down, "down"),
        (status.unreachable, "unreachable"),
        (status.stopped, "stopped"),
        (status.never, "never connected"),
        (status.revoked, "revoked"),
    ];
    counts.extend(others.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    let hosts = if status.hosts == 1 { "host" } else { "hosts" };
    let mut head = format!(
        "fleet {}, controller {}: {} {hosts}, {}\n",
        harmless(&status.fleet),
        harmless(&status.controller_version),
        status.hosts,
        counts.join(", ")
    );
    let all = status.checks_ok + status.checks_bad + status.checks_pending;
    let ill = [(status.checks_bad, "not well"), (status.checks_pending, "not run yet")];
    let ill: Vec<_> =
        ill.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let how = if ill.is_empty() { "all well".to_owned() } else { ill.join(", ") };
    if all > 0 {
        let checks = if all == 1 { "check" } else { "checks" };
        head += &format!("{all} {checks}, {how}\n");
    }
    head
}

/// How many lines of the terminal a text takes; what is longer than one goes on in the next.
fn lines(text: &str, traits: Traits) -> usize {
    let width = usize::from(traits.width);
    let of = |line: &str| match line.contains('\x1b') || width == 0 {
        // A row of a table fits.
        true => 1,
        false => line.chars().count().div_ceil(width).max(1),
    };
    text.lines().map(of).sum()
}

/// How the program ends after showing it.
pub fn exit(status: &FleetStatus) -> Exit {
    problems::exit(&status.problems)
}

/// The controller sends the authority's, its own, and of the hosts and the operators those that end
/// first.
fn certificates(status: &FleetStatus, traits: Traits) -> String {
    let mut ending: Vec<_> = status
        .certificates
        .iter()
        .map(|c| (value::seconds(c.until_us.saturating_sub(status.now_us)) / 86_400.0, c))
        .collect();
    ending.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows: Vec<_> = ending
        .into_iter()
        .map(|(days, certificate)| {
            let mut left = match days {
                ..0.0 => "ended".to_owned(),
                _ => format!("{} days left", days.floor()),
            };
            if certificate.count > 1 {
                left += &format!(", the first of {}", certificate.count);
            }
            let tone = match days {
                ..0.0 => Tone::Bad,
                _ if !certificate.overdue => Tone::Plain,
                ..NOW_DAYS => Tone::Bad,
                _ => Tone::Odd,
            };
            vec![
                Cell::text(&certificate.subject),
                Cell { tone, ..Cell::text(left) },
                Cell::text(value::moment(certificate.until_us)),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => grid(&["CERTIFICATE", "LEFT", "UNTIL"], &rows, traits),
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{CertificateRecord, Outlook, Problem, Status};

    use super::*;

    const NOW: i64 = 1_774_742_400_000_000;
    const DAY: i64 = 86_400_000_000;

    fn problem(status: Status, subject: &str, summary: &str, next: &str) -> Problem {
        Problem {
            status: status.into(),
            subject: subject.into(),
            summary: summary.into(),
            since_us: NOW - DAY / 10,
            next: next.into(),
            ..Problem::default()
        }
    }

    fn certificate(subject: &str, days: i64) -> CertificateRecord {
        let until_us = NOW + days * DAY;
        CertificateRecord { subject: subject.into(), until_us, count: 1, overdue: false }
    }

    fn fleet() -> FleetStatus {
        FleetStatus {
            hosts: 40,
            up: 38,
            down: 1,
            never: 1,
            fleet: "prod".into(),
            controller_version: "0.1.0".into(),
            now_us: NOW,
            ..FleetStatus::default()
        }
    }

    #[test]
    fn a_fleet_without_problems_is_two_lines() {
        insta::assert_snapshot!(page(&fleet(), None, Traits::default()), @"
        fleet prod, controller 0.1.0: 40 hosts, 38 up, 1 down, 1 never connected
        no problems
        ");
    }

    #[test]
    fn the_worst_problem_and_the_certificate_that_ends_first_come_first() {
        let status = FleetStatus {
            problems: vec![
                problem(Status::Warning, "db-1", "never connected", "hostlerctl host show db-1"),
                problem(Status::Critical, "web-3", "link lost: \x1b[2Jreset", ""),
            ],
            more_problems: 3,
            certificates: vec![
                certificate("authority", 3000),
                certificate("controller", 12),
                certificate("host web-3", -1),
                CertificateRecord { count: 3, overdue: true, ..certificate("operator eve", 9) },
            ],
            ..fleet()
        };
        insta::assert_snapshot!(page(&status, None, Traits::default()));
        assert_eq!(exit(&status), Exit::Failed);
    }

    #[test]
    fn checks_that_did_not_run_yet_are_not_well_and_hosts_with_one_that_is_not_are_degraded() {
        let of = |ok, bad, pending| {
            let status = FleetStatus {
                checks_ok: ok,
                checks_bad: bad,
                checks_pending: pending,
                degraded: bad.min(2),
                ..fleet()
            };
            let page = page(&status, None, Traits::default());
            page.lines().take(2).map(str::to_owned).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!([of(26, 0, 0), of(2, 0, 24), of(20, 3, 3)].join("\n"));
    }

    #[test]
    fn what_runs_out_soon_is_told_with_the_command_to_type_next() {
        let outlook = Outlook {
            host: "web-3".into(),
            check: "disk".into(),
            name: "used".into(),
            subject: "/srv".into(),
            runs_out_s: 190_000.0,
            confidence: 0.87,
            next: "hostlerctl history web-3 disk".into(),
        };
        let status = FleetStatus { outlooks: vec![outlook], ..fleet() };
        insta::assert_snapshot!(page(&status, None, Traits::default()));
    }

    #[test]
    fn a_page_that_is_higher_than_the_terminal_keeps_the_worst() {
        let one = |n: i32| {
            let status = if n == 7 { Status::Critical } else { Status::Warning };
            problem(status, &format!("web-{n}"), "not well", "hostlerctl health web-1")
        };
        let status = FleetStatus {
            problems: (0..20).map(one).collect(),
            more_problems: 5,
            certificates: vec![certificate("authority", 3000)],
            ..fleet()
        };
        let traits = Traits { fitted: true, width: 80, height: 24, ..Traits::default() };
        let page = page(&status, Some(24), traits);
        assert!(page.lines().count() <= 24, "{page}");
        assert!(page.contains("CRITICAL  web-7"), "{page}");
        assert!(page.contains("\nand 17 more\n"), "{page}");
        assert!(page.contains("authority"), "{page}");
        let low = super::page(&status, Some(3), traits);
        assert!(low.contains("web-7") && low.contains("and 24 more"), "{low}");
        assert!(super::page(&status, None, traits).contains("and 5 more"));
    }
}
