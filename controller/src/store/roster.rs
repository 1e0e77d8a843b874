//! The rows of all hosts, kept in memory: every request asks for them, and few of them change.
//!
//! Whoever writes to `hosts` says which ones with [`Roster::changes`]; what was said is read anew when
//! the rows are asked for next. Other processes do not write to the store of a controller that runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hostler_proto::name::HostName;
use tokio::time::Instant;

use super::{HostRow, Store, StoreError};

/// More hosts than this are read together with all others.
const SINGLE: usize = 500;
/// A write that was given up may still come to its end within this time.
const DOUBT: Duration = Duration::from_secs(5);

/// The rows, and which of them are old.
#[derive(Debug, Default)]
pub(super) struct Roster {
    rows: tokio::sync::Mutex<Rows>,
    old: Arc<Mutex<Old>>,
}

#[derive(Debug, Default)]
struct Rows {
    by_name: BTreeMap<HostName, Arc<HostRow>>,
    /// Most hosts allow the same operations.
    operations: HashSet<Arc<str>>,
}

/// What is to be read anew.
#[derive(Debug)]
struct Old {
    all: bool,
    names: BTreeSet<HostName>,
    /// Until then everything is, again and again.
    doubt: Option<Instant>,
}

impl Default for Old {
    fn default() -> Self {
        Self { all: true, names: BTreeSet::new(), doubt: None }
    }
}

/// Hosts that are being written. They are old when it is dropped.
#[derive(Debug)]
pub(super) struct Changes {
    old: Arc<Mutex<Old>>,
    names: Vec<HostName>,
    all: bool,
    done: bool,
}

impl Changes {
    /// The write has come to its end, whichever.
    pub(super) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        old.names.extend(self.names.drain(..));
        old.all |= self.all;
        if !self.done {
            old.doubt = Some(Instant::now() + DOUBT);
        }
    }
}

impl Roster {
    /// To be said before hosts are written.
    pub(super) fn changes<'n>(&self, names: impl IntoIterator<Item = &'n HostName>) -> Changes {
        let names = names.into_iter().cloned().collect();
        Changes { old: Arc::clone(&self.old), names, all: false, done: false }
    }

    /// The same, of all hosts.
    pub(super) fn changes_all(&self) -> Changes {
        Changes { old: Arc::clone(&self.old), names: Vec::new(), all: true, done: false }
    }

    /// What is old, which then counts as read. It is old again unless that comes to its end.
    fn take_old(&self) -> Changes {
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        old.doubt = old.doubt.filter(|until| *until > now);
        let names: Vec<_> = std::mem::take(&mut old.names).into_iter().collect();
        let all = std::mem::take(&mut old.all) || old.doubt.is_some() || names.len() > SINGLE;
        // Being read is no write: given up, it leaves no doubt.
        Changes { old: Arc::clone(&self.old), names, all, done: true }
    }
}

impl Rows {
    fn insert(&mut self, mut row: HostRow) {
        match self.operations.get(&row.operations) {
            Some(known) => row.operations = Arc::clone(known),
            None => drop(self.operations.insert(Arc::clone(&row.operations))),
        }
        self.by_name.insert(row.name.clone(), Arc::new(row));
    }
}

impl Store {
    /// All hosts, by name.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn hosts(&self) -> Result<Vec<Arc<HostRow>>, StoreError> {
        let mut rows = self.roster.rows.lock().await;
        let mut old = self.roster.take_old();
        if old.all {
            let read = self.read_hosts().await?;
            rows.by_name.clear();
            read.into_iter().for_each(|row| rows.insert(row));
            rows.operations.retain(|text| Arc::strong_count(text) > 1);
        } else {
            for name in &old.names {
                match self.host(name).await? {
                    Some(row) => rows.insert(row),
                    None => drop(rows.by_name.remove(name)),
                }
            }
        }
        (old.all, old.names) = (false, Vec::new());
        Ok(rows.by_name.values().cloned().collect())
    }
}
