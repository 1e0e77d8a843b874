//! What is told of problems: roots, what follows, and what people know of.

use hostler_proto::wire::{CheckState, Finding};
use proptest::prelude::*;

use super::*;
use crate::health::{
    Left,
    absence::{Lost, absences},
    clock::WRONG_US,
    silence::Checks,
};

const NOW: i64 = 1_000_000_000_000;

fn row(name: &str, connection: Connection) -> HostRow {
    HostRow {
        name: name.parse().expect("name"),
        labels: BTreeMap::new(),
        certificate_until_us: NOW + 20 * DAY_US,
        connection,
        since_us: 7,
        reason: "it fell silent".into(),
        ..HostRow::nobody()
    }
}

fn host(checks: &[(&str, Status, &[&str])]) -> Host {
    let standing = |(name, hard, after): &(&str, Status, &[&str])| {
        let state = CheckState {
            check: (*name).to_owned(),
            hard: (*hard).into(),
            since_us: 5,
            interval_s: 60,
            summary: format!("{name} is not well"),
            after: after.iter().map(|a| (*a).to_owned()).collect(),
            ..CheckState::default()
        };
        ((*name).to_owned(), Standing::new(state, NOW))
    };
    Host { checks: checks.iter().map(standing).collect(), ..Host::default() }
}

fn seen(rows: &[HostRow], hosts: &[(&str, Host)], known: &Known) -> Vec<Problem> {
    let health = hosts.iter().map(|(n, h)| (n.parse().expect("name"), h.clone())).collect();
    let rows: Vec<_> = rows.iter().cloned().map(Arc::new).collect();
    let absences = absences(&rows, &health, NOW);
    problems(&rows, &health, &absences, known, NOW)
}

#[test]
fn what_follows_from_a_dead_database_is_told_with_it_and_not_beside_it() {
    let web = host(&[
        ("unit:postgresql", Status::Critical, &[]),
        ("postgres:main", Status::Critical, &["unit:postgresql"]),
        ("http:backend", Status::Critical, &["postgres:main"]),
        ("disk", Status::Warning, &[]),
        ("host", Status::Ok, &[]),
    ]);
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.check.as_str(), p.follows.clone())).collect();
    let both = vec!["http:backend".to_owned(), "postgres:main".to_owned()];
    assert_eq!(told, [("unit:postgresql", both), ("disk", vec![])]);
}

#[test]
fn hosts_that_cannot_be_reached_for_one_reason_are_one_problem() {
    let silent = |name: &str, address: &str| HostRow {
        lost: Some(Lost::Silent),
        address: format!("{address}:1"),
        ..row(name, Connection::Down)
    };
    let via = |name: &str, address: &str, via: &str| {
        let mut host = silent(name, address);
        host.labels.insert("via".into(), via.into());
        host
    };
    let rows = [
        silent("a-1", "10.0.1.1"),
        silent("a-2", "10.0.1.2"),
        silent("a-3", "10.0.1.3"),
        silent("alone", "10.0.2.1"),
        via("after-a", "10.9.8.9", "a-2"),
        via("behind", "10.9.9.9", "alone"),
        via("farther", "10.9.7.9", "behind"),
    ];
    let found = seen(&rows, &[], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.hosts.len(), p.follows.clone())).collect();
    let follow = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(told, [(3, follow(&["after-a"])), (1, follow(&["behind", "farther"]))]);
    assert!(found[0].summary.contains("unreachable: all hosts of 10.0.1.0/24"));
    assert!(found[1].summary.starts_with("down: "));
    let only = seen(&rows[5..6], &[], &Known::default());
    assert_eq!(only.len(), 1, "without its root it is told itself");
}

#[test]
fn what_is_worse_than_its_root_is_told_on_its_own() {
    let web = host(&[
        ("redis:main", Status::Warning, &[]),
        ("celery:app", Status::Critical, &["redis:main"]),
    ]);
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.check.as_str(), p.status)).collect();
    assert_eq!(told, [("celery:app", Status::Critical), ("redis:main", Status::Warning)]);
}

#[test]
fn one_cause_is_one_problem_though_what_it_needs_is_not_quite_well_either() {
    let web = host(&[
        ("unit:redis", Status::Warning, &[]),
        ("redis:main", Status::Critical, &["unit:redis"]),
        ("http:backend", Status::Critical, &["redis:main"]),
        ("celery:app", Status::Critical, &["redis:main"]),
        ("celery-queues:app", Status::Unknown, &["celery:app"]),
    ]);
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.check.as_str(), p.follows.len())).collect();
    assert_eq!(told, [("redis:main", 3), ("unit:redis", 0)]);
}

