//! Changes of hard states, which are kept for ever: in rows until their hour is over, then with
//! those of their day.

use std::collections::BTreeMap;

use hostler_proto::{
    name::HostName,
    wire::{HealthReport, Status, Turn},
};
use prost::Message as _;
use sqlx::{Row, any::AnyRow};

use super::{
    Store, StoreError,
    days::{DAY_US, Days, day},
    health::status,
    transaction::Transaction,
};

/// A change of a hard state, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnRow {
    /// Of which check.
    pub check: String,
    /// When.
    pub at_us: i64,
    /// From what.
    pub was: Status,
    /// To what.
    pub became: Status,
    /// It changes again and again.
    pub flapping: bool,
    /// What the check said.
    pub summary: String,
}

impl TurnRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let flapping: i64 = row.try_get("flapping")?;
        Ok(Self {
            check: row.try_get("check_name")?,
            at_us: row.try_get("at_us")?,
            was: status(row, "was")?,
            became: status(row, "became")?,
            flapping: flapping != 0,
            summary: row.try_get("summary")?,
        })
    }
}

impl From<Turn> for TurnRow {
    fn from(turn: Turn) -> Self {
        Self {
            was: turn.was(),
            became: turn.became(),
            check: turn.check,
            at_us: turn.at_us,
            flapping: turn.flapping,
            summary: turn.summary,
        }
    }
}

impl From<TurnRow> for Turn {
    fn from(row: TurnRow) -> Self {
        Self {
            check: row.check,
            was: row.was.into(),
            became: row.became.into(),
            flapping: row.flapping,
            at_us: row.at_us,
            summary: row.summary,
            ..Self::default()
        }
    }
}

/// A day's turns; they follow each other as they were told.
fn decoded(data: &[u8]) -> Result<Vec<Turn>, StoreError> {
    let report = HealthReport::decode(data);
    Ok(report.map_err(|e| StoreError::Damaged(format!("a day of turns: {e}")))?.turns)
}

/// Writes a change down.
pub(super) async fn add(
    transaction: &mut Transaction<'_>,
    host: &HostName,
    turn: &Turn,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO turns (host, at_us, check_name, was, became, flapping, summary) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(host.as_str())
    .bind(turn.at_us)
    .bind(turn.check.as_str())
    .bind(i64::from(turn.was))
    .bind(i64::from(turn.became))
    .bind(i64::from(turn.flapping))
    .bind(turn.summary.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

impl Store {
    /// The last changes of a host, or of one of its checks, since some time; the newest first.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn turns(
        &self,
        host: &HostName,
        check: Option<&str>,
        since_us: i64,
        limit: u32,
    ) -> Result<Vec<TurnRow>, StoreError> {
        let text = match check {
            Some(_) => {
                "SELECT * FROM turns WHERE host = $1 AND at_us >= $2 AND check_name = $4 \
                 ORDER BY at_us DESC LIMIT $3"
            }
            None => {
                "SELECT * FROM turns WHERE host = $1 AND at_us >= $2 ORDER BY at_us DESC LIMIT $3"
            }
        };
        let query = sqlx::query(text).bind(host.as_str()).bind(since_us).bind(i64::from(limit));
        let query = match check {
            Some(check) => query.bind(check),
            None => query,
        };
        let rows = query.fetch_all(&self.pool).await?;
        let mut turns: Vec<_> = rows.iter().map(TurnRow::read).collect::<Result<_, _>>()?;
        let asked =
            |turn: &Turn| turn.at_us >= since_us && check.is_none_or(|check| check == turn.check);
        for (day_us, data) in self.days(Days::Turns, host, since_us).await? {
            let Ok(of_day) = decoded(&data) else {
                self.left_out(format!("the changes of {host} in its day {day_us}"));
                continue;
            };
            turns.extend(of_day.into_iter().filter(asked).map(TurnRow::from));
        }
        // What an agent told late lies among what was told in time.
        turns.sort_by(|a, b| (b.at_us, &a.check).cmp(&(a.at_us, &b.check)));
        // What was brought to its day between the two looks was seen twice.
        turns.dedup();
        turns.truncate(limit as usize);
        Ok(turns)
    }

    /// Puts the changes before some time of so many hosts at most, of those after `after` in the
    /// order of their names, with those of their days; gives the last of them, if there was one. What
    /// cannot be read of a host stays where it is.
    ///
    /// # Errors
    /// When the store refuses. Then all of them are where they were.
    pub async fn pack_turns(
        &self,
        before_us: i64,
        after: &str,
        most: u32,
    ) -> Result<Option<String>, StoreError> {
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(
            "SELECT DISTINCT host FROM turns WHERE at_us < $1 AND host > $2 ORDER BY host LIMIT $3",
        )
        .bind(before_us)
        .bind(after)
        .bind(i64::from(most))
        .fetch_all(&mut *transaction)
        .await?;
        let mut last = None;
        for row in &rows {
            let name: String = row.try_get("host")?;
            match pack(&mut transaction, &name, before_us).await {
                Err(StoreError::Damaged(why)) => self.left_out(format!(
                    "the changes of {name} that cannot be brought to their day: {why}"
                )),
                done => done?,
            }
            last = Some(name);
        }
        transaction.commit().await?;
        Ok(last)
    }
}

async fn pack(
    transaction: &mut Transaction<'_>,
    name: &str,
    before_us: i64,
) -> Result<(), StoreError> {
    let damaged = |_| StoreError::Damaged(format!("turns of \"{name}\""));
    let host: HostName = name.parse().map_err(damaged)?;
    let rows = sqlx::query("SELECT * FROM turns WHERE host = $1 AND at_us < $2 ORDER BY at_us")
        .bind(host.as_str())
        .bind(before_us)
        .fetch_all(&mut **transaction)
        .await?;
    let mut days: BTreeMap<i64, Vec<Turn>> = BTreeMap::new();
    for row in &rows {
        let row = TurnRow::read(row)?;
        days.entry(day(row.at_us)).or_default().push(row.into());
    }
    let mut damage = Ok(());
    for (day_us, turns) in days {
        match pack_day(transaction, &host, day_us, turns).await {
            Err(error @ StoreError::Damaged(_)) => {
                damage = Err(error);
                continue;
            }
            done => done?,
        }
        // Of this day alone: what stays where it is must not be written again with the others.
        sqlx::query("DELETE FROM turns WHERE host = $1 AND at_us >= $2 AND at_us < $3")
            .bind(host.as_str())
            .bind(day_us)
            .bind(before_us.min(day_us.saturating_add(DAY_US)))
            .execute(&mut **transaction)
            .await?;
    }
    damage
}

/// Adds changes to those of their day.
async fn pack_day(
    transaction: &mut Transaction<'_>,
    host: &HostName,
    day_us: i64,
    turns: Vec<Turn>,
) -> Result<(), StoreError> {
    // Messages that follow each other are one message with what both have.
    let mut data = Days::Turns.read(transaction, host, day_us).await?;
    HealthReport { turns, ..HealthReport::default() }
        .encode(&mut data)
        .map_err(|e| StoreError::Damaged(format!("a day of turns: {e}")))?;
    Days::Turns.write(transaction, host, day_us, &data).await
}
