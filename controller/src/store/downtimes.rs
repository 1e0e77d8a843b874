//! Times in which problems are expected, and when flexible ones began.

use std::collections::HashMap;

use hostler_proto::{name::HostName, wire::Turn};
use sqlx::{Row, any::AnyRow};

use super::{HostRow, Store, StoreError, transaction::Transaction};
use crate::{
    health::{
        problems::severity,
        silence::{Checks, Downtime},
    },
    selector::Selector,
};

impl Store {
    /// Announces a downtime.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn add_downtime(&self, downtime: &Downtime) -> Result<(), StoreError> {
        let _writer = self.write().await;
        sqlx::query(
            "INSERT INTO downtimes (id, hosts, checks, begins_us, ends_us, lasts_us, made_by, \
             comment) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(downtime.id.as_str())
        .bind(downtime.hosts.to_string())
        .bind(downtime.checks.as_str())
        .bind(downtime.begins_us)
        .bind(downtime.ends_us)
        .bind(downtime.lasts_us.unwrap_or(0))
        .bind(downtime.made_by.as_str())
        .bind(downtime.comment.as_str())
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    /// Downtimes that are not over, those that begin first first.
    ///
    /// # Errors
    /// When the store refuses, or is damaged.
    pub async fn downtimes(&self, now_us: i64) -> Result<Vec<Downtime>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM downtimes WHERE ends_us > $1 - lasts_us ORDER BY begins_us, id",
        )
        .bind(now_us)
        .fetch_all(&self.pool)
        .await?;
        let mut downtimes = self.readable(&rows, downtime)?;
        if downtimes.iter().all(|downtime| downtime.lasts_us.is_none()) {
            return Ok(downtimes);
        }
        let rows = sqlx::query(
            "SELECT * FROM downtime_begins WHERE downtime IN \
             (SELECT id FROM downtimes WHERE lasts_us > 0 AND ends_us > $1 - lasts_us)",
        )
        .bind(now_us)
        .fetch_all(&self.pool)
        .await?;
        let mut begun: HashMap<String, HashMap<HostName, i64>> = HashMap::new();
        for (id, host, at_us) in self.readable(&rows, beginning)? {
            begun.entry(id).or_default().insert(host, at_us);
        }
        for downtime in downtimes.iter_mut().filter(|downtime| downtime.lasts_us.is_some()) {
            downtime.begun = begun.remove(&downtime.id).unwrap_or_default();
        }
        Ok(downtimes)
    }

    /// Takes a downtime back; false when there is none of that id that is not over.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn end_downtime(&self, id: &str, now_us: i64) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let done = sqlx::query(
            "UPDATE downtimes SET ends_us = $2, lasts_us = 0 \
             WHERE id = $1 AND ends_us > $2 - lasts_us",
        )
        .bind(id)
        .bind(now_us)
        .execute(&self.writes)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down which flexible downtimes began with a change, if it is for the worse. What is told
    /// late may have begun one sooner than what was told before it.
    pub(super) async fn begin_downtimes(
        &self,
        transaction: &mut Transaction<'_>,
        host: &HostName,
        turn: &Turn,
    ) -> Result<(), StoreError> {
        if !turn.hard || severity(turn.became()) == 0 {
            return Ok(());
        }
        let rows = sqlx::query(
            "SELECT * FROM downtimes WHERE lasts_us > 0 AND begins_us <= $1 AND ends_us > $1 \
             AND id NOT IN (SELECT downtime FROM downtime_begins WHERE host = $2 AND begun_us <= $1)",
        )
        .bind(turn.at_us)
        .bind(host.as_str())
        .fetch_all(&mut **transaction)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let hosts = sqlx::query("SELECT * FROM hosts WHERE name = $1")
            .bind(host.as_str())
            .fetch_all(&mut **transaction)
            .await?;
        let downtimes = self.readable(&rows, downtime)?;
        for row in self.readable(&hosts, HostRow::read)? {
            let candidate = row.candidate();
            let begin = downtimes.iter().filter(|d| d.is_for(&candidate, &turn.check));
            for downtime in begin {
                sqlx::query(
                    "INSERT INTO downtime_begins (downtime, host, begun_us) VALUES ($1, $2, $3) \
                     ON CONFLICT (downtime, host) DO UPDATE SET begun_us = excluded.begun_us",
                )
                .bind(downtime.id.as_str())
                .bind(host.as_str())
                .bind(turn.at_us)
                .execute(&mut **transaction)
                .await?;
            }
        }
        Ok(())
    }
}

fn downtime(row: &AnyRow) -> Result<Downtime, StoreError> {
    let (hosts, checks): (String, String) = (row.try_get("hosts")?, row.try_get("checks")?);
    let lasts: i64 = row.try_get("lasts_us")?;
    let id: String = row.try_get("id")?;
    let damaged = |what: &str| StoreError::Damaged(format!("the {what} of downtime {id}"));
    Ok(Downtime {
        hosts: Selector::printed(&hosts).map_err(|_| damaged("hosts"))?,
        checks: Checks::new(&checks).map_err(|_| damaged("checks"))?,
        id,
        begins_us: row.try_get("begins_us")?,
        ends_us: row.try_get("ends_us")?,
        lasts_us: (lasts != 0).then_some(lasts),
        begun: HashMap::new(),
        made_by: row.try_get("made_by")?,
        comment: row.try_get("comment")?,
    })
}

/// Of which downtime, on which host, and when.
fn beginning(row: &AnyRow) -> Result<(String, HostName, i64), StoreError> {
    let (id, host): (String, String) = (row.try_get("downtime")?, row.try_get("host")?);
    let damaged = |_| StoreError::Damaged(format!("the beginning of downtime {id} on \"{host}\""));
    let host = host.parse().map_err(damaged)?;
    Ok((id, host, row.try_get("begun_us")?))
}