#[test]
fn a_cause_that_is_not_sure_yet_is_told_as_what_is_being_confirmed() {
    let mut web = host(&[
        ("unit:postgresql", Status::Ok, &[]),
        ("postgres:main", Status::Ok, &["unit:postgresql"]),
        ("postgres-locks:main", Status::Critical, &["postgres:main"]),
    ]);
    for name in ["unit:postgresql", "postgres:main"] {
        let soft = CheckState {
            status: Status::Critical.into(),
            checked_us: NOW,
            attempt: 1,
            attempts: 3,
            ..web.checks.get(name).expect("a check").state()
        };
        web.checks.insert(name, Standing::new(soft, NOW));
    }
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].check.as_str(), found[0].unconfirmed), ("unit:postgresql", true));
    assert_eq!(found[0].follows, ["postgres-locks:main"]);
    let said = "being confirmed, attempt 1 of 3: unit:postgresql is not well";
    assert_eq!((found[0].status, found[0].summary.as_str()), (Status::Critical, said));
}

#[test]
fn what_to_type_next_is_what_the_finding_says_that_is_so_bad() {
    let mut web = host(&[("logs", Status::Critical, &[])]);
    let of = |status, next: &str| Finding::new(status, "x", "x").next(next);
    let findings = vec![
        of(Status::Warning, "disk usage"),
        of(Status::Critical, "logs tail /opt/omnidoc/logs/*.log"),
    ];
    let state = CheckState { findings, ..web.checks.get("logs").expect("a check").state() };
    web.checks.insert("logs", Standing::new(state, NOW));
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    let next = "hostlerctl logs tail '/opt/omnidoc/logs/*.log' --on web-1";
    assert_eq!(found[0].next, next);
}

#[test]
fn checks_that_need_each_other_are_all_told() {
    let web = host(&[("a", Status::Critical, &["b"]), ("b", Status::Critical, &["a"])]);
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    assert_eq!(found.len(), 2);
}

#[test]
fn of_a_host_that_is_away_only_that_is_told_and_one_that_left_is_no_emergency() {
    let web = host(&[("disk", Status::Critical, &[])]);
    let left = Host { left: Left::Agent, ..web.clone() };
    let rows = [row("web-1", Connection::Down), row("web-2", Connection::Down)];
    let found = seen(&rows, &[("web-1", web), ("web-2", left)], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.status, p.summary.as_str())).collect();
    assert_eq!(told[0], (Status::Critical, "down: it fell silent"));
    assert_eq!(told[1], (Status::Warning, "its agent was stopped on purpose"));
}

#[test]
fn hosts_of_a_place_that_a_start_of_the_controller_missed_are_one_problem_that_claims_no_more() {
    let missing = |name: &str, address: &str| HostRow {
        lost: Some(Lost::Restart),
        address: format!("{address}:4711"),
        since_us: NOW - 200_000_000,
        ..row(name, Connection::Down)
    };
    let rows = [missing("a-1", "10.0.1.1"), missing("a-2", "10.0.1.2"), missing("b-1", "10.0.2.1")];
    let found = seen(&rows, &[], &Known::default());
    let told: Vec<_> = found.iter().map(|p| (p.hosts.len(), p.status)).collect();
    assert_eq!(told, [(2, Status::Critical), (1, Status::Critical)]);
    assert!(found[0].summary.starts_with("down: no host of 10.0.1.0/24 was there when"));
    assert!(found[1].summary.starts_with("down: it was not there when the controller was started"));
}

#[test]
fn what_somebody_knows_of_comes_last() {
    let web = host(&[("disk", Status::Critical, &[]), ("units", Status::Warning, &[])]);
    let known = Known {
        downtimes: vec![Downtime {
            id: "d1".into(),
            hosts: "web-1".parse().expect("selector"),
            checks: Checks::new("disk").expect("pattern"),
            begins_us: 0,
            ends_us: i64::MAX,
            lasts_us: None,
            begun: HashMap::new(),
            made_by: "eve".into(),
            comment: "new disk".into(),
        }],
        ..Known::default()
    };
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &known);
    assert_eq!((found[0].check.as_str(), found[1].check.as_str()), ("units", "disk"));
    assert_eq!(found[1].handled, "in downtime d1: new disk");
}

#[test]
fn a_check_that_flaps_is_a_problem_also_while_it_is_well() {
    let mut web = host(&[("disk", Status::Ok, &[])]);
    let state = CheckState {
        flapping: true,
        flapping_since_us: 77,
        status: Status::Critical.into(),
        checked_us: NOW,
        ..web.checks.get("disk").expect("a check").state()
    };
    web.checks.insert("disk", Standing::new(state, NOW));
    let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
    assert_eq!((found[0].status, found[0].flapping), (Status::Warning, true));
    let said = "it changes again and again; last: critical: disk is not well";
    assert_eq!((found[0].summary.as_str(), found[0].since_us), (said, 77));
}

