//! What the checks remember over a restart: where each stands, and the turns that a controller may
//! not have been told yet. One file, replaced whole.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use hostler_core::{clock::Clock, durable};
use hostler_proto::wire::{self, Finding};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::course::{Course, Health, Turn};

/// So many of the last turns can be told to a controller that was away.
const KEPT: usize = 500;
/// Longest finding that is remembered, in bytes.
const FINDING: usize = 2048;

/// Why the memory cannot be used.
#[derive(Debug, Error)]
#[error("the memory of the checks, {path}, cannot be {doing}: {source}")]
pub struct MemoryError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: io::Error,
}

/// Everything that is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Another one after everything was forgotten.
    pub id: String,
    /// Number of the next turn.
    next: u64,
    /// Where each check stands.
    pub courses: BTreeMap<String, Course>,
    turns: VecDeque<Turned>,
    /// What was found by those that stand badly.
    #[serde(default)]
    pub said: BTreeMap<String, Words>,
}

/// What a check found, for as long as it did not run again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Words {
    pub summary: String,
    /// Encoded: what newer agents add is kept.
    findings: Vec<String>,
}

impl Words {
    pub(super) fn new(summary: &str, findings: &[Finding]) -> Self {
        let encoded = findings.iter().map(|f| f.encode_to_vec()).filter(|f| f.len() <= FINDING);
        let findings = encoded.map(|f| BASE64.encode(&f)).collect();
        Self { summary: summary.to_owned(), findings }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let decoded = |text: &String| {
            let bytes = BASE64.decode(text.as_bytes()).ok()?;
            Finding::decode(bytes.as_slice()).ok()
        };
        self.findings.iter().filter_map(decoded).collect()
    }
}

/// A change that is remembered: of a hard state, or that a check began to flap or no longer does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Turned {
    pub number: u64,
    pub check: String,
    pub from: Health,
    pub to: Health,
    pub hard: bool,
    pub flapping: bool,
    pub at_us: i64,
    pub summary: String,
}

impl Memory {
    /// Nothing remembered.
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self {
            id: clock.id().to_string(),
            next: 1,
            courses: BTreeMap::new(),
            turns: VecDeque::new(),
            said: BTreeMap::new(),
        }
    }

    /// What was remembered; nothing when the file is not there, or a crash or somebody spoilt it.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(super) fn open(path: &Path, clock: &dyn Clock) -> Result<Self, MemoryError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::new(clock)),
            Err(source) => {
                return Err(MemoryError { path: path.to_owned(), doing: "read", source });
            }
        };
        Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the checks begin anew");
            Self::new(clock)
        }))
    }

    /// Writes everything to the file, which is at any moment the old one or the new one. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<(), MemoryError> {
        let failed = |source| MemoryError { path: path.to_owned(), doing: "written", source };
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        text.and_then(|text| durable::replace(path, &text)).map_err(failed)
    }

    /// Remembers what a result changed of a check, as far as people are to be told. What is soft is
    /// not: it would push that out.
    pub(super) fn note(&mut self, check: &str, turn: Turn, at_us: i64, summary: &str) {
        let Some(course) = self.courses.get(check) else { return };
        let (flapping, now_hard) = (course.flapping, course.hard);
        let turned = |from, to, hard, summary| Turned {
            number: 0,
            check: check.to_owned(),
            from,
            to,
            hard,
            flapping,
            at_us,
            summary,
        };
        let changed = turn.hard.then(|| turned(turn.from, turn.to, true, summary.to_owned()));
        let said = if flapping { "it began to flap" } else { "it no longer flaps" };
        // What was seen last need not be how it stands.
        let last = match turn.to == now_hard {
            true => String::new(),
            false => format!("; last {}, not confirmed", turn.to.word()),
        };
        let said = || format!("{said}{last}: {summary}");
        let flapped = turn.flapped.then(|| turned(now_hard, now_hard, false, said()));
        changed.into_iter().chain(flapped).for_each(|turned| self.turned(turned));
    }

    /// Remembers a turn, which gets the next number.
    fn turned(&mut self, turned: Turned) {
        if self.turns.len() == KEPT {
            self.turns.pop_front();
        }
        self.turns.push_back(Turned { number: self.next, ..turned });
        self.next += 1;
    }

    /// Number of the last turn.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// The turns after one, up to another, and how many between were forgotten.
    pub(super) fn turns(&self, after: u64, until: u64) -> (Vec<wire::Turn>, u64) {
        let first = self.turns.front().map_or(self.next, |t| t.number);
        let forgotten = first.saturating_sub(after + 1);
        let wanted = self.turns.iter().filter(|t| t.number > after && t.number <= until);
        (wanted.map(wire::Turn::from).collect(), forgotten)
    }
}

