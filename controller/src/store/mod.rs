//! What must outlive the controller, in SQLite or PostgreSQL. All SQL of the controller is here.
//!
//! One text for both: the tables know only BIGINT, TEXT and BYTEA, which sqlx's `Any` carries
//! faithfully (SQLite takes any name of a type), so there are no two implementations that could drift apart.

mod audit;
mod claim;
mod connections;
mod days;
mod downtimes;
mod fates;
mod figures;
mod health;
mod hosts;
mod notices;
mod operators;
mod roster;
mod series;
mod tokens;
mod transaction;
mod turns;

use std::{
    collections::HashSet,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    sync::{Arc, PoisonError},
    time::Duration,
};

use sqlx::{
    AnyPool, Executor,
    any::{AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::MigrateError,
};
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

pub use self::{
    audit::AuditFilter,
    claim::StoreClaim,
    connections::Change,
    fates::Fate,
    hosts::{Connection, EnrollError, HostRow, NewHost},
    notices::{NoticeRow, Told},
    operators::OperatorRow,
    tokens::TokenRow,
    turns::TurnRow,
};

/// Connections that read.
const READERS: u32 = 4;
/// How many of them may read the audit, which can take long; the others are for what operations need.
const AUDIT_READERS: usize = 2;
/// Connections that write. One at a time does; another may just be closed.
const WRITERS: u32 = 2;
/// Damaged rows that are told of, each once.
const DAMAGES: usize = 1000;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the store refused: {0}")]
    Database(#[from] sqlx::Error),
    /// The store cannot be opened.
    #[error("the store {url} cannot be opened: {source}")]
    Open {
        /// Where, without a password.
        url: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A newer controller has written it.
    #[error(
        "the store has version {0}, which this controller does not know; use the controller that \
         wrote it, or a newer one"
    )]
    Newer(i64),
    /// Another controller has it.
    #[error("another hostler-controller uses this store; stop it first")]
    Taken,
    /// Another controller took it.
    #[error(
        "another hostler-controller took this store while the connection to it was lost; stop one of \
         the two, and start this one again"
    )]
    Lost,
    /// Its tables cannot be brought up to date.
    #[error("the store cannot be brought up to date: {0}")]
    Migrate(MigrateError),
    /// A row does not hold what it should.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// The store. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    /// Whoever reads, the audit can be written.
    writes: AnyPool,
    /// SQLite has one writer; waiting for it here costs less than being told that it is busy.
    writer: Arc<Mutex<()>>,
    audit_readers: Arc<Semaphore>,
    /// Damage that was told of.
    damages: Arc<std::sync::Mutex<HashSet<String>>>,
    roster: Arc<roster::Roster>,
    series: series::Numbers,
    /// Who is told of what changes.
    targets: Arc<Vec<String>>,
    sqlite: bool,
}

impl StoreError {
    /// Whether something else could be written: what was to be written, or what it is added to, is
    /// not as it should be.
    pub fn is_of_content(&self) -> bool {
        match self {
            // Class 22 are data exceptions, class 54 limits of the program: a row too long for an index.
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                code.len() == 5 && (code.starts_with("22") || code.starts_with("54"))
            }),
            Self::Damaged(_) => true,
            _ => false,
        }
    }
}

impl Store {
    /// Opens `sqlite:PATH` (made when it does not exist) or `postgres://…`, whoever else uses it.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer controller.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self::connect(url).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Opens it for a controller, which has it alone.
    ///
    /// # Errors
    /// When it cannot be reached, another controller has it, or a newer one has written it.
    pub async fn open_alone(url: &str) -> Result<(Self, Option<StoreClaim>), StoreError> {
        let store = Self::connect(url).await?;
        // Tables of a store that another controller uses are not changed under it.
        let claim = store.claim().await?;
        store.migrate().await?;
        Ok((store, claim))
    }

    async fn connect(url: &str) -> Result<Self, StoreError> {
        install_default_drivers();
        let file = url.strip_prefix("sqlite:").map(|f| f.split('?').next().unwrap_or(f));
        let sqlite = file.is_some();
        if let Some(file) = file {
            keep_private(file);
        }
        let full = match sqlite && !url.contains('?') {
            true => format!("{url}?mode=rwc"),
            false => url.to_owned(),
        };
        let options = AnyPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        // FULL: a commit that was answered survives a power cut.
                        connection
                            .execute(
                                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                                 PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON",
                            )
                            .await?;
                    }
                    Ok(())
                })
            });
        let shown = url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned();
        let unopened = |source| StoreError::Open { url: shown.clone(), source };
        let writes = options.clone().max_connections(WRITERS);
        let pool = options.connect(&full).await.map_err(unopened)?;
        let writes = writes.connect_lazy(&full).map_err(unopened)?;
        let audit_readers = Arc::new(Semaphore::new(AUDIT_READERS));
        let (writer, damages, roster, series, targets) = Default::default();
        Ok(Self { pool, writes, writer, audit_readers, damages, roster, series, targets, sqlite })
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.writes).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => StoreError::Newer(version),
            other => StoreError::Migrate(other),
        })
    }

    /// The store with targets for which a notice of each change is written down with it.
    #[must_use]
    pub fn telling(self, targets: Vec<String>) -> Self {
        Self { targets: Arc::new(targets), ..self }
    }

    /// The rows that can be read. One that cannot is told in the log, once, and left out: what all
    /// others stand for goes on.
    fn readable<T>(
        &self,
        rows: &[AnyRow],
        read: impl Fn(&AnyRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            match read(row) {
                Err(StoreError::Damaged(what)) => self.left_out(what),
                done => all.push(done?),
            }
        }
        Ok(all)
    }

    /// Tells the log, once, that something is left out since it cannot be read.
    fn left_out(&self, what: String) {
        let mut told = self.damages.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < DAMAGES && told.insert(what.clone()) {
            tracing::error!(what, "the store is damaged; this is left out");
        }
    }

    async fn write(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().await
    }
}

/// Makes a database that does not exist yet, for its owner alone: SQLite gives its other files the
/// same mode, and would itself let everybody read.
fn keep_private(file: &str) {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    // Where it cannot be made SQLite says why; it may also stand there already, or be in memory.
    drop(made);
}

/// A map as it is stored.
fn to_json(map: &std::collections::BTreeMap<String, String>) -> String {
    serde_json::to_string(map).unwrap_or_else(|_| "{}".to_owned())
}

fn from_json(text: &str) -> Result<std::collections::BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged(format!("\"{text}\" is no map")))
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(crate) mod tests;
