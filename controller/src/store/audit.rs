//! The audit's records. Nothing here changes or removes one.

use std::fmt::Write;

use hostler_proto::name::HostName;
use sqlx::{AnyConnection, Row, any::AnyRow};

use super::{Store, StoreError};
use crate::audit::Record;

const COLUMNS: usize = 11;
/// Records in one statement; SQLite takes 32,766 values and PostgreSQL 65,535.
const BATCH: usize = 500;

/// Which records are wanted; an empty text wants all.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Not older than this.
    pub since_us: i64,
    /// About this host.
    pub subject: String,
    /// Asked for by this principal.
    pub principal: String,
    /// Of this operation.
    pub operation: String,
    /// Of this invocation.
    pub invocation: String,
    /// Not of this kind.
    pub without: &'static str,
    /// Older than this record.
    pub before: u64,
    /// At most so many.
    pub limit: u32,
}

fn read(row: &AnyRow) -> Result<Record, StoreError> {
    let seq: i64 = row.try_get("seq")?;
    Ok(Record {
        seq: u64::try_from(seq).map_err(|_| StoreError::Damaged(format!("record {seq}")))?,
        time_us: row.try_get("time_us")?,
        kind: row.try_get("kind")?,
        principal: row.try_get("principal")?,
        role: row.try_get("role")?,
        invocation: row.try_get("invocation")?,
        operation: row.try_get("operation")?,
        subject: row.try_get("subject")?,
        outcome: row.try_get("outcome")?,
        detail: row.try_get("detail")?,
        hash: row.try_get("hash")?,
    })
}

/// The statement that inserts so many records. PostgreSQL wants its places numbered; in SQLite each
/// number is a name that is searched for in all of them, which for thousands took longer than the
/// insertion itself.
fn insertion(records: usize, numbered: bool) -> String {
    let mut text = String::with_capacity(records * 72);
    for record in 0..records {
        text.push_str(if record == 0 { "INSERT INTO audit VALUES (" } else { ", (" });
        for column in 1..=COLUMNS {
            text.push_str(if column == 1 { "" } else { "," });
            match numbered {
                true => drop(write!(text, "${}", record * COLUMNS + column)),
                false => text.push('?'),
            }
        }
        text.push(')');
    }
    text
}

fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

impl Store {
    /// Appends records, all or none.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn append_audit(&self, records: &[Record]) -> Result<(), StoreError> {
        // One statement is whole by itself: two ways to the database and back less, for whoever waits.
        if records.len() <= BATCH {
            let _writer = self.write().await;
            let mut connection = self.writes.acquire().await?;
            return self.insert_audit(records, &mut connection).await;
        }
        let mut transaction = self.begin().await?;
        for batch in records.chunks(BATCH) {
            self.insert_audit(batch, &mut transaction).await?;
        }
        transaction.commit().await
    }

    async fn insert_audit(
        &self,
        records: &[Record],
        connection: &mut AnyConnection,
    ) -> Result<(), StoreError> {
        let text = insertion(records.len(), !self.sqlite);
        let often = records.len() == 1 || records.len() == BATCH;
        let mut query = sqlx::query(&text).persistent(often);
        for r in records {
            query = query
                .bind(number(r.seq))
                .bind(r.time_us)
                .bind(r.kind.as_str())
                .bind(r.principal.as_str())
                .bind(r.role.as_str())
                .bind(r.invocation.as_str())
                .bind(r.operation.as_str())
                .bind(r.subject.as_str())
                .bind(r.outcome.as_str())
                .bind(r.detail.as_str())
                .bind(r.hash.as_str());
        }
        query.execute(connection).await?;
        Ok(())
    }

    /// The last record.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn audit_head(&self) -> Result<Option<Record>, StoreError> {
        let query = sqlx::query("SELECT * FROM audit ORDER BY seq DESC LIMIT 1");
        query.fetch_optional(&self.pool).await?.as_ref().map(read).transpose()
    }

    /// Records in their order, after one of them: for walking the chain page by page.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn audit_after(&self, seq: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
        let _one_of_few = self.audit_readers.acquire().await;
        let query = sqlx::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2");
        let rows = query.bind(number(seq)).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Records that a filter wants, the newest first.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<Record>, StoreError> {
        // What is not asked for is not in the text: a database finds no index for what may be asked.
        let asked = [
            ("subject", &filter.subject),
            ("principal", &filter.principal),
            ("operation", &filter.operation),
            ("invocation", &filter.invocation),
        ];
        let asked = asked.iter().filter(|(_, value)| !value.is_empty());
        let mut text = "SELECT * FROM audit WHERE seq < $1 AND kind <> $2".to_owned();
        for (place, (column, _)) in asked.clone().enumerate() {
            let _ = write!(text, " AND {column} = ${}", place + 4);
        }
        if filter.since_us > 0 {
            let _ = write!(text, " AND time_us >= ${}", asked.clone().count() + 4);
        }
        text.push_str(" ORDER BY seq DESC LIMIT $3");
        let before = match filter.before {
            0 => i64::MAX,
            seq => number(seq),
        };
        let query = sqlx::query(&text).bind(before).bind(filter.without);
        let mut query = query.bind(i64::from(filter.limit));
        for (_, value) in asked {
            query = query.bind(value.as_str());
        }
        if filter.since_us > 0 {
            query = query.bind(filter.since_us);
        }
        let _one_of_few = self.audit_readers.acquire().await;
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Records of unknown outcomes of some operations on a host that were not reconciled since, the
    /// newest first.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn unknown_outcomes(
        &self,
        host: &HostName,
        operations: &[&str],
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let places: Vec<_> = (3..operations.len() + 3).map(|n| format!("${n}")).collect();
        let text = format!(
            "SELECT * FROM audit u WHERE u.outcome = 'outcome-unknown' AND u.subject = $1 \
             AND u.operation IN ({}) AND NOT EXISTS (\
             SELECT 1 FROM audit r WHERE r.invocation = u.invocation \
             AND r.subject = u.subject AND r.kind = 'reconciled') ORDER BY u.seq DESC LIMIT $2",
            places.join(", "),
        );
        let query = sqlx::query(&text).bind(host.as_str()).bind(i64::from(limit));
        let query = operations.iter().fold(query, |query, operation| query.bind(*operation));
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Whether there is any record of a request.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn has_invocation(&self, invocation: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("SELECT 1 AS found FROM audit WHERE invocation = $1 LIMIT 1");
        Ok(query.bind(invocation).fetch_optional(&self.pool).await?.is_some())
    }

    /// Intents that have no outcome, in their order: what a controller that died let go. Those up to
    /// the record that was settled have one.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn unfinished(&self, limit: u32) -> Result<Vec<Record>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM audit i WHERE i.kind = 'intent' \
             AND i.seq > (SELECT COALESCE(MAX(seq), 0) FROM audit_settled) AND NOT EXISTS (\
             SELECT 1 FROM audit o WHERE o.invocation = i.invocation \
             AND o.subject = i.subject AND o.kind IN ('outcome', 'recovered')) \
             ORDER BY i.seq LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Remembers that every intent up to a record has its outcome.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn settled(&self, seq: u64) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM audit_settled").execute(&mut *transaction).await?;
        let query = sqlx::query("INSERT INTO audit_settled (seq) VALUES ($1)").bind(number(seq));
        query.execute(&mut *transaction).await?;
        transaction.commit().await
    }
}