impl From<&Turned> for wire::Turn {
    fn from(turned: &Turned) -> Self {
        Self {
            number: turned.number,
            check: turned.check.clone(),
            was: wire::Status::from(turned.from).into(),
            became: wire::Status::from(turned.to).into(),
            hard: turned.hard,
            flapping: turned.flapping,
            at_us: turned.at_us,
            summary: turned.summary.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::SystemClock;

    use super::*;

    fn turned(check: &str) -> Turned {
        Turned {
            number: 0,
            check: check.into(),
            from: Health::Ok,
            to: Health::Critical,
            hard: true,
            flapping: false,
            at_us: 7,
            summary: "full".into(),
        }
    }

    #[test]
    fn a_controller_that_was_away_is_told_what_came_after_and_how_much_is_forgotten() {
        let mut memory = Memory::new(&SystemClock);
        for _ in 0..KEPT + 10 {
            memory.turned(turned("disk"));
        }
        let numbers = |(turns, forgotten): (Vec<wire::Turn>, u64)| {
            (turns.first().map(|t| t.number), turns.len(), forgotten)
        };
        let last = memory.last();
        assert_eq!(numbers(memory.turns(0, last)), (Some(11), KEPT, 10));
        assert_eq!(numbers(memory.turns(508, last)), (Some(509), 2, 0));
        assert_eq!(numbers(memory.turns(last, last)), (None, 0, 0));
        assert_eq!(numbers(memory.turns(500, 502)), (Some(501), 2, 0));
    }

    #[test]
    fn what_is_soft_is_not_remembered_and_flapping_is_with_its_begin_and_end_alone() {
        let mut memory = Memory::new(&SystemClock);
        memory.courses.insert("disk".into(), Course::new(0));
        let take = |memory: &mut Memory, result| {
            let course = memory.courses.get_mut("disk").expect("there");
            let turn = course.take(result, 3, 1);
            turn.into_iter().for_each(|turn| memory.note("disk", turn, 1, "said"));
        };
        for _ in 0..20 {
            take(&mut memory, Health::Critical);
            take(&mut memory, Health::Ok);
        }
        for _ in 0..20 {
            take(&mut memory, Health::Ok);
        }
        let (turns, _) = memory.turns(0, memory.last());
        let told: Vec<_> = turns.iter().map(|t| (t.hard, t.flapping, t.was == t.became)).collect();
        assert_eq!(told, [(false, true, true), (false, false, true)]);
        assert_eq!(turns[0].summary, "it began to flap; last critical, not confirmed: said");
        assert_eq!(turns[1].summary, "it no longer flaps: said");
    }

    #[test]
    fn what_a_check_said_last_is_not_taken_for_how_it_stands_when_it_no_longer_flaps() {
        let mut memory = Memory::new(&SystemClock);
        memory.courses.insert("cpu".into(), Course::new(0));
        let results = [Health::Critical, Health::Ok].into_iter().cycle().take(20);
        for result in results.chain([Health::Critical; 20]) {
            let course = memory.courses.get_mut("cpu").expect("there");
            let turn = course.take(result, 100, 1);
            turn.into_iter().for_each(|turn| memory.note("cpu", turn, 1, "busy"));
        }
        let (turns, _) = memory.turns(0, memory.last());
        let end = turns.last().expect("a turn");
        assert_eq!((end.flapping, end.became()), (false, wire::Status::Ok));
        assert_eq!(end.summary, "it no longer flaps; last critical, not confirmed: busy");
    }

    #[test]
    fn what_was_saved_is_remembered_and_what_is_spoilt_begins_anew() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("checks.json");
        let mut memory = Memory::open(&path, &SystemClock).expect("new");
        memory.courses.insert("disk".into(), Course::new(5));
        memory.turned(turned("disk"));
        let finding = Finding::new(wire::Status::Critical, "/", "full").next("disk tree /var");
        memory.said.insert("disk".into(), Words::new("/ is full", std::slice::from_ref(&finding)));
        memory.save(&path).expect("saved");
        let again = Memory::open(&path, &SystemClock).expect("read");
        assert_eq!((&again.id, again.last()), (&memory.id, 1));
        assert_eq!(again.courses["disk"].since_us, 5);
        let said = &again.said["disk"];
        assert_eq!((said.summary.as_str(), said.findings()), ("/ is full", vec![finding]));
        fs::write(&path, "{").expect("spoilt");
        let anew = Memory::open(&path, &SystemClock).expect("anew");
        assert!(anew.id != memory.id && anew.last() == 0);
    }
}
