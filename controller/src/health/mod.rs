//! How the hosts are, as their agents tell it.
//!
//! - [`Fleet`]: how every check stands now; [`recorder`]: what of it is written down
//! - [`absence`]: why hosts are away
//! - [`problems`]: what deserves attention, worst first, with what follows from what
//! - [`silence`]: downtimes and acknowledgements
//! - [`figures`]: numbers over time, and when something will run out; [`past`]: what is over

pub mod absence;
pub mod figures;
pub mod past;
pub mod problems;
pub mod recorder;
pub mod silence;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hostler_proto::{
    name::{CheckName, HostName},
    wire::{CheckState, HealthReport, HealthRequest, Status, Turn},
};

use prost::Message as _;

use self::recorder::News;

/// Most checks of one host that are believed.
const MOST: usize = 500;
/// Longest text of a check that is kept.
const TEXT: usize = 1000;
/// An agent tells of every check within this time after it ran.
const HEARTBEAT_US: i64 = 60_000_000;

/// How every check of every host stands. A clone is the same fleet.
#[derive(Debug, Clone, Default)]
pub struct Fleet(Arc<Mutex<HashMap<HostName, Host>>>);

/// How a host's checks stand.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The agent's memory from which turns were had.
    pub memory: String,
    /// The last of them.
    pub last_turn: u64,
    /// When it was heard of last.
    pub heard_us: i64,
    /// Its agent said that it is being stopped.
    pub left: bool,
    /// The checks by name.
    pub checks: BTreeMap<String, Standing>,
}

/// How a check stands, and since when that was heard. Of ten thousand hosts there are hundreds of
/// thousands: all but what is asked for all the time is kept as it came.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Checks that it needs to be well.
    pub after: Box<[String]>,
    /// When the agent told it.
    pub heard_us: i64,
    /// Since when it is so.
    pub since_us: i64,
    hard: Status,
    status: Status,
    flapping: bool,
    interval_s: u32,
    encoded: Box<[u8]>,
}

impl Standing {
    /// A state that was told.
    pub fn new(mut state: CheckState, heard_us: i64) -> Self {
        let after = std::mem::take(&mut state.after).into_boxed_slice();
        Self {
            after,
            heard_us,
            since_us: state.since_us,
            hard: state.hard(),
            status: state.status(),
            flapping: state.flapping,
            interval_s: state.interval_s,
            encoded: state.encode_to_vec().into_boxed_slice(),
        }
    }

    /// As the agent told it.
    pub fn state(&self) -> CheckState {
        // It was encoded here.
        let state = CheckState::decode(&*self.encoded).unwrap_or_default();
        CheckState { after: self.after.to_vec(), ..state }
    }

    /// What tells one state from another.
    fn face(&self) -> (Status, Status, i64, bool) {
        (self.status, self.hard, self.since_us, self.flapping)
    }

    /// Whether it should have been heard of since: then nobody knows how it stands.
    pub fn stale(&self, now_us: i64) -> bool {
        let interval = i64::from(self.interval_s) * 1_000_000;
        now_us - self.heard_us > interval.saturating_mul(2) + 2 * HEARTBEAT_US
    }

    /// What people are told of it now.
    pub fn hard(&self, now_us: i64) -> Status {
        if self.stale(now_us) { Status::Unknown } else { self.hard }
    }
}

impl Fleet {
    /// The fleet as it was written down last.
    pub fn new(hosts: HashMap<HostName, Host>) -> Self {
        Self(Arc::new(Mutex::new(hosts)))
    }

    /// What to ask an agent for: what came after what is known.
    pub fn request(&self, host: &HostName) -> HealthRequest {
        let fleet = self.lock();
        let known = fleet.get(host);
        HealthRequest {
            memory: known.map(|h| h.memory.clone()).unwrap_or_default(),
            after: known.map_or(0, |h| h.last_turn),
        }
    }

