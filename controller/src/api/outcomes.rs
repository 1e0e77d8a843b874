//! How hosts ended, on the way into the audit. What cannot be written is kept and tried again until
//! it is, since the hosts have done it; meanwhile no further host is begun.

use std::{collections::HashSet, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    audit::{AuditError, Auditor, Entry},
    relay::Begin,
    store::{AuditFilter, Store, StoreError},
};

/// Wait before the first new attempt; it doubles from one to the next.
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait before any.
const LONGEST: Duration = Duration::from_secs(10);
/// How long hosts that were not begun wait for the audit, and the caller for those that were.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The outcomes of one request. There is one for each of its hosts at most.
#[derive(Debug)]
pub(super) struct Outcomes {
    auditor: Auditor,
    store: Store,
    waiting: Vec<Entry>,
    failing: Option<Failing>,
    begin: watch::Sender<Begin>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    due: Instant,
    wait: Duration,
    error: AuditError,
}

impl Outcomes {
    pub(super) fn new(auditor: Auditor, store: Store) -> Self {
        let begin = watch::Sender::new(Begin::Now);
        Self { auditor, store, waiting: Vec::new(), failing: None, begin }
    }

    /// Tells whether further hosts may be begun.
    pub(super) fn begin(&self) -> watch::Receiver<Begin> {
        self.begin.subscribe()
    }

    pub(super) fn add(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.waiting.extend(entries);
    }

