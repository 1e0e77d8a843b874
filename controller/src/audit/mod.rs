//! The audit: everything that was asked for, before it is let go, and how it came out.
//!
//! Records are written in groups: whoever waits while one group is committed is in the next. A
//! record that is not in the store was never answered for.

mod chain;
mod looks;

use std::sync::Arc;

use hostler_core::clock::Clock;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::chain::{Record, Walk};
use self::looks::Looks;
use crate::{
    metrics::Metrics,
    store::{Store, StoreError},
};

/// Requests that wait for a commit. Behind them callers wait.
const WAITING: usize = 1024;
/// The kind of a record of somebody who looked at what the controller knows.
pub const LOOK: &str = "look";
/// Records in one commit, about.
const GROUP: usize = 10_000;
/// Records that are read at a time while the chain is walked.
const PAGE: u32 = 1000;

/// What is to be recorded; place, time and hash are given to it.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// "intent", "outcome", "denied", "change", "recovered", "reconciled", [`LOOK`].
    pub kind: &'static str,
    /// Who asks.
    pub principal: String,
    /// The role that is used.
    pub role: String,
    /// The request that it belongs to.
    pub invocation: String,
    /// What is asked for.
    pub operation: String,
    /// Of whom.
    pub subject: String,
    /// How it came out.
    pub outcome: String,
    /// More, as a JSON object.
    pub detail: String,
}

/// Why something is not in the audit.
#[derive(Debug, Clone, Error)]
pub enum AuditError {
    /// The store refused.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// The controller is stopping.
    #[error("the audit is closed")]
    Closed,
}

type Waiting = (Vec<Entry>, oneshot::Sender<Result<(), AuditError>>);

/// The way into the audit. A clone is the same.
#[derive(Debug, Clone)]
pub struct Auditor {
    way: mpsc::Sender<Waiting>,
    trouble: watch::Receiver<Option<Arc<str>>>,
    looks: Arc<Looks>,
    clock: Arc<dyn Clock>,
}

impl Auditor {
    /// Opens the audit, after recording the unknown outcome of everything that an earlier
    /// controller let go and did not hear of again.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<(Self, u64), StoreError> {
        let head = store.audit_head().await?;
        let (seq, hash) = head.map(|r| (r.seq, r.hash)).unwrap_or_default();
        let (told, trouble) = watch::channel(None);
        let mut writer =
            Writer { store, clock: Arc::clone(&clock), metrics, seq, hash, trouble: told };
        let mut recovered = 0;
        loop {
            let unfinished = writer.store.unfinished(PAGE).await?;
            if unfinished.is_empty() {
                break;
            }
            recovered += unfinished.len() as u64;
            let entries = unfinished.into_iter().map(|r| Entry {
                kind: "recovered",
                principal: r.principal,
                role: r.role,
                invocation: r.invocation,
                operation: r.operation,
                subject: r.subject,
                outcome: "outcome-unknown".into(),
                detail: serde_json::json!({ "summary": "the controller ended before the outcome" })
                    .to_string(),
            });
            writer.write(entries.collect()).await?;
        }
        writer.store.settled(writer.seq).await?;
        let (way, receiver) = mpsc::channel(WAITING);
        tokio::spawn(writer.run(receiver));
        Ok((Self { way, trouble, looks: Arc::default(), clock }, recovered))
    }

    /// Records entries, in their order, all or none; ends when they are on disk.
    ///
    /// # Errors
    /// When they are not: what they stand for must not happen then.
    pub async fn record_all(&self, entries: Vec<Entry>) -> Result<(), AuditError> {
        let (done, recorded) = oneshot::channel();
        self.way.send((entries, done)).await.map_err(|_| AuditError::Closed)?;
        recorded.await.map_err(|_| AuditError::Closed)?
    }

    /// Records a look, unless it was recorded a moment ago. Nobody waits for it: a look changes
    /// nothing, and must be possible when the audit cannot be written.
    pub fn looked(&self, entry: Entry) {
        if !self.looks.is_new(&entry, self.clock.now().as_microsecond()) {
            return;
        }
        let entry = Entry { kind: LOOK, outcome: "ok".to_owned(), ..entry };
        let (who, at) = (entry.principal.clone(), entry.operation.clone());
        if self.way.try_send((vec![entry], oneshot::channel().0)).is_err() {
            tracing::warn!(%who, %at, "a look was not recorded: the audit has no room for it");
        }
    }

    /// Why the last record could not be written; none when it was.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.borrow().clone()
    }
}

/// Walks the whole chain, and tells after each page how many records fit so far; none when nobody wants
/// to know more.
///
/// # Errors
/// When the store refuses. The first record that does not fit comes with the reason.
pub async fn verify(
    store: &Store,
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<Option<(Walk, Option<String>)>, StoreError> {
    let mut walk = Walk::default();
    loop {
        let page = store.audit_after(walk.records, PAGE).await?;
        if page.is_empty() {
            return Ok(Some((walk, None)));
        }
        for record in &page {
            if let Err(problem) = walk.step(record) {
                return Ok(Some((walk, Some(problem))));
            }
        }
        if !goes_on(walk.records) {
            return Ok(None);
        }
    }
}

struct Writer {
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    seq: u64,
    hash: String,
    trouble: watch::Sender<Option<Arc<str>>>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        while let Some((mut entries, first)) = waiting.recv().await {
            let mut answers = vec![first];
            while entries.len() < GROUP
                && let Ok((more, answer)) = waiting.try_recv()
            {
                entries.extend(more);
                answers.push(answer);
            }
            let written = self.write(entries).await.map_err(|e| AuditError::Store(Arc::new(e)));
            self.trouble.send_replace(written.as_ref().err().map(|e| e.to_string().into()));
            for answer in answers {
                // Who no longer waits has its record nevertheless.
                let _ = answer.send(written.clone());
            }
        }
    }

    /// Chains entries and commits them. After a failure the chain goes on where it was.
    async fn write(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let time_us = self.clock.now().as_microsecond();
        let (mut seq, mut hash) = (self.seq, self.hash.clone());
        let records: Vec<Record> = entries
            .into_iter()
            .map(|entry| {
                seq += 1;
                let mut record = Record {
                    seq,
                    time_us,
                    kind: entry.kind.to_owned(),
                    principal: entry.principal,
                    role: entry.role,
                    invocation: entry.invocation,
                    operation: entry.operation,
                    subject: entry.subject,
                    outcome: entry.outcome,
                    detail: entry.detail,
                    hash: String::new(),
                };
                record.hash = chain::hash(&hash, &record);
                hash.clone_from(&record.hash);
                record
            })
            .collect();
        let began = tokio::time::Instant::now();
        if let Err(error) = self.store.append_audit(&records).await {
            // The commit may have taken effect and only its answer was lost: the chain goes on from
            // where it really ends.
            if let Ok(Some(head)) = self.store.audit_head().await {
                (self.seq, self.hash) = (head.seq, head.hash);
            }
            return Err(error);
        }
        self.metrics.audit_commit.observe(began.elapsed().as_secs_f64());
        self.metrics.audit_records.inc_by(records.len() as u64);
        (self.seq, self.hash) = (seq, hash);
        Ok(())
    }
}