    /// Takes in what an agent tells; gives what is to be written down, if anything is.
    pub fn hear(&self, host: &HostName, report: HealthReport, now_us: i64) -> Option<News> {
        let report = HealthReport { memory: short(report.memory), ..report };
        let mut fleet = self.lock();
        let known = fleet.entry(host.clone()).or_default();
        let anew = known.memory != report.memory;
        if anew {
            (known.memory, known.last_turn) = (report.memory, 0);
        }
        let left = std::mem::replace(&mut known.left, report.leaving) != report.leaving;
        known.heard_us = now_us;
        let mut changed = anew || left;
        if report.whole {
            let told: Vec<&str> = report.checks.iter().map(|c| c.check.as_str()).collect();
            let before = known.checks.len();
            known.checks.retain(|name, _| told.contains(&name.as_str()));
            changed |= known.checks.len() != before;
        }
        for state in report.checks {
            let Some(state) = believed(state) else { continue };
            let before = known.checks.get(&state.check);
            if before.is_none() && known.checks.len() >= MOST {
                continue;
            }
            let (name, standing) = (state.check.clone(), Standing::new(state, now_us));
            changed |= before.is_none_or(|b| b.face() != standing.face());
            known.checks.insert(name, standing);
        }
        let last = known.last_turn;
        let turns: Vec<Turn> = report.turns.into_iter().filter(|t| t.number > last).collect();
        known.last_turn = turns.iter().map(|t| t.number).max().unwrap_or(last);
        changed |= !turns.is_empty();
        let turns = turns.into_iter().filter(|t| t.hard && t.check.parse::<CheckName>().is_ok());
        changed.then(|| News {
            host: host.clone(),
            memory: known.memory.clone(),
            last_turn: known.last_turn,
            heard_us: now_us,
            leaving: known.left,
            states: known.checks.values().map(|c| recorder::plain(c.state())).collect(),
            turns: turns.map(shortened).collect(),
        })
    }

    /// A host is linked again: that its agent was being stopped is over.
    pub fn arrived(&self, host: &HostName) {
        if let Some(known) = self.lock().get_mut(host) {
            known.left = false;
        }
    }

    /// Forgets a host.
    pub fn forget(&self, host: &HostName) {
        self.lock().remove(host);
    }

    /// How a host's checks stand.
    pub fn host(&self, host: &HostName) -> Option<Host> {
        self.lock().get(host).cloned()
    }

    /// Looks at all of them at once; nothing is told meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&HashMap<HostName, Host>) -> T) -> T {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state that an agent may tell, held to what can be kept in memory; none when its name is no
/// check's.
fn believed(mut state: CheckState) -> Option<CheckState> {
    state.check.parse::<CheckName>().ok()?;
    state.summary = short(state.summary);
    state.operation = short(state.operation);
    state.after.truncate(64);
    state.after.retain(|name| name.parse::<CheckName>().is_ok());
    state.findings.truncate(5);
    for finding in &mut state.findings {
        for text in
            [&mut finding.subject, &mut finding.summary, &mut finding.why, &mut finding.next]
        {
            *text = short(std::mem::take(text));
        }
    }
    state.figures.truncate(64);
    for figure in &mut state.figures {
        for text in [&mut figure.name, &mut figure.subject, &mut figure.unit] {
            *text = short(std::mem::take(text));
        }
    }
    Some(state)
}

/// PostgreSQL takes no NUL in a text.
fn short(text: String) -> String {
    match text.len() > TEXT || text.contains('\0') {
        true => text.chars().filter(|c| *c != '\0').take(TEXT).collect(),
        false => text,
    }
}

fn shortened(turn: Turn) -> Turn {
    // A time that is none would be told for ever.
    // Nor would a status that there is not be read again.
    let (was, became) = (turn.was().into(), turn.became().into());
    Turn { summary: short(turn.summary), at_us: turn.at_us.max(0), was, became, ..turn }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn state(check: &str, hard: Status) -> CheckState {
        CheckState {
            check: check.into(),
            status: hard.into(),
            hard: hard.into(),
            interval_s: 60,
            ..CheckState::default()
        }
    }

    fn turn(number: u64, hard: bool) -> Turn {
        Turn { number, hard, check: "disk".into(), ..Turn::default() }
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
        let other =
            HealthReport { memory: "n".into(), ..report(vec![], vec![turn(1, true)], true) };
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
        let disk = &host.checks["disk"];
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
        assert_eq!(host.checks["c0"].state().summary.len(), TEXT);
    }
}
