//! The agent's durable memory of the actions that it was told to carry out.
//!
//! An action is written down before it begins and its outcome before it is reported, so that the
//! same invocation delivered twice runs once, and one cut off by a crash is known as interrupted.
//! One line of JSON for each fact, synced to disk.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::BASE64;
use hostler_core::clock::{Clock, InvocationId};
use hostler_proto::wire::{ErrorCode, Event, Failure};
use prost::Message;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// So many of the last invocations are remembered.
const REMEMBERED: usize = 1000;
/// The file is rewritten when it has so many lines.
const LINES: usize = 4 * REMEMBERED;

/// Why the journal cannot be used.
#[derive(Debug, Error)]
#[error("the journal {path} cannot be {doing}: {source}")]
pub struct JournalError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: io::Error,
}

/// What is known of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// It has begun and not ended.
    Running,
    /// It ended with this.
    Ended(Event),
    /// The agent ended while it ran.
    Interrupted,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: String,
    operation: String,
    at: jiff::Timestamp,
    /// The last event, encoded; none at the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

/// The journal. Its methods block on the disk: call them where that is allowed.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    clock: Arc<dyn Clock>,
    known: HashMap<InvocationId, (String, Known)>,
    order: VecDeque<InvocationId>,
    lines: usize,
}

impl Journal {
    /// Opens or creates the journal; what was running when it was written last is interrupted. Where it
    /// cannot be written no action begins, and all else goes on.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, JournalError> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source| JournalError { path, doing, source }
        };
        let file = append_to(path).map_err(failed("opened"))?;
        let mut inner = Inner {
            path: path.to_owned(),
            file,
            clock,
            known: HashMap::new(),
            order: VecDeque::new(),
            lines: 0,
        };
        let reader = File::open(path).map_err(failed("read"))?;
        for text in BufReader::new(reader).split(b'\n') {
            let text = text.map_err(failed("read"))?;
            // A line that a crash cut short tells nothing; what stands before it still counts.
            let Ok(line) = serde_json::from_slice::<Line>(&text) else { continue };
            let Ok(id) = line.id.parse() else { continue };
            let end = line.end.and_then(|e| BASE64.decode(e.as_bytes()).ok());
            let end = end.and_then(|e| Event::decode(e.as_slice()).ok());
            inner.remember(id, line.operation, end.map_or(Known::Interrupted, Known::Ended));
        }
        if let Err(error) = inner.rewrite().map_err(failed("rewritten")) {
            tracing::error!("{error}; until it can, actions are refused");
            // Nothing is added to what may end in half a line before it was rewritten.
            inner.lines = LINES;
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Writes down that an action begins; the answer is what was known of it before.
    ///
    /// # Errors
    /// When it cannot be written: the action must then not begin.
    pub fn begin(&self, id: InvocationId, operation: &str) -> Result<Option<Known>, Failure> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, known)) = inner.known.get(&id) {
            if other != operation {
                let message = format!("invocation {id} was {other}, not {operation}");
                return Err(Failure::new(ErrorCode::AlreadyExists, message)
                    .hint("every request needs an id of its own"));
            }
            return Ok(Some(known.clone()));
        }
        inner.append(id, operation, None)?;
        inner.remember(id, operation.to_owned(), Known::Running);
        Ok(None)
    }

    /// Writes down how an action ended.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered until the agent ends nevertheless.
    pub fn end(&self, id: InvocationId, last: &Event) -> Result<(), Failure> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let operation = inner.known.get(&id).map(|(o, _)| o.clone()).unwrap_or_default();
        inner.remember(id, operation.clone(), Known::Ended(last.clone()));
        inner.append(id, &operation, Some(last))
    }

    /// What is known of an invocation.
    pub fn known(&self, id: InvocationId) -> Option<Known> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.get(&id).map(|(_, known)| known.clone())
    }
}

