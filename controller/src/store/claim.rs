//! Keeps other controllers from a store.

use std::time::Duration;

use sqlx::{AnyConnection, Row as _};
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};

/// The advisory lock of a controller: "hostler" in ASCII.
const CLAIM: i64 = 0x68_6f_73_74_6c_65_72;
/// How often a claim is tried, and what lies between.
const CLAIMS: u32 = 12;
const CLAIM_WAIT: Duration = Duration::from_millis(250);
/// How often it is looked whether its connection still stands.
const BEAT: Duration = Duration::from_secs(2);

/// Keeps other controllers from a store, for as long as its connection stands.
#[derive(Debug)]
pub struct StoreClaim {
    store: Store,
    connection: AnyConnection,
}

impl Store {
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
                return Ok(Some(StoreClaim { store: self.clone(), connection }));
            }
            tokio::time::sleep(CLAIM_WAIT).await;
        }
        Err(StoreError::Taken)
    }
}

impl StoreClaim {
    /// Watches over the claim until `stop`, and takes it again when its connection was lost, as it is
    /// when the server is restarted. When another controller was faster nothing can be written any
    /// more. Gives the claim back for what is still written after `stop`.
    ///
    /// # Errors
    /// When another controller has the store.
    pub async fn keep(mut self, stop: CancellationToken) -> Result<Self, StoreError> {
        let mut lost = false;
        while tokio::time::timeout(BEAT, stop.cancelled()).await.is_err() {
            // No deadline: a server that answers late still holds the claim.
            let asked = sqlx::query("SELECT 1 AS one").fetch_one(&mut self.connection);
            let answered = tokio::select! {
                answered = asked => answered,
                () = stop.cancelled() => break,
            };
            let Err(error) = answered else { continue };
            if !std::mem::replace(&mut lost, true) {
                tracing::error!(%error, "the claim on the store is lost; it is taken again");
            }
            match self.store.claim().await {
                Ok(Some(Self { connection, .. })) => {
                    self.connection = connection;
                    lost = false;
                    tracing::info!("the store is claimed again");
                }
                Err(StoreError::Taken) => {
                    // What is under way must not be written beside what the other one writes.
                    drop(self.store.writes.close());
                    return Err(StoreError::Lost);
                }
                // The server is not back yet.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(self)
    }
}
