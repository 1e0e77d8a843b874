//! What becomes of notices: what was sent, and how that came out.

use hostler_proto::wire::Status;

use super::{NoticeRow, Store, StoreError, notices::add, transaction::Transaction};
use crate::health::problems::severity;

/// What becomes of a notice that was looked at.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It was delivered.
    Told {
        /// The notice.
        notice: NoticeRow,
        /// When.
        at_us: i64,
    },
    /// It was tried in vain.
    Failed {
        /// The notice.
        notice: NoticeRow,
        /// When it is tried again.
        due_us: i64,
        /// When it was tried.
        at_us: i64,
        /// What its target may have heard before, when it certainly did not hear this.
        unheard: Option<Status>,
    },
    /// It is looked at again later.
    Later {
        /// The notice.
        notice: NoticeRow,
        /// When.
        due_us: i64,
    },
    /// It is not told.
    Dropped {
        /// The notice.
        notice: NoticeRow,
        /// Nor is it remembered what was told of its problem, which is no more.
        forget: bool,
    },
}

impl Store {
    /// Writes down that a notice is being sent: its target may have heard it, whatever comes then. False
    /// when it waits no more, since another change took its place.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn notice_attempted(&self, notice: &NoticeRow) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let waits = sqlx::query("SELECT 1 AS waits FROM notices WHERE id = $1")
            .bind(notice.id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        if waits.is_none() {
            transaction.roll_back().await?;
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO told (target, host, check_name, status, at_us, attempted) \
             VALUES ($1, $2, $3, 0, 0, $4) \
             ON CONFLICT (target, host, check_name) DO UPDATE SET attempted = excluded.attempted",
        )
        .bind(notice.target.as_str())
        .bind(notice.host.as_str())
        .bind(notice.check.as_str())
        .bind(i64::from(i32::from(notice.became)))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Writes down what becomes of notices, all or nothing.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn settle_notices(&self, fates: &[Fate]) -> Result<(), StoreError> {
        if fates.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin().await?;
        for fate in fates {
            settle(&mut transaction, fate).await?;
        }
        transaction.commit().await
    }
}

async fn settle(transaction: &mut Transaction<'_>, fate: &Fate) -> Result<(), StoreError> {
    match fate {
        Fate::Told { notice, at_us } => {
            let waited = remove(transaction, notice).await?;
            sqlx::query(
                "INSERT INTO told (target, host, check_name, status, at_us, flapping, since_us, \
                 summary) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                 ON CONFLICT (target, host, check_name) DO UPDATE SET status = excluded.status, \
                 at_us = excluded.at_us, flapping = excluded.flapping, \
                 since_us = excluded.since_us, summary = excluded.summary, attempted = 0",
            )
            .bind(notice.target.as_str())
            .bind(notice.host.as_str())
            .bind(notice.check.as_str())
            .bind(i64::from(i32::from(notice.became)))
            .bind(*at_us)
            .bind(i64::from(notice.flapping))
            .bind(notice.at_us)
            .bind(notice.summary.as_str())
            .execute(&mut **transaction)
            .await?;
            if !waited && severity(notice.became) > 0 {
                take_back(transaction, notice).await?;
            }
        }
        Fate::Failed { notice, due_us, at_us, unheard } => {
            let first_us = if notice.failed_us == 0 { *at_us } else { notice.failed_us };
            sqlx::query(
                "UPDATE notices SET due_us = $2, failed_us = $3, attempts = attempts + 1 \
                 WHERE id = $1",
            )
            .bind(notice.id.as_str())
            .bind(*due_us)
            .bind(first_us)
            .execute(&mut **transaction)
            .await?;
            if let Some(before) = unheard {
                let text = "UPDATE told SET attempted = $4 \
                            WHERE target = $1 AND host = $2 AND check_name = $3";
                let query = of_problem(text, notice).bind(i64::from(i32::from(*before)));
                query.execute(&mut **transaction).await?;
            }
        }
        Fate::Later { notice, due_us } => {
            sqlx::query("UPDATE notices SET due_us = $2 WHERE id = $1")
                .bind(notice.id.as_str())
                .bind(*due_us)
                .execute(&mut **transaction)
                .await?;
        }
        Fate::Dropped { notice, forget } => {
            remove(transaction, notice).await?;
            if *forget {
                let text = "DELETE FROM told WHERE target = $1 AND host = $2 AND check_name = $3";
                of_problem(text, notice).execute(&mut **transaction).await?;
            }
        }
    }
    Ok(())
}

/// Takes a notice out; false when there was none.
async fn remove(transaction: &mut Transaction<'_>, notice: &NoticeRow) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM notices WHERE id = $1").bind(notice.id.as_str());
    Ok(query.execute(&mut **transaction).await?.rows_affected() > 0)
}

/// Sees to it that the end of a problem is told which was over before it could be written down that
/// the problem was told.
async fn take_back(
    transaction: &mut Transaction<'_>,
    notice: &NoticeRow,
) -> Result<(), StoreError> {
    let text = "SELECT 1 AS waits FROM notices WHERE target = $1 AND host = $2 AND check_name = $3";
    if of_problem(text, notice).fetch_optional(&mut **transaction).await?.is_some() {
        return Ok(());
    }
    let end = NoticeRow {
        id: format!("{}/end", notice.id),
        was: notice.became,
        became: Status::Ok,
        flapping: false,
        summary: "it is well again".to_owned(),
        ..notice.clone()
    };
    add(transaction, &end, notice.at_us).await
}

/// A query about what a target was told of a problem.
fn of_problem<'q>(
    text: &'q str,
    notice: &'q NoticeRow,
) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments<'q>> {
    let (target, host, check) =
        (notice.target.as_str(), notice.host.as_str(), notice.check.as_str());
    sqlx::query(text).bind(target).bind(host).bind(check)
}
