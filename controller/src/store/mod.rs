//! What must outlive the controller, in SQLite or PostgreSQL. All SQL of the controller is here.
//!
//! One text for both: the tables know only BIGINT, TEXT and BYTEA, which sqlx's `Any` carries
//! faithfully (SQLite takes any name of a type), so there are no two implementations that could drift apart.

mod audit;
mod connections;
mod days;
mod figures;
mod health;
mod hosts;
mod notices;
mod operators;
mod roster;
mod tokens;
mod transaction;
mod turns;

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, sync::Arc, time::Duration};

use sqlx::{
    AnyConnection, AnyPool, Executor, Row as _,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::MigrateError,
};
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};

pub use self::{
    audit::AuditFilter,
    connections::Change,
    hosts::{Connection, EnrollError, HostRow, NewHost},
    notices::{NoticeRow, Told},
    operators::OperatorRow,
    tokens::TokenRow,
    turns::TurnRow,
};

/// The advisory lock of a controller: "hostler" in ASCII.
const CLAIM: i64 = 0x68_6f_73_74_6c_65_72;
/// How often a claim is tried, and what lies between.
const CLAIMS: u32 = 12;
const CLAIM_WAIT: Duration = Duration::from_millis(250);

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
    /// SQLite has one writer; waiting for it here costs less than being told that it is busy.
    writer: Arc<Mutex<()>>,
    roster: Arc<roster::Roster>,
    /// Who is told of what changes.
    targets: Arc<Vec<String>>,
    sqlite: bool,
}

/// Keeps other controllers from a store.
#[derive(Debug)]
pub struct StoreClaim(#[expect(dead_code, reason = "it ends with the connection")] AnyConnection);

impl Store {
    /// Opens `sqlite:PATH` (made when it does not exist) or `postgres://…`.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer controller.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
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
            .max_connections(4)
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
        let pool = options
            .connect(&full)
            .await
            .map_err(|source| StoreError::Open { url: shown, source })?;
        MIGRATIONS.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => StoreError::Newer(version),
            other => StoreError::Migrate(other),
        })?;
        let (writer, roster, targets) = Default::default();
        Ok(Self { pool, writer, roster, targets, sqlite })
    }

    /// The store with targets for which a notice of each change is written down with it.
    #[must_use]
    pub fn telling(self, targets: Vec<String>) -> Self {
        Self { targets: Arc::new(targets), ..self }
    }

    /// Claims a PostgreSQL store for as long as the claim lives; of SQLite's file the state directory
    /// is claimed. A claim that a dead controller left ends with its connection.
    ///
    /// # Errors
    /// When another controller has it.
    pub async fn claim(&self) -> Result<Option<StoreClaim>, StoreError> {
        if self.sqlite {
            return Ok(None);
        }
        let mut connection = self.pool.acquire().await?.detach();
        for _ in 0..CLAIMS {
            let held = sqlx::query(
                "SELECT CASE WHEN pg_try_advisory_lock($1) THEN 1 ELSE 0 END::BIGINT AS held",
            );
            let row = held.bind(CLAIM).fetch_one(&mut connection).await?;
            if row.try_get::<i64, _>("held")? == 1 {
                return Ok(Some(StoreClaim(connection)));
            }
            tokio::time::sleep(CLAIM_WAIT).await;
        }
        Err(StoreError::Taken)
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
mod tests;
