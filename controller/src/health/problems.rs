//! What deserves attention, the worst first. Pure: from what is known and the time.
//!
//! A check that needs another one is no problem of its own while that one is not well: it is told
//! with its root. Of a host that is away only that is told: how it is nobody knows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hostler_proto::{
    name::HostName,
    wire::{Finding, Status},
};

use super::{
    Host, Standing,
    absence::Absence,
    silence::{Acknowledgement, Downtime},
};
use crate::store::{Connection, HostRow};

const DAY_US: i64 = 86_400_000_000;
/// A certificate renews itself at two thirds of its life; below so many days that did not work.
const RENEWED_DAYS: i64 = 3;
/// From so many hosts on one problem that they share is told once.
const SHARED: usize = 4;

/// Something that deserves attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How badly.
    pub status: Status,
    /// The hosts; more than one when they share it.
    pub hosts: Vec<HostName>,
    /// The check; empty for what concerns the host itself.
    pub check: String,
    /// In one sentence.
    pub summary: String,
    /// Since when.
    pub since_us: i64,
    /// What to type next.
    pub next: String,
    /// Checks that are not well either, because of this.
    pub follows: Vec<String>,
    /// Who knows of it already, in a few words; empty when nobody does.
    pub handled: String,
    /// It changes again and again.
    pub flapping: bool,
}

/// What people know already.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Downtimes that may cover something.
    pub downtimes: Vec<Downtime>,
    /// Acknowledgements by host and check.
    pub acknowledgements: HashMap<(String, String), Acknowledgement>,
}

impl Known {
    /// Who knows of a problem that has been there since some time, in a few words; empty when nobody
    /// does.
    pub fn of(&self, host: &HostRow, check: &str, since_us: i64, now_us: i64) -> String {
        let key = (host.name.to_string(), check.to_owned());
        let counts = |a: &&Acknowledgement| a.counts(since_us, now_us);
        if let Some(found) = self.acknowledgements.get(&key).filter(counts) {
            return format!("acknowledged by {}: {}", found.made_by, found.comment);
        }
        let candidate = host.candidate();
        let covers = |d: &&Downtime| d.covers(&candidate, check, since_us, now_us);
        match self.downtimes.iter().find(covers) {
            Some(found) => format!("in downtime {}: {}", found.id, found.comment),
            None => String::new(),
        }
    }
}

/// The problems of some hosts; those that nobody knows of first, then the worst, then the oldest.
/// Hosts that cannot be reached for one reason are one problem, or follow from that of another host.
pub fn problems(
    hosts: &[Arc<HostRow>],
    health: &HashMap<HostName, Host>,
    absences: &HashMap<HostName, Absence>,
    known: &Known,
    now_us: i64,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut behind: Vec<(&HostName, Problem)> = Vec::new();
    for host in hosts.iter().filter(|h| h.connection != Connection::Revoked) {
        let of = health.get(&host.name);
        let absence = absences.get(&host.name);
        let before = problems.len();
        problems.extend(of_host(host, absence, now_us));
        if let Some(of) = of.filter(|_| host.connection == Connection::Up) {
            problems.extend(of_checks(&host.name, of, now_us));
        }
        for problem in &mut problems[before..] {
            problem.handled = known.of(host, &problem.check, problem.since_us, now_us);
        }
        if let Some(Absence::Via(via)) = absence {
            let via = first_away(via, absences);
            behind.extend(problems.drain(before..).map(|problem| (via, problem)));
        }
    }
    for (via, problem) in behind {
        let root = problems.iter_mut().find(|p| p.check.is_empty() && p.hosts.first() == Some(via));
        match root {
            Some(root) => root.follows.extend(problem.hosts.iter().map(ToString::to_string)),
            None => problems.push(problem),
        }
    }
    let mut problems = by_place(problems, absences);
    sort(&mut problems);
    problems
}

/// The host at the beginning of a chain of those through which each other are reached.
fn first_away<'a>(via: &'a HostName, absences: &'a HashMap<HostName, Absence>) -> &'a HostName {
    let mut first = via;
    // A circle has no beginning; it is left after one round.
    for _ in 0..absences.len() {
        match absences.get(first) {
            Some(Absence::Via(next)) => first = next,
            _ => break,
        }
    }
    first
}