impl Inner {
    fn remember(&mut self, id: InvocationId, operation: String, known: Known) {
        if self.known.insert(id, (operation, known)).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else { break };
            // One that runs stays until it has ended.
            match self.known.get(&oldest) {
                Some((_, Known::Running)) => self.order.push_back(oldest),
                _ => drop(self.known.remove(&oldest)),
            }
            if self.order.front() == Some(&oldest) {
                break;
            }
        }
    }

    fn line(&self, id: InvocationId, operation: &str, end: Option<&Event>) -> io::Result<Vec<u8>> {
        let line = Line {
            id: id.to_string(),
            operation: operation.to_owned(),
            at: self.clock.now(),
            end: end.map(|e| BASE64.encode(&e.encode_to_vec())),
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok(text)
    }

    fn append(
        &mut self,
        id: InvocationId,
        operation: &str,
        end: Option<&Event>,
    ) -> Result<(), Failure> {
        let written = (|| {
            if self.lines >= LINES {
                self.rewrite()?;
            }
            let line = self.line(id, operation, end)?;
            let before = self.file.metadata()?.len();
            if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
                // Half a line would spoil the next one.
                self.file.set_len(before)?;
                return Err(error);
            }
            self.lines += 1;
            Ok::<_, io::Error>(())
        })();
        written.map_err(|e| {
            let path = self.path.display();
            let message = format!("the agent's journal {path} cannot be written: {e}");
            Failure::new(ErrorCode::PreconditionFailed, message)
                .hint("free space on the file system of the agent's state directory")
        })
    }

    /// Leaves one line for each remembered invocation; the old file stands until the new one does.
    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        if let Err(error) = self.copy(&new) {
            // Half of it would take the space that is missing.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = append_to(&self.path)?;
        self.lines = self.order.len();
        Ok(())
    }

    fn copy(&self, to: &Path) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
        for id in &self.order {
            let Some((operation, known)) = self.known.get(id) else { continue };
            let end = match known {
                Known::Ended(event) => Some(event),
                Known::Running | Known::Interrupted => None,
            };
            file.write_all(&self.line(*id, operation, end)?)?;
        }
        file.sync_all()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::FixedClock;
    use hostler_proto::wire::{Outcome, event};

    use super::*;

    fn fixture() -> (tempfile::TempDir, Arc<FixedClock>) {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        (tempfile::tempdir().expect("directory"), Arc::new(clock))
    }

    fn outcome(summary: &str) -> Event {
        let outcome = Outcome { summary: summary.into(), ..Outcome::default() };
        Event { event: Some(event::Event::Outcome(outcome)) }
    }

    #[test]
    fn an_invocation_delivered_again_gets_the_recorded_outcome_even_after_a_restart() {
        let (dir, clock) = fixture();
        let path = dir.path().join("journal");
        let id = InvocationId::new(&*clock);
        let journal = Journal::open(&path, clock.clone()).expect("open");
        assert_eq!(journal.begin(id, "systemd.stop").expect("begun"), None);
        assert_eq!(journal.begin(id, "systemd.stop").expect("again"), Some(Known::Running));
        journal.end(id, &outcome("stopped")).expect("ended");
        drop(journal);
        let journal = Journal::open(&path, clock).expect("open");
        let known = journal.begin(id, "systemd.stop").expect("again");
        assert_eq!(known, Some(Known::Ended(outcome("stopped"))));
    }

    #[test]
    fn what_ran_when_the_agent_died_is_interrupted_and_a_torn_line_loses_nothing_else() {
        let (dir, clock) = fixture();
        let path = dir.path().join("journal");
        let (done, cut) = (InvocationId::new(&*clock), InvocationId::new(&*clock));
        let journal = Journal::open(&path, clock.clone()).expect("open");
        journal.begin(done, "systemd.stop").expect("begun");
        journal.end(done, &outcome("stopped")).expect("ended");
        journal.begin(cut, "systemd.start").expect("begun");
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).expect("file");
        file.write_all(b"{\"id\":\"0191f2d4-7c").expect("torn");
        let journal = Journal::open(&path, clock).expect("open");
        assert_eq!(journal.known(done), Some(Known::Ended(outcome("stopped"))));
        assert_eq!(journal.known(cut), Some(Known::Interrupted));
    }

    #[test]
    fn the_journal_forgets_the_oldest_and_never_grows_without_bound() {
        let (dir, clock) = fixture();
        let path = dir.path().join("journal");
        let journal = Journal::open(&path, clock.clone()).expect("open");
        let first = InvocationId::new(&*clock);
        {
            let mut inner = journal.0.lock().expect("lock");
            inner.remember(first, "x".into(), Known::Interrupted);
            for _ in 0..REMEMBERED {
                inner.remember(InvocationId::new(&*clock), "x".into(), Known::Interrupted);
            }
            assert_eq!(inner.known.len(), REMEMBERED);
        }
        assert_eq!(journal.known(first), None);
    }
}