    /// How many are not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.waiting.len()
    }

    /// Why they are not, once that has been so for too long.
    pub(super) fn given_up(&self) -> Option<&AuditError> {
        self.failing.as_ref().filter(|f| f.since.elapsed() >= PATIENCE).map(|f| &f.error)
    }

    /// Waits for the next attempt; for ever when none is needed.
    pub(super) async fn due(&self) {
        match &self.failing {
            Some(failing) => tokio::time::sleep_until(failing.due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what waits, unless an attempt that failed is not due again.
    pub(super) async fn write(&mut self) {
        let early = self.failing.as_ref().is_some_and(|f| Instant::now() < f.due);
        if self.waiting.is_empty() || early {
            return;
        }
        match self.try_write().await {
            Ok(()) => {
                self.waiting.clear();
                self.failing = None;
                self.decide(Begin::Now);
            }
            Err(error) => {
                let unwritten = self.waiting.len();
                tracing::error!(%error, unwritten, "outcomes could not be audited; tried again");
                let now = Instant::now();
                let (since, wait) = match &self.failing {
                    Some(failing) => (failing.since, (failing.wait * 2).min(LONGEST)),
                    None => (now, FIRST),
                };
                self.failing = Some(Failing { since, due: now + wait, wait, error });
                let over = self.given_up().is_some();
                self.decide(if over { Begin::Never } else { Begin::Later });
            }
        }
    }

    /// Writes what waits. What cannot be written now is written later, by the task that is given:
    /// nobody need wait for it.
    pub(super) async fn write_soon(mut self) -> Option<JoinHandle<()>> {
        self.write().await;
        (!self.waiting.is_empty()).then(|| tokio::spawn(self.write_all()))
    }

    /// Writes what waits, however long that takes.
    pub(super) async fn write_all(mut self) {
        self.write().await;
        while !self.waiting.is_empty() {
            self.due().await;
            self.write().await;
        }
    }

    /// Hosts that were told that they are not begun stay so.
    fn decide(&self, begin: Begin) {
        self.begin.send_if_modified(|was| {
            let changes = *was != begin && *was != Begin::Never;
            if changes {
                *was = begin;
            }
            changes
        });
    }

    async fn try_write(&mut self) -> Result<(), AuditError> {
        // Perhaps only the answer was lost, and each intent has one outcome.
        if self.failing.is_some() {
            let written = self.written().await.map_err(|e| AuditError::Store(e.into()))?;
            self.waiting.retain(|entry| !written.contains(&entry.subject));
        }
        self.auditor.record_all(self.waiting.clone()).await
    }

    /// The hosts of this request whose outcome is in the store.
    async fn written(&self) -> Result<HashSet<String>, StoreError> {
        let invocation = self.waiting.first().map(|e| e.invocation.clone()).unwrap_or_default();
        let filter =
            AuditFilter { invocation, limit: u32::MAX, before: 0, ..AuditFilter::default() };
        let records = self.store.audit(&filter).await?;
        Ok(records.into_iter().filter(|r| r.kind == "outcome").map(|r| r.subject).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hostler_core::clock::SystemClock;

    use super::*;
    use crate::metrics::Metrics;

    fn outcome(host: &str) -> Entry {
        Entry {
            kind: "outcome",
            invocation: "7".into(),
            subject: host.into(),
            outcome: "ok".into(),
            ..Entry::default()
        }
    }

    /// A store that takes no outcome until its trigger is dropped.
    async fn full(dir: &std::path::Path) -> (Store, sqlx::AnyPool) {
        let url = format!("sqlite:{}", dir.join("store").display());
        let store = Store::open(&url).await.expect("store");
        let pool = sqlx::AnyPool::connect(&url).await.expect("pool");
        let trigger = "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.kind = 'outcome' \
                       BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
        sqlx::query(trigger).execute(&pool).await.expect("trigger");
        (store, pool)
    }

    async fn outcomes(store: &Store) -> Outcomes {
        let started = Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default());
        Outcomes::new(started.await.expect("audit").0, store.clone())
    }

    #[tokio::test]
    async fn an_outcome_that_could_not_be_written_is_written_once_when_it_can_be() {
        let dir = tempfile::tempdir().expect("directory");
        let (store, pool) = full(dir.path()).await;
        let mut outcomes = outcomes(&store).await;
        let begin = outcomes.begin();
        outcomes.add([outcome("web-1")]);
        outcomes.write().await;
        assert_eq!((outcomes.unwritten(), *begin.borrow()), (1, Begin::Later));
        outcomes.add([outcome("web-2")]);
        // Not due yet: nothing is asked of a store that just failed.
        outcomes.write().await;
        assert_eq!(outcomes.unwritten(), 2);
        sqlx::query("DROP TRIGGER full").execute(&pool).await.expect("dropped");
        // As if only the answer to the first had been lost.
        outcomes.auditor.record_all(vec![outcome("web-1")]).await.expect("written");
        outcomes.due().await;
        outcomes.write().await;
        assert_eq!((outcomes.unwritten(), *begin.borrow()), (0, Begin::Now));
        let written = store.audit_after(0, 10).await.expect("records");
        let hosts: Vec<_> = written.iter().map(|r| r.subject.as_str()).collect();
        assert_eq!(hosts, ["web-1", "web-2"]);
    }

    #[tokio::test]
    async fn an_outcome_of_which_only_the_answer_was_lost_is_not_written_again() {
        let dir = tempfile::tempdir().expect("directory");
        let (store, pool) = full(dir.path()).await;
        let mut outcomes = outcomes(&store).await;
        let auditor = outcomes.auditor.clone();
        outcomes.add([outcome("web-1")]);
        let later = outcomes.write_soon().await.expect("it is tried again");
        sqlx::query("DROP TRIGGER full").execute(&pool).await.expect("dropped");
        auditor.record_all(vec![outcome("web-1")]).await.expect("as if that had been the answer");
        later.await.expect("no panic");
        assert_eq!(store.audit_after(0, 10).await.expect("records").len(), 1);
    }

    #[tokio::test]
    async fn hosts_are_begun_never_when_the_audit_fails_for_too_long() {
        let dir = tempfile::tempdir().expect("directory");
        let (store, pool) = full(dir.path()).await;
        let mut outcomes = outcomes(&store).await;
        let begin = outcomes.begin();
        outcomes.add([outcome("web-1")]);
        outcomes.write().await;
        if let Some(failing) = &mut outcomes.failing {
            failing.since -= PATIENCE;
            failing.due = Instant::now();
        }
        outcomes.write().await;
        assert!(outcomes.given_up().is_some());
        assert_eq!(*begin.borrow(), Begin::Never);
        sqlx::query("DROP TRIGGER full").execute(&pool).await.expect("dropped");
        outcomes.write_all().await;
        assert_eq!(
            (store.audit_after(0, 10).await.expect("records").len(), *begin.borrow()),
            (1, Begin::Never)
        );
    }
}