/// Makes one problem of those of a place that cannot be reached.
fn by_place(problems: Vec<Problem>, absences: &HashMap<HostName, Absence>) -> Vec<Problem> {
    let mut places: BTreeMap<(&str, String), Problem> = BTreeMap::new();
    let mut others = Vec::with_capacity(problems.len());
    for problem in problems {
        let absence = problem.hosts.first().and_then(|host| absences.get(host));
        let (Some(Absence::Place(place)), true) = (absence, problem.check.is_empty()) else {
            others.push(problem);
            continue;
        };
        match places.get_mut(&(place.as_str(), problem.handled.clone())) {
            Some(all) => {
                all.since_us = all.since_us.min(problem.since_us);
                all.hosts.extend(problem.hosts);
                all.follows.extend(problem.follows);
            }
            None => drop(places.insert((place, problem.handled.clone()), problem)),
        }
    }
    for ((place, _), problem) in &mut places {
        problem.summary = format!(
            "unreachable: all hosts of {place} fell silent together; the network to them or their \
             power is gone"
        );
    }
    others.extend(places.into_values());
    others
}

/// Tells a problem that many hosts share once, at the place of its oldest.
pub fn fold(problems: Vec<Problem>) -> Vec<Problem> {
    let key = |p: &Problem| (p.status, p.check.clone(), p.handled.clone());
    let mut counts: HashMap<_, usize> = HashMap::new();
    for problem in problems.iter().filter(|p| !p.check.is_empty()) {
        *counts.entry(key(problem)).or_default() += 1;
    }
    let mut folded: Vec<Problem> = Vec::new();
    let mut places = HashMap::new();
    for problem in problems {
        let key = key(&problem);
        if counts.get(&key).is_none_or(|n| *n < SHARED) {
            folded.push(problem);
            continue;
        }
        match places.get(&key) {
            None => {
                places.insert(key, folded.len());
                let word = word(problem.status);
                let next = format!("hostlerctl problems --on 'check({})={word}'", problem.check);
                folded.push(Problem { next, ..problem });
            }
            Some(place) => {
                if let Some(shared) = folded.get_mut(*place) {
                    shared.hosts.extend(problem.hosts);
                    shared.since_us = shared.since_us.min(problem.since_us);
                    shared.follows.clear();
                }
            }
        }
    }
    folded
}

/// Critical is worse than unknown, and that than a warning.
pub fn severity(status: Status) -> u8 {
    match status {
        Status::Unspecified | Status::Ok => 0,
        Status::Warning => 1,
        Status::Unknown => 2,
        Status::Critical => 3,
    }
}

/// The status as selectors name it.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Unspecified | Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Critical => "critical",
        Status::Unknown => "unknown",
    }
}

/// In the order in which people should look.
pub fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| {
        let rank = |p: &Problem| (!p.handled.is_empty(), Reverse(severity(p.status)), p.since_us);
        rank(a).cmp(&rank(b)).then_with(|| (&a.hosts, &a.check).cmp(&(&b.hosts, &b.check)))
    });
}

fn of_host(host: &HostRow, absence: Option<&Absence>, now_us: i64) -> Option<Problem> {
    let days = (host.certificate_until_us - now_us) / DAY_US;
    let mut next = format!("hostlerctl host show {}", host.name);
    // Its link stands as long as nothing breaks it: its agent can still be asked what keeps it.
    let why_not =
        || format!("hostlerctl journal read hostler-agent --match renewed --on {}", host.name);
    let (status, summary) = match host.connection {
        Connection::Down => match absence {
            Some(Absence::Stopped) => {
                (Status::Warning, "its agent was stopped on purpose".to_owned())
            }
            Some(Absence::Returning) => {
                (Status::Unknown, "not back yet since the controller was started".to_owned())
            }
            Some(Absence::AgentDied) => {
                let text = "its agent ended without a word, the host itself did not";
                (Status::Critical, format!("{text}: {}", host.reason))
            }
            Some(Absence::Via(via)) => (
                Status::Unknown,
                format!("unreachable: {via}, through which it is reached, is away"),
            ),
            Some(Absence::Place(_) | Absence::Down) | None => {
                (Status::Critical, format!("down: {}", host.reason))
            }
        },
        Connection::Never => (Status::Warning, "enrolled and never connected".to_owned()),
        Connection::Up if host.certificate_until_us <= now_us => {
            next = why_not();
            let text = "its certificate has ended and was not renewed; it stays linked until its \
                        link breaks";
            (Status::Critical, text.to_owned())
        }
        Connection::Up if days < RENEWED_DAYS => {
            next = why_not();
            (Status::Warning, format!("its certificate ends in {days} days and was not renewed"))
        }
        Connection::Up | Connection::Revoked => return None,
    };
    Some(problem(&host.name, "", status, summary, host.since_us, next))
}

