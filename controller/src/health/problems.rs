//! What deserves attention, the worst first. Pure: from what is known and the time.
//!
//! A check that needs another one is no problem of its own while that one is not well: it is told
//! with its root. Of a host that is away only that is told: how it is nobody knows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

use hostler_proto::{
    catalogue::{Catalogue, Parameter},
    finding::command_line,
    name::HostName,
    wire::{CheckState, Status},
};

use super::{
    Host, Left, Standing,
    absence::Absence,
    clock::Clock,
    silence::{Acknowledgement, Downtime},
};
use crate::store::{Connection, HostRow, Store, StoreError};

const DAY_US: i64 = 86_400_000_000;
/// A certificate renews itself at two thirds of its life; below so many days that did not work.
const RENEWED_DAYS: i64 = 3;
/// From so many hosts on one problem that they share is told once.
const SHARED: usize = 4;

/// Kinds of checks whose causes `diagnose` looks for.
const DIAGNOSED: [&str; 5] = ["unit", "postgres", "redis", "celery", "http"];
/// Parameters that take the name that stands behind a check's kind.
const NAMED: [&str; 3] = ["name", "server", "app"];

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
    /// It is not hard yet, and told because of what follows from it.
    pub unconfirmed: bool,
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
    /// What people know already, now.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn read(store: &Store, now_us: i64) -> Result<Self, StoreError> {
        let given = store.acknowledgements(now_us).await?;
        let by_place = given.into_iter().map(|a| ((a.host.clone(), a.check.clone()), a));
        Ok(Self { downtimes: store.downtimes(now_us).await?, acknowledgements: by_place.collect() })
    }

    /// Who knows of a problem that is so bad and has been there since some time, in a few words; empty
    /// when nobody does.
    pub fn of(
        &self,
        host: &HostRow,
        check: &str,
        (status, since_us): (Status, i64),
        now_us: i64,
    ) -> String {
        let key = (host.name.to_string(), check.to_owned());
        let counts = |a: &&Acknowledgement| a.counts(severity(status), now_us);
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
    let clock = Clock::new(health, now_us);
    for host in hosts.iter().filter(|h| h.connection != Connection::Revoked) {
        let of = health.get(&host.name);
        let absence = absences.get(&host.name);
        let before = problems.len();
        problems.extend(of_host(host, absence, now_us));
        if let Some(of) = of.filter(|_| host.connection == Connection::Up) {
            problems.extend(of_clock(host, clock.wrong_of(of)));
            problems.extend(of_checks(&host.name, of, now_us));
        }
        for problem in &mut problems[before..] {
            problem.handled =
                known.of(host, &problem.check, (problem.status, problem.since_us), now_us);
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

/// What is said of all hosts of a place that are away together.
fn of_place(absence: &Absence) -> Option<String> {
    match absence {
        Absence::Place(place) => Some(format!(
            "unreachable: all hosts of {place} fell silent together; the network to them or their \
             power is gone"
        )),
        Absence::Missing(Some(place)) => Some(format!(
            "down: no host of {place} was there when the controller was started, or is back since; how \
             they went nobody saw"
        )),
        _ => None,
    }
}

/// Makes one problem of those of a place whose hosts are away together.
fn by_place(problems: Vec<Problem>, absences: &HashMap<HostName, Absence>) -> Vec<Problem> {
    let mut places: BTreeMap<(String, String), Problem> = BTreeMap::new();
    let mut others = Vec::with_capacity(problems.len());
    for problem in problems {
        let absence = problem.hosts.first().and_then(|host| absences.get(host));
        let (Some(summary), true) = (absence.and_then(of_place), problem.check.is_empty()) else {
            others.push(problem);
            continue;
        };
        match places.entry((summary, problem.handled.clone())) {
            Entry::Occupied(mut all) => {
                let all = all.get_mut();
                all.since_us = all.since_us.min(problem.since_us);
                all.hosts.extend(problem.hosts);
                all.follows.extend(problem.follows);
            }
            Entry::Vacant(place) => {
                let summary = place.key().0.clone();
                place.insert(Problem { summary, ..problem });
            }
        }
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
    let mut next = next_of_host(&host.name);
    // Its link stands as long as nothing breaks it: its agent can still be asked what keeps it.
    let why_not =
        || format!("hostlerctl journal read hostler-agent --match renewed --on {}", host.name);
    let (status, summary) = match host.connection {
        Connection::Down => match absence {
            Some(Absence::Stopped) => {
                (Status::Warning, Left::Agent.said().unwrap_or_default().to_owned())
            }
            Some(Absence::GoingDown) => {
                (Status::Warning, Left::Host.said().unwrap_or_default().to_owned())
            }
            Some(Absence::ShutDown) => {
                (Status::Critical, "down: it was shut down and did not come back".to_owned())
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
            Some(Absence::Missing(_)) => {
                let text = "down: it was not there when the controller was started, and is not back; \
                            how it went nobody saw";
                (Status::Critical, text.to_owned())
            }
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

/// That its clock is wrong.
fn of_clock(host: &HostRow, wrong: Option<String>) -> Option<Problem> {
    let next = format!("hostlerctl host facts --on {}", host.name);
    Some(problem(&host.name, "", Status::Warning, wrong?, host.since_us, next))
}

/// What to type next about a host that is away.
pub fn next_of_host(host: &HostName) -> String {
    format!("hostlerctl host show {host}")
}

/// What to type next about a check that is so bad: what the finding says that is, else what looks
/// further than the check did.
pub fn next_of_check(host: &HostName, state: &CheckState, status: Status) -> String {
    let findings = &state.findings;
    let first = findings.iter().find(|f| f.status() == status).or(findings.first());
    match first.map_or("", |finding| finding.next.as_str()) {
        "" => further(host, state),
        next => command_line(next, host.as_str()),
    }
}

/// Where a check says no next step itself: how it changed, the search for its cause, or all that its
/// operation tells.
fn further(host: &HostName, state: &CheckState) -> String {
    let history = || format!("hostlerctl history {host} {}", state.check);
    if state.flapping {
        return history();
    }
    let (kind, name) = state.check.split_once(':').unwrap_or((&state.check, ""));
    // What is looked at of a server has names of its own: `postgres-locks:main`.
    let kind = kind.split('-').next().unwrap_or(kind);
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@:-".contains(c);
    if DIAGNOSED.contains(&kind) && !name.is_empty() && name.chars().all(plain) {
        return format!("hostlerctl diagnose {host} {kind}:{name}");
    }
    own(host, state, name).unwrap_or_else(history)
}

/// A check's own operation as one would type it; none where the check's name does not tell all that
/// must be given.
fn own(host: &HostName, state: &CheckState, name: &str) -> Option<String> {
    let spec = Catalogue::bare().get(&state.operation).ok()?;
    let called = |p: &&Parameter| p.options.positional && NAMED.contains(&p.name.as_str());
    let named = spec.parameters.iter().find(called).filter(|_| !name.is_empty());
    let given = |p: &Parameter| named.is_some_and(|named| named.name == p.name);
    if spec.parameters.iter().any(|p| p.options.required && !given(p)) {
        return None;
    }
    let name = if named.is_some() { name } else { "" };
    let line = format!("{} {} {name}", spec.domain, spec.verb);
    Some(command_line(line.trim_end(), host.as_str()))
}

/// What follows from what is told with it, also when that is not hard yet: what needs it was only
/// looked at sooner.
fn of_checks(host: &HostName, health: &Host, now_us: i64) -> Vec<Problem> {
    let mut found: BTreeMap<&str, Problem> = BTreeMap::new();
    let mut follows: Vec<(&str, &str)> = Vec::new();
    for (name, standing) in health.checks.iter() {
        let status = standing.shown(now_us);
        if severity(status) == 0 {
            continue;
        }
        match root(health, name, &|standing| severity(standing.worst(now_us))) {
            root if root == name => {
                drop(found.insert(name, of_check(host, standing, status, now_us)))
            }
            root => follows.push((root, name)),
        }
    }
    for (root, name) in follows {
        let Some(standing) = health.checks.get(root) else { continue };
        let since_us = health.checks.get(name).map_or(now_us, |follower| follower.since_us);
        let soft = || unconfirmed(host, standing, since_us, now_us);
        let problem = found.entry(root).or_insert_with(soft);
        if problem.unconfirmed {
            problem.since_us = problem.since_us.min(since_us);
        }
        problem.follows.push(name.to_owned());
    }
    found.into_values().collect()
}

/// The check from which the trouble of one follows: the last of those that each need the next, as
/// long as the next is at least as bad. What is less bad than what follows from it is not all of its
/// cause. Itself, when there is none.
pub fn root<'h>(health: &'h Host, name: &'h str, bad: &dyn Fn(&Standing) -> u8) -> &'h str {
    let mut at = name;
    // A circle of checks that need each other has no beginning; it is left after one round.
    for _ in 0..health.checks.len() {
        let Some(standing) = health.checks.get(at) else { return name };
        let own = bad(standing).max(1);
        let needed = standing.after.iter().filter_map(|n| health.checks.named(n));
        match needed.into_iter().find(|(_, needed)| bad(needed) >= own) {
            Some((needed, _)) if needed == name => return name,
            Some((needed, _)) => at = needed,
            None => return at,
        }
    }
    name
}

fn of_check(host: &HostName, standing: &Standing, status: Status, now_us: i64) -> Problem {
    let state = standing.state();
    let (summary, since_us) = match (standing.stale(now_us), state.flapping) {
        (true, _) => ("nothing was heard of it in time".to_owned(), standing.heard_us),
        (false, true) => {
            let (last, said) = (word(state.status()), &state.summary);
            let begun_us = match state.flapping_since_us {
                0 => standing.since_us,
                at_us => at_us,
            };
            (format!("it changes again and again; last: {last}: {said}"), begun_us)
        }
        (false, false) => (state.summary.clone(), standing.since_us),
    };
    let next = match standing.stale(now_us) {
        // Its agent is there, and does not run it.
        true => format!("hostlerctl journal read hostler-agent --on {host}"),
        false => next_of_check(host, &state, status),
    };
    let problem = problem(host, &state.check, status, summary, since_us, next);
    Problem { flapping: state.flapping, ..problem }
}

/// A check from which others follow, and that is not hard yet.
fn unconfirmed(host: &HostName, standing: &Standing, since_us: i64, now_us: i64) -> Problem {
    let (state, status) = (standing.state(), standing.worst(now_us));
    let attempt = format!("attempt {} of {}", state.attempt.max(1), state.attempts.max(1));
    let summary = format!("being confirmed, {attempt}: {}", state.summary);
    let next = next_of_check(host, &state, status);
    let problem = problem(host, &state.check, status, summary, since_us, next);
    Problem { unconfirmed: true, ..problem }
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
        unconfirmed: false,
    }
}

#[cfg(test)]
#[path = "problems_tests.rs"]
mod tests;