#[test]
fn a_problem_that_many_hosts_share_is_told_once() {
    let names: Vec<String> = (1..=5).map(|n| format!("web-{n}")).collect();
    let rows: Vec<_> = names.iter().map(|n| row(n, Connection::Up)).collect();
    let full = || host(&[("disk", Status::Critical, &[])]);
    let hosts: Vec<_> = names.iter().map(|n| (n.as_str(), full())).collect();
    let found = fold(seen(&rows, &hosts, &Known::default()));
    assert_eq!((found.len(), found[0].hosts.len()), (1, 5));
    assert_eq!(found[0].next, "hostlerctl problems --on 'check(disk)=critical'");
    let few = fold(seen(&rows[..3], &hosts[..3], &Known::default()));
    assert_eq!(few.len(), 3);
}

proptest! {
    #[test]
    fn every_check_that_is_not_well_is_told_once_as_a_problem_or_with_its_root(
        bad in prop::collection::vec(any::<bool>(), 6),
        needs in prop::collection::vec(prop::collection::vec(0..6_usize, 0..3), 6),
    ) {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let needed: Vec<Vec<&str>> =
            needs.iter().map(|n| n.iter().map(|i| NAMES[*i]).collect()).collect();
        let checks: Vec<_> = (0..6).map(|i| {
            let status = if bad[i] { Status::Critical } else { Status::Ok };
            (NAMES[i], status, needed[i].as_slice())
        }).collect();
        let found = of_checks(&"web-1".parse().expect("name"), &host(&checks), NOW);
        let mut told: Vec<&str> = found.iter()
            .flat_map(|p| std::iter::once(p.check.as_str()).chain(p.follows.iter().map(String::as_str)))
            .collect();
        told.sort_unstable();
        let all: Vec<&str> = (0..6).filter(|i| bad[*i]).map(|i| NAMES[i]).collect();
        prop_assert_eq!(told, all);
    }
}

#[test]
fn an_agent_whose_certificate_was_not_renewed_is_asked_why_while_it_is_linked() {
    for (until_us, status) in [(NOW + 2 * DAY_US, Status::Warning), (NOW - 1, Status::Critical)] {
        let late = HostRow { certificate_until_us: until_us, ..row("web-1", Connection::Up) };
        let found = seen(&[late], &[], &Known::default());
        let next = "hostlerctl journal read hostler-agent --match renewed --on web-1";
        assert_eq!((found[0].status, found[0].next.as_str()), (status, next));
    }
}

#[test]
fn a_check_that_says_no_next_step_is_looked_into_further_than_it_looked_itself() {
    let of = |check: &str, operation: &str, flapping: bool| {
        let (check, operation) = (check.to_owned(), operation.to_owned());
        let findings = vec![Finding::new(Status::Critical, "x", "x").why("a wrong password")];
        let state = CheckState { check, operation, findings, flapping, ..CheckState::default() };
        next_of_check(&"web-1".parse().expect("name"), &state, Status::Critical)
    };
    for (check, operation, next) in [
        ("redis:main", "redis.status", "diagnose web-1 redis:main"),
        ("postgres-locks:main", "postgres.locks", "diagnose web-1 postgres:main"),
        ("http:backend", "http.check", "diagnose web-1 http:backend"),
        ("plugin:load", "plugin.run", "plugin run load --on web-1"),
        ("nginx-config", "nginx.test", "nginx test --on web-1"),
        ("data-disk", "disk.usage", "disk usage --on web-1"),
        ("pip:app", "pip.outdated", "pip outdated app --on web-1"),
        // Its name does not tell which files they are.
        ("logs:app", "logs.errors", "history web-1 logs:app"),
        ("new", "of.a-newer-agent", "history web-1 new"),
    ] {
        assert_eq!(of(check, operation, false), format!("hostlerctl {next}"));
    }
    assert_eq!(of("redis:main", "redis.status", true), "hostlerctl history web-1 redis:main");
}

#[test]
fn a_clock_that_is_wrong_is_a_problem_of_its_host_while_that_is_linked() {
    let with = |skew_us| Host { skew_us, ..host(&[]) };
    let seen = |connection, skew_us| {
        seen(&[row("web-1", connection)], &[("web-1", with(skew_us))], &Known::default())
    };
    assert!(seen(Connection::Up, WRONG_US - 1).is_empty());
    let found = seen(Connection::Up, -3_600_000_000);
    assert_eq!(found[0].summary, "its clock is 3600 s ahead of the controller's");
    assert_eq!(found[0].status, Status::Warning);
    assert_eq!(
        seen(Connection::Up, WRONG_US)[0].summary,
        "its clock is 60 s behind the controller's"
    );
    assert_eq!(seen(Connection::Down, WRONG_US).len(), 1, "nobody knows how it is");
}

#[test]
fn what_is_wrong_with_the_controllers_clock_is_no_problem_of_its_hosts() {
    let behind = || Host { skew_us: WRONG_US, heard_us: NOW, ..host(&[]) };
    let names = ["web-1", "web-2", "web-3"];
    let rows = names.map(|name| row(name, Connection::Up));
    let hosts = names.map(|name| (name, behind()));
    assert!(seen(&rows, &hosts, &Known::default()).is_empty());
    assert_eq!(seen(&rows[..1], &hosts[..2], &Known::default()).len(), 1, "two cannot say");
}