fn of_checks(host: &HostName, health: &Host, now_us: i64) -> Vec<Problem> {
    let bad = |check: &str| {
        let standing = health.checks.get(check)?;
        let status = standing.hard(now_us);
        (severity(status) > 0).then_some((standing, status))
    };
    let mut found: BTreeMap<&str, Problem> = BTreeMap::new();
    let mut follows: Vec<(&str, &str)> = Vec::new();
    for (name, standing) in &health.checks {
        let status = standing.hard(now_us);
        if severity(status) == 0 {
            continue;
        }
        let root = root(health, name, &|check| bad(check).is_some());
        // What is worse than what it needs is a problem of its own, whatever else there is.
        let worse = bad(root).is_some_and(|(_, of_root)| severity(of_root) < severity(status));
        match root == name || worse {
            true => drop(found.insert(name, of_check(host, standing, status, now_us))),
            false => follows.push((root, name)),
        }
    }
    for (root, name) in follows {
        if let Some(problem) = found.get_mut(root) {
            problem.follows.push(name.to_owned());
        }
    }
    found.into_values().collect()
}

/// The check at the beginning of the chain of those that are not well: itself, when all that it
/// needs is well.
fn root<'h>(health: &'h Host, name: &'h str, bad: &dyn Fn(&str) -> bool) -> &'h str {
    let mut at = name;
    // A circle of checks that need each other has no beginning; it is left after one round.
    for _ in 0..health.checks.len() {
        let needs = health.checks.get(at).map(|s| &*s.after).unwrap_or_default();
        match needs.iter().find(|n| bad(n)).and_then(|n| health.checks.get_key_value(n)) {
            Some((needed, _)) if needed == name => return name,
            Some((needed, _)) => at = needed,
            None => return at,
        }
    }
    name
}

fn of_check(host: &HostName, standing: &Standing, status: Status, now_us: i64) -> Problem {
    let state = standing.state();
    let (summary, since_us) = match standing.stale(now_us) {
        true => ("nothing was heard of it in time".to_owned(), standing.heard_us),
        false => (state.summary.clone(), standing.since_us),
    };
    let first = state.findings.iter().find(|f| f.status() == status).or(state.findings.first());
    let next = match first.map_or("", |f: &Finding| f.next.as_str()) {
        "" => format!("hostlerctl health {host}"),
        next => format!("hostlerctl {} --on {host}", next.trim_start_matches("hostlerctl ")),
    };
    let problem = problem(host, &state.check, status, summary, since_us, next);
    Problem { flapping: state.flapping, ..problem }
}

fn problem(
    host: &HostName,
    check: &str,
    status: Status,
    summary: String,
    since_us: i64,
    next: String,
) -> Problem {
    Problem {
        status,
        hosts: vec![host.clone()],
        check: check.to_owned(),
        summary,
        since_us,
        next,
        follows: Vec::new(),
        handled: String::new(),
        flapping: false,
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::CheckState;
    use proptest::prelude::*;

    use super::*;
    use crate::health::{
        absence::{Lost, absences},
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
    fn an_agent_whose_certificate_was_not_renewed_is_asked_why_while_it_is_linked() {
        for (until_us, status) in [(NOW + 2 * DAY_US, Status::Warning), (NOW - 1, Status::Critical)]
        {
            let late = HostRow { certificate_until_us: until_us, ..row("web-1", Connection::Up) };
            let found = seen(&[late], &[], &Known::default());
            let next = "hostlerctl journal read hostler-agent --match renewed --on web-1";
            assert_eq!((found[0].status, found[0].next.as_str()), (status, next));
        }
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
    fn checks_that_need_each_other_are_all_told() {
        let web = host(&[("a", Status::Critical, &["b"]), ("b", Status::Critical, &["a"])]);
        let found = seen(&[row("web-1", Connection::Up)], &[("web-1", web)], &Known::default());
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn of_a_host_that_is_away_only_that_is_told_and_one_that_left_is_no_emergency() {
        let web = host(&[("disk", Status::Critical, &[])]);
        let left = Host { left: true, ..web.clone() };
        let rows = [row("web-1", Connection::Down), row("web-2", Connection::Down)];
        let found = seen(&rows, &[("web-1", web), ("web-2", left)], &Known::default());
        let told: Vec<_> = found.iter().map(|p| (p.status, p.summary.as_str())).collect();
        assert_eq!(told[0], (Status::Critical, "down: it fell silent"));
        assert_eq!(told[1], (Status::Warning, "its agent was stopped on purpose"));
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
}
