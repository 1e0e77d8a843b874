//! How checks stand: the last states, and what people know already.

use std::collections::HashMap;

use data_encoding::BASE64;
use hostler_proto::{
    name::HostName,
    wire::{HealthReport, Status, Turn},
};
use prost::Message;
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError, notices, transaction::Transaction, turns};
use crate::health::{
    Host, Left, Standing, problems::severity, recorder::News, silence::Acknowledgement,
};

/// A column that holds a status.
pub(super) fn status(row: &AnyRow, column: &str) -> Result<Status, StoreError> {
    let number: i64 = row.try_get(column)?;
    let status = i32::try_from(number).ok().and_then(|n| Status::try_from(n).ok());
    status.ok_or_else(|| StoreError::Damaged(format!("status {number}")))
}

impl Store {
    /// Writes down how hosts are and what changed, all or none. A host that is not known any more is
    /// left out.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn record_health(&self, news: &[News]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for news in news {
            let states = HealthReport { checks: news.states.clone(), ..HealthReport::default() };
            let done = sqlx::query(
                "INSERT INTO health (host, memory, last_turn, heard_us, leaving, states) \
                 SELECT name, $2, $3, $4, $5, $6 FROM hosts WHERE name = $1 \
                 ON CONFLICT (host) DO UPDATE SET memory = excluded.memory, \
                 last_turn = excluded.last_turn, heard_us = excluded.heard_us, \
                 leaving = excluded.leaving, states = excluded.states",
            )
            .bind(news.host.as_str())
            .bind(news.memory.as_str())
            .bind(i64::try_from(news.last_turn).unwrap_or(i64::MAX))
            .bind(news.heard_us)
            .bind(news.left.number())
            .bind(BASE64.encode(&states.encode_to_vec()))
            .execute(&mut *transaction)
            .await?;
            if done.rows_affected() == 0 {
                continue;
            }
            for turn in &news.turns {
                turns::add(&mut transaction, &news.host, turn).await?;
                self.begin_downtimes(&mut transaction, &news.host, turn).await?;
                end_acknowledgement(&mut transaction, &news.host, turn, news.heard_us).await?;
            }
            notices::write(&mut transaction, &self.targets, news).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// How every host was when it was written down last, also of those that were revoked: what takes such
    /// a name is compared with what people were told of it.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn health(&self) -> Result<HashMap<HostName, Host>, StoreError> {
        let rows = sqlx::query("SELECT * FROM health").fetch_all(&self.pool).await?;
        Ok(self.readable(&rows, host)?.into_iter().collect())
    }

    /// Writes down that somebody knows of a problem, in place of what was said of it before.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn acknowledge(&self, given: &Acknowledgement) -> Result<(), StoreError> {
        let _writer = self.write().await;
        sqlx::query(
            "INSERT INTO acknowledgements (host, check_name, at_us, expires_us, made_by, comment, \
             severity) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (host, check_name) DO UPDATE \
             SET at_us = excluded.at_us, expires_us = excluded.expires_us, \
             made_by = excluded.made_by, comment = excluded.comment, severity = excluded.severity",
        )
        .bind(given.host.as_str())
        .bind(given.check.as_str())
        .bind(given.at_us)
        .bind(given.expires_us.unwrap_or(0))
        .bind(given.made_by.as_str())
        .bind(given.comment.as_str())
        .bind(i64::from(given.severity))
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    /// Takes an acknowledgement back; false when there is none.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn unacknowledge(&self, host: &HostName, check: &str) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query("DELETE FROM acknowledgements WHERE host = $1 AND check_name = $2")
            .bind(host.as_str())
            .bind(check)
            .execute(&self.writes)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// All acknowledgements that have not expired; whether one still counts its problem says.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn acknowledgements(&self, now_us: i64) -> Result<Vec<Acknowledgement>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM acknowledgements WHERE expires_us = 0 OR expires_us > $1")
                .bind(now_us)
                .fetch_all(&self.pool)
                .await?;
        let read = |row: &AnyRow| -> Result<Acknowledgement, StoreError> {
            let expires: i64 = row.try_get("expires_us")?;
            let severity: i64 = row.try_get("severity")?;
            Ok(Acknowledgement {
                host: row.try_get("host")?,
                check: row.try_get("check_name")?,
                at_us: row.try_get("at_us")?,
                severity: u8::try_from(severity).unwrap_or(0),
                expires_us: (expires != 0).then_some(expires),
                made_by: row.try_get("made_by")?,
                comment: row.try_get("comment")?,
            })
        };
        self.readable(&rows, read)
    }
}

/// Takes out what people said of a problem that is over by a turn, or got worse. What was said after
/// that was said of what came then.
async fn end_acknowledgement(
    transaction: &mut Transaction<'_>,
    host: &HostName,
    turn: &Turn,
    now_us: i64,
) -> Result<(), StoreError> {
    // What is said of a host's link goes with the link.
    if turn.check.is_empty() {
        return Ok(());
    }
    // One that flaps is not over whenever it is well for a moment.
    let over = severity(turn.became()) == 0 && !turn.flapping;
    let worse_than = if over { u8::MAX } else { severity(turn.became()) };
    sqlx::query(
        "DELETE FROM acknowledgements WHERE host = $1 AND check_name = $2 AND at_us < $3 \
         AND severity < $4",
    )
    .bind(host.as_str())
    .bind(turn.check.as_str())
    .bind(turn.at_us.min(now_us))
    .bind(i64::from(worse_than))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn host(row: &AnyRow) -> Result<(HostName, Host), StoreError> {
    let name: String = row.try_get("host")?;
    let damaged = |_| StoreError::Damaged(format!("the health of \"{name}\""));
    let states: String = row.try_get("states")?;
    let bytes = BASE64.decode(states.as_bytes()).map_err(|e| damaged(e.to_string()))?;
    let report = HealthReport::decode(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
    let (heard_us, last_turn): (i64, i64) = (row.try_get("heard_us")?, row.try_get("last_turn")?);
    let leaving: i64 = row.try_get("leaving")?;
    let standing = |state: hostler_proto::wire::CheckState| {
        (state.check.clone(), Standing::new(state, heard_us))
    };
    let host = Host {
        memory: row.try_get("memory")?,
        last_turn: u64::try_from(last_turn).unwrap_or(0),
        heard_us,
        left: Left::from_number(leaving),
        linked_us: 0,
        skew_us: 0,
        silent: false,
        checks: report.checks.into_iter().map(standing).collect(),
    };
    Ok((name.parse().map_err(|_| damaged(String::new()))?, host))
}
