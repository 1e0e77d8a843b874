//! The audit: everything that was asked for, before it is let go, and how it came out.
//!
//! Records are written in groups: whoever waits while one group is committed is in the next. A
//! record that is not in the store was never answered for.

mod chain;
mod looks;

use std::{sync::Arc, time::Duration};

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
/// Who makes a fleet.
pub const INIT: &str = "init";
/// Who makes an admin where the controller's keys are.
pub const LOCAL: &str = "local";
/// The controller itself, of what nobody asked for.
pub const CONTROLLER: &str = "controller";
/// Records in one commit, about.
const GROUP: usize = 10_000;
/// Longest text that an index holds, in characters: PostgreSQL takes 2,704 bytes.
const INDEXED: usize = 500;
/// While nothing can be written it is tried so often whether something can.
const AGAIN: Duration = Duration::from_secs(5);
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

impl Entry {
    /// What every store takes: no text holds a NUL, and what is looked for is not endless.
    fn kept(self) -> Self {
        let text = |text: String, longest: usize| match text.chars().nth(longest).is_some() {
            true => text.chars().filter(|c| *c != '\0').take(longest).chain(['…']).collect(),
            false if text.contains('\0') => text.replace('\0', ""),
            false => text,
        };
        Self {
            principal: text(self.principal, INDEXED),
            role: text(self.role, INDEXED),
            invocation: text(self.invocation, INDEXED),
            operation: text(self.operation, INDEXED),
            subject: text(self.subject, INDEXED),
            outcome: text(self.outcome, INDEXED),
            detail: text(self.detail, usize::MAX),
            ..self
        }
    }
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
        let entries = entries.into_iter().map(Entry::kept).collect();
        self.way.send((entries, done)).await.map_err(|_| AuditError::Closed)?;
        recorded.await.map_err(|_| AuditError::Closed)?
    }

    /// Records a look, unless it was recorded a moment ago. Nobody waits for it: a look changes
    /// nothing, and must be possible when the audit cannot be written.
    pub fn looked(&self, entry: Entry) {
        if !self.looks.is_new(&entry, self.clock.now().as_microsecond()) {
            return;
        }
        let entry = Entry { kind: LOOK, outcome: "ok".to_owned(), ..entry }.kept();
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
        loop {
            let first = tokio::select! {
                first = waiting.recv() => first,
                () = tokio::time::sleep(AGAIN), if self.trouble.borrow().is_some() => {
                    self.recover().await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut count = first.0.len();
            let mut group = vec![first];
            while count < GROUP
                && let Ok(more) = waiting.try_recv()
            {
                count += more.0.len();
                group.push(more);
            }
            self.write_group(group).await;
        }
    }

    /// Writes what many wait for in one commit; where one of them is why that fails, each for itself.
    async fn write_group(&mut self, mut group: Vec<Waiting>) {
        let all = group.iter().flat_map(|(entries, _)| entries).cloned().collect();
        match self.write(all).await {
            Err(error) if error.is_of_content() && group.len() > 1 => {
                for one in group {
                    Box::pin(self.write_group(vec![one])).await;
                }
            }
            written => {
                // What only this record is to blame for is no trouble of the others.
                let trouble = written.as_ref().err().filter(|error| !error.is_of_content());
                self.trouble.send_replace(trouble.map(|error| error.to_string().into()));
                let written = written.map_err(|e| AuditError::Store(Arc::new(e)));
                for (_, answer) in group.drain(..) {
                    // Who no longer waits has its record nevertheless.
                    let _ = answer.send(written.clone());
                }
            }
        }
    }

    /// Tries whether records can be written again, with one that tells why they could not.
    async fn recover(&mut self) {
        let Some(why) = self.trouble.borrow().clone() else { return };
        let summary = format!("records could be written again; before: {why}");
        let entry = Entry {
            kind: "change",
            principal: CONTROLLER.to_owned(),
            operation: "audit.write".to_owned(),
            outcome: "ok".to_owned(),
            detail: serde_json::json!({ "summary": summary }).to_string(),
            ..Entry::default()
        };
        match self.write(vec![entry.kept()]).await {
            Ok(()) => {
                tracing::info!("the audit can be written again");
                self.trouble.send_replace(None);
            }
            Err(error) => drop(self.trouble.send_replace(Some(error.to_string().into()))),
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
