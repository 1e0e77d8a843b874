//! What is written together, or not at all.
//!
//! sqlx's own transactions are not used: when SQLite has no room left it ends a transaction by itself,
//! sqlx goes on to count it as open, and what is committed on that connection later stands inside of a
//! transaction that never ends. Here a connection on which a transaction did not end well is closed.

use std::ops::{Deref, DerefMut};

use sqlx::{Any, AnyConnection, Executor as _, pool::PoolConnection};
use tokio::sync::MutexGuard;

use super::{Store, StoreError};

/// A transaction that is open. Dropping it takes back what it wrote.
#[derive(Debug)]
pub(super) struct Transaction<'s> {
    connection: PoolConnection<Any>,
    ended: bool,
    _writer: MutexGuard<'s, ()>,
}

impl Store {
    /// Begins one, as the only one that writes.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let writer = self.write().await;
        let connection = self.writes.acquire().await?;
        let mut transaction = Transaction { connection, ended: false, _writer: writer };
        let begin = if self.sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        transaction.connection.execute(begin).await?;
        Ok(transaction)
    }
}

impl Transaction<'_> {
    /// Writes it down.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.end("COMMIT").await
    }

    /// Takes it back, where that is no failure.
    pub(super) async fn roll_back(self) -> Result<(), StoreError> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, how: &str) -> Result<(), StoreError> {
        self.connection.execute(how).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}
