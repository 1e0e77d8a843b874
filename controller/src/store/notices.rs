//! Notices that wait to be delivered, and what each target was told last.

use hostler_proto::{
    name::HostName,
    wire::{Status, Turn},
};
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError, health::status, transaction::Transaction};
use crate::health::{problems::severity, recorder::News};

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
    /// It changes again and again, which is told once.
    pub flapping: bool,
    /// When it changed.
    pub at_us: i64,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was first tried in vain; 0 when it was not.
    pub failed_us: i64,
    /// What the check said.
    pub summary: String,
}

/// What a target was told last of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: Status,
    /// That it changes again and again.
    pub flapping: bool,
    /// When.
    pub at_us: i64,
    /// Since when it is so.
    pub since_us: i64,
    /// In which words.
    pub summary: String,
    /// What it was sent since and did not confirm, so that it may have heard it; unspecified when it
    /// confirmed the last.
    pub attempted: Status,
}

impl Told {
    /// What it heard last, as far as anybody knows.
    pub fn last(&self) -> Status {
        match self.attempted {
            Status::Unspecified => self.status,
            attempted => attempted,
        }
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let flapping: i64 = row.try_get("flapping")?;
        Ok(Self {
            status: status(row, "status")?,
            flapping: flapping != 0,
            at_us: row.try_get("at_us")?,
            since_us: row.try_get("since_us")?,
            summary: row.try_get("summary")?,
            attempted: status(row, "attempted")?,
        })
    }
}

/// The status that a turn is told with; none when it is not told. One that flaps is a problem, also
/// when it begins to in a moment in which it is well; what it changes to meanwhile is not told.
fn status_of(turn: &Turn) -> Option<Status> {
    match (turn.hard, turn.flapping) {
        // That changes were forgotten is for history.
        (false, _) if turn.check.is_empty() => None,
        (true, true) => None,
        (false, true) if severity(turn.became()) == 0 => Some(Status::Warning),
        _ => Some(turn.became()),
    }
}

/// One notice for each target, of each change.
pub(super) async fn write(
    transaction: &mut Transaction<'_>,
    targets: &[String],
    news: &News,
) -> Result<(), StoreError> {
    for turn in news.turns.iter().filter(|turn| !news.untold.contains(&turn.check)) {
        let Some(became) = status_of(turn) else { continue };
        for target in targets {
            // The same change told twice is one notice.
            let change = match turn.number {
                // It is none of the agent's.
                0 => format!("{}/{}/{}", turn.check, news.heard_us, turn.hard),
                number => number.to_string(),
            };
            let notice = NoticeRow {
                id: format!("{target}/{}/{}/{change}", news.host, news.memory),
                target: target.clone(),
                host: news.host.clone(),
                check: turn.check.clone(),
                was: turn.was(),
                became,
                flapping: turn.flapping,
                at_us: turn.at_us,
                attempts: 0,
                failed_us: 0,
                summary: turn.summary.clone(),
            };
            // The agent's clock says when it was; when it is told ours does.
            add(transaction, &notice, news.heard_us).await?;
        }
    }
    // Of a problem that somebody heard of the end is told first.
    for check in &news.gone {
        let text = "DELETE FROM told WHERE host = $1 AND check_name = $2 AND status < 2 \
                    AND attempted < 2";
        sqlx::query(text)
            .bind(news.host.as_str())
            .bind(check.as_str())
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// Writes a notice down, unless it is there already, or nobody needs it.
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
    // That all is well again is told to those who heard of the problem, or may have.
    if severity(notice.became) == 0 {
        let heard = sqlx::query(
            "SELECT 1 AS heard FROM told WHERE target = $1 AND host = $2 AND check_name = $3 \
             AND (status > 1 OR flapping <> 0 OR attempted > 1)",
        )
        .bind(notice.target.as_str())
        .bind(notice.host.as_str())
        .bind(notice.check.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
        if heard.is_none() {
            return Ok(());
        }
    }
    sqlx::query(
        "INSERT INTO notices (id, target, host, check_name, was, became, at_us, due_us, attempts, \
         summary, flapping) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10) \
         ON CONFLICT (id) DO NOTHING",
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
    .bind(i64::from(notice.flapping))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn read_host(row: &AnyRow) -> Result<HostName, StoreError> {
    let host: String = row.try_get("host")?;
    host.parse().map_err(|_| StoreError::Damaged(format!("host \"{host}\"")))
}

fn read_notice(row: &AnyRow) -> Result<NoticeRow, StoreError> {
    let flapping: i64 = row.try_get("flapping")?;
    Ok(NoticeRow {
        id: row.try_get("id")?,
        target: row.try_get("target")?,
        host: read_host(row)?,
        check: row.try_get("check_name")?,
        was: status(row, "was")?,
        became: status(row, "became")?,
        flapping: flapping != 0,
        at_us: row.try_get("at_us")?,
        attempts: row.try_get("attempts")?,
        failed_us: row.try_get("failed_us")?,
        summary: row.try_get("summary")?,
    })
}

impl Store {
    /// Notices of a target that are due, the oldest first.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn due_notices(
        &self,
        target: &str,
        now_us: i64,
        most: u32,
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM notices WHERE target = $1 AND due_us <= $2 \
             ORDER BY due_us, at_us, id LIMIT $3",
        )
        .bind(target)
        .bind(now_us)
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?;
        self.readable(&rows, read_notice)
    }

    /// Forgets what waits for targets that there are no more, and what they were told: one that
    /// comes again knows nothing.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_targets_but(&self, names: &[&str]) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let text = "SELECT target FROM notices UNION SELECT target FROM told";
        let rows = sqlx::query(text).fetch_all(&self.pool).await?;
        for row in &rows {
            let target: String = row.try_get("target")?;
            if names.contains(&target.as_str()) {
                continue;
            }
            for text in
                ["DELETE FROM notices WHERE target = $1", "DELETE FROM told WHERE target = $1"]
            {
                sqlx::query(text).bind(target.as_str()).execute(&self.writes).await?;
            }
        }
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
        row.as_ref().map(Told::read).transpose()
    }

    /// Everything that a target was told and that is not well, as far as it knows.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn told_problems(
        &self,
        target: &str,
    ) -> Result<Vec<(HostName, String, Told)>, StoreError> {
        let text = "SELECT * FROM told WHERE target = $1 AND (status > 1 OR flapping <> 0)";
        let rows = sqlx::query(text).bind(target).fetch_all(&self.pool).await?;
        let read =
            |row: &AnyRow| Ok((read_host(row)?, row.try_get("check_name")?, Told::read(row)?));
        self.readable(&rows, read)
    }
}
