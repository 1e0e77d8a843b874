//! How the fleet is, on one page: counts, problems with the worst first, certificates that end.

use hostler_proto::wire::FleetStatus;

use super::{
    grid::{Cell, Tone, grid},
    health, value,
};
use crate::{
    exit::Exit,
    screen::{Traits, harmless},
};

/// A certificate with more days left than this is not worth a line.
const SOON_DAYS: f64 = 30.0;
/// With fewer days than this it needs somebody now.
const NOW_DAYS: f64 = 7.0;

/// The page.
pub fn page(status: &FleetStatus, traits: Traits) -> String {
    let mut counts = vec![format!("{} up", status.up)];
    let others = [
        (status.down, "down"),
        (status.unreachable, "unreachable"),
        (status.stopped, "stopped"),
        (status.never, "never connected"),
        (status.revoked, "revoked"),
    ];
    counts.extend(others.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    let hosts = if status.hosts == 1 { "host" } else { "hosts" };
    let mut page = format!(
        "fleet {}, controller {}: {} {hosts}, {}\n",
        harmless(&status.fleet),
        harmless(&status.controller_version),
        status.hosts,
        counts.join(", ")
    );
    if status.checks_ok + status.checks_bad > 0 {
        page += &match status.checks_bad {
            0 => format!("{} checks, all well\n", status.checks_ok),
            bad => format!("{} checks, {bad} not well\n", status.checks_ok + bad),
        };
    }
    if status.problems.is_empty() && status.more_problems == 0 {
        page.push_str("no problems\n");
    } else {
        page.push('\n');
        page.push_str(&health::problems(&status.problems, status.now_us, traits));
        if status.more_problems > 0 {
            page.push_str(&format!("and {} more\n", status.more_problems));
        }
    }
    let certificates = certificates(status, traits);
    if !certificates.is_empty() {
        page.push('\n');
        page.push_str(&certificates);
    }
    page
}

/// How the program ends after showing it.
pub fn exit(status: &FleetStatus) -> Exit {
    health::exit(&status.problems)
}

/// The controller sends the authority's, its own, and that of the host whose ends first.
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
            let left = match days {
                ..0.0 => "ended".to_owned(),
                _ => format!("{} days left", days.floor()),
            };
            let tone = match days {
                ..NOW_DAYS => Tone::Bad,
                ..SOON_DAYS => Tone::Odd,
                _ => Tone::Plain,
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
    use hostler_proto::wire::{CertificateRecord, Problem, Status};

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
        CertificateRecord { subject: subject.into(), until_us: NOW + days * DAY }
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
        insta::assert_snapshot!(page(&fleet(), Traits::default()), @"
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
                certificate("web-3", -1),
            ],
            ..fleet()
        };
        insta::assert_snapshot!(page(&status, Traits::default()));
        assert_eq!(exit(&status), Exit::Failed);
    }
}
