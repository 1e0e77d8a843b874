//! Notices that wait to be delivered, and what each target was told last.

use hostler_proto::{name::HostName, wire::Status};
use sqlx::Row;

use super::{Store, StoreError, health::status, transaction::Transaction};
use crate::health::recorder::News;

/// A notice.
#[derive(Debug, Clone)]
pub struct NoticeRow {
    /// Its id.
    pub id: String,
    /// Name of its target.
    pub target: String,
    /// The host.
    pub host: HostName,
    /// The check; empty for the host itself.
    pub check: String,
    /// From what.
    pub was: Status,
    /// To what.
    pub became: Status,
    /// When it changed.
    pub at_us: i64,
    /// How often it was tried.
    pub attempts: i64,
    /// What the check said.
    pub summary: String,
}

/// What a target was told last of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: Status,
    /// When.
    pub at_us: i64,
}

/// One notice for each target, of each change.
pub(super) async fn write(
    transaction: &mut Transaction<'_>,
    targets: &[String],
    news: &News,
) -> Result<(), StoreError> {
    for turn in &news.turns {
        for target in targets {
            let notice = NoticeRow {
                // The same change told twice is one notice.
                id: format!("{target}/{}/{}/{}", news.host, news.memory, turn.number),
                target: target.clone(),
                host: news.host.clone(),
                check: turn.check.clone(),
                was: turn.was(),
                became: turn.became(),
                at_us: turn.at_us,
                attempts: 0,
                summary: turn.summary.clone(),
            };
            // The agent's clock says when it was; when it is told ours does.
            add(transaction, &notice, news.heard_us).await?;
        }
    }
    Ok(())
}

/// Writes a notice down, unless it is there already.
pub(super) async fn add(
    transaction: &mut Transaction<'_>,
    notice: &NoticeRow,
    due_us: i64,
) -> Result<(), StoreError> {
    // A newer change takes the place of one that was not told yet: judged alone, either would be
    // wrong.
    sqlx::query(
        "DELETE FROM notices WHERE target = $1 AND host = $2 AND check_name = $3 AND id <> $4",
    )
    .bind(notice.target.as_str())
    .bind(notice.host.as_str())
    .bind(notice.check.as_str())
    .bind(notice.id.as_str())
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "INSERT INTO notices (id, target, host, check_name, was, became, at_us, due_us, attempts, \
         summary) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9) ON CONFLICT (id) DO NOTHING",
    )
    .bind(notice.id.as_str())
    .bind(notice.target.as_str())
    .bind(notice.host.as_str())
    .bind(notice.check.as_str())
    .bind(i64::from(i32::from(notice.was)))
    .bind(i64::from(i32::from(notice.became)))
    .bind(notice.at_us)
    .bind(due_us)
    .bind(notice.summary.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

impl Store {
    /// Notices that are due, the oldest first.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn due_notices(&self, now_us: i64, most: u32) -> Result<Vec<NoticeRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM notices WHERE due_us <= $1 ORDER BY due_us, at_us, id LIMIT $2",
        )
        .bind(now_us)
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?;
        let read = |row: &sqlx::any::AnyRow| -> Result<NoticeRow, StoreError> {
            let host: String = row.try_get("host")?;
            Ok(NoticeRow {
                id: row.try_get("id")?,
                target: row.try_get("target")?,
                host: host.parse().map_err(|_| StoreError::Damaged(format!("host \"{host}\"")))?,
                check: row.try_get("check_name")?,
                was: status(row, "was")?,
                became: status(row, "became")?,
                at_us: row.try_get("at_us")?,
                attempts: row.try_get("attempts")?,
                summary: row.try_get("summary")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Takes a notice out that is not to be told.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn drop_notice(&self, id: &str) -> Result<(), StoreError> {
        let _writer = self.write().await;
        sqlx::query("DELETE FROM notices WHERE id = $1").bind(id).execute(&self.pool).await?;
        Ok(())
    }

    /// Puts a notice off.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn defer_notice(&self, id: &str, due_us: i64, tried: bool) -> Result<(), StoreError> {
        let _writer = self.write().await;
        sqlx::query("UPDATE notices SET due_us = $2, attempts = attempts + $3 WHERE id = $1")
            .bind(id)
            .bind(due_us)
            .bind(i64::from(tried))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Takes a notice out that was delivered, and remembers what was told.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn notice_told(&self, notice: &NoticeRow, now_us: i64) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM notices WHERE id = $1")
            .bind(notice.id.as_str())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO told (target, host, check_name, status, at_us) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (target, host, check_name) DO UPDATE SET status = excluded.status, \
             at_us = excluded.at_us",
        )
        .bind(notice.target.as_str())
        .bind(notice.host.as_str())
        .bind(notice.check.as_str())
        .bind(i64::from(i32::from(notice.became)))
        .bind(now_us)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What a target was told last of a problem.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn told(
        &self,
        target: &str,
        host: &HostName,
        check: &str,
    ) -> Result<Option<Told>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM told WHERE target = $1 AND host = $2 AND check_name = $3")
                .bind(target)
                .bind(host.as_str())
                .bind(check)
                .fetch_optional(&self.pool)
                .await?;
        let read = |row| Ok(Told { status: status(&row, "status")?, at_us: row.try_get("at_us")? });
        row.map(read).transpose()
    }
}
