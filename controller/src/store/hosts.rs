//! The hosts, as the store knows them.

use std::{collections::BTreeMap, sync::Arc};

use hostler_proto::{name::HostName, wire};
use sqlx::{Row, any::AnyRow};
use thiserror::Error;

use super::{Store, StoreError, connections, from_json, to_json, transaction::Transaction};
use crate::{authz::Candidate, health::absence::Lost};

/// Whether a host's link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Enrolled, never linked.
    Never,
    /// Linked.
    Up,
    /// Was linked and is not.
    Down,
    /// Its certificate is worthless.
    Revoked,
}

impl Connection {
    /// The word for it, in selectors too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Up => "up",
            Self::Down => "down",
            Self::Revoked => "revoked",
        }
    }
}

impl From<Connection> for wire::Connection {
    fn from(connection: Connection) -> Self {
        match connection {
            Connection::Never => Self::Never,
            Connection::Up => Self::Up,
            Connection::Down => Self::Down,
            Connection::Revoked => Self::Revoked,
        }
    }
}

/// A host.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Its name.
    pub name: HostName,
    /// Labels of the agent's configuration, under those that operators gave.
    pub labels: BTreeMap<String, String>,
    /// Facts by name.
    pub facts: BTreeMap<String, String>,
    /// Operations that its policy allows, with spaces between them.
    pub operations: Arc<str>,
    /// Version of its agent.
    pub agent_version: String,
    /// Its installation.
    pub machine_id: String,
    /// Fingerprint of its key.
    pub key: String,
    /// End of its certificate.
    pub certificate_until_us: i64,
    /// When it was enrolled.
    pub enrolled_us: i64,
    /// Whether it is linked.
    pub connection: Connection,
    /// Since when.
    pub since_us: i64,
    /// Why it is not.
    pub reason: String,
    /// Where it dials from.
    pub address: String,
    /// When it was seen last, as far as that was written down: of one that is linked, since when.
    pub last_seen_us: i64,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
    /// How its link was lost, when it is not linked.
    pub lost: Option<Lost>,
}

/// A host that enrols.
#[derive(Debug, Clone)]
pub struct NewHost {
    /// Its name.
    pub name: HostName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its installation.
    pub machine_id: String,
    /// Fingerprint of its key.
    pub key: String,
    /// End of its certificate.
    pub certificate_until_us: i64,
    /// It may take the place of a host of that name.
    pub replace: bool,
}

/// Why a host was not enrolled.
#[derive(Debug, Error)]
pub enum EnrollError {
    /// There is a host of that name.
    #[error("the name is taken")]
    Taken,
    /// The token is used up by now.
    #[error("the token is used up")]
    Token,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for EnrollError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl HostRow {
    /// The host as selectors and authorisation see it.
    pub fn candidate(&self) -> Candidate<'_> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.candidate_with(&NONE)
    }

    /// The same, with how its checks stand.
    pub fn candidate_with<'h>(&'h self, health: &'h BTreeMap<String, String>) -> Candidate<'h> {
        Candidate {
            name: &self.name,
            labels: &self.labels,
            facts: &self.facts,
            state: self.connection.name(),
            health,
        }
    }

    /// A host of which nothing is known.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self {
            name: "nobody".parse().expect("a name"),
            labels: BTreeMap::new(),
            facts: BTreeMap::new(),
            operations: "".into(),
            agent_version: String::new(),
            machine_id: String::new(),
            key: String::new(),
            certificate_until_us: 0,
            enrolled_us: 0,
            connection: Connection::Never,
            since_us: 0,
            reason: String::new(),
            address: String::new(),
            last_seen_us: 0,
            revoked_us: None,
            lost: None,
        }
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let name: String = row.try_get("name")?;
        let revoked: i64 = row.try_get("revoked_us")?;
        let connection: String = row.try_get("connection")?;
        let mut labels = from_json(row.try_get("agent_labels")?)?;
        labels.extend(from_json(row.try_get("labels")?)?);
        let operations: String = row.try_get("operations")?;
        Ok(Self {
            name: name.parse().map_err(|_| StoreError::Damaged(format!("host \"{name}\"")))?,
            labels,
            facts: from_json(row.try_get("facts")?)?,
            operations: operations.into(),
            agent_version: row.try_get("agent_version")?,
            machine_id: row.try_get("machine_id")?,
            key: row.try_get("key_fingerprint")?,
            certificate_until_us: row.try_get("certificate_until_us")?,
            enrolled_us: row.try_get("enrolled_us")?,
            connection: match connection.as_str() {
                _ if revoked != 0 => Connection::Revoked,
                "never" => Connection::Never,
                "up" => Connection::Up,
                "down" => Connection::Down,
                other => return Err(StoreError::Damaged(format!("connection \"{other}\""))),
            },
            since_us: row.try_get("since_us")?,
            reason: row.try_get("reason")?,
            address: row.try_get("address")?,
            last_seen_us: row.try_get("last_seen_us")?,
            revoked_us: (revoked != 0).then_some(revoked),
            lost: lost(row)?,
        })
    }
}

/// How its link was lost.
pub(super) fn lost(row: &AnyRow) -> Result<Option<Lost>, StoreError> {
    let word: String = row.try_get("lost")?;
    Ok(Lost::ALL.into_iter().find(|lost| lost.name() == word))
}

/// Forgets how a host that is gone for good was, and what its checks did and measured.
async fn forget(transaction: &mut Transaction<'_>, host: &HostName) -> Result<(), sqlx::Error> {
    for query in [
        "DELETE FROM health WHERE host = $1",
        "DELETE FROM acknowledgements WHERE host = $1",
        "DELETE FROM notices WHERE host = $1",
        "DELETE FROM told WHERE host = $1",
        "DELETE FROM turns WHERE host = $1",
        "DELETE FROM turn_days WHERE host = $1",
        "DELETE FROM figure_days WHERE host = $1",
    ] {
        sqlx::query(query).bind(host.as_str()).execute(&mut **transaction).await?;
    }
    Ok(())
}

impl Store {
    /// All hosts, by name, from the database.
    pub(super) async fn read_hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM hosts ORDER BY name").fetch_all(&self.pool).await?;
        self.readable(&rows, HostRow::read)
    }

    /// One host.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn host(&self, name: &HostName) -> Result<Option<HostRow>, StoreError> {
        let query = sqlx::query("SELECT * FROM hosts WHERE name = $1").bind(name.as_str());
        let row = query.fetch_optional(&self.pool).await?;
        row.as_ref().map(HostRow::read).transpose()
    }

    /// Takes one use of a token and writes the host down, both or neither.
    ///
    /// # Errors
    /// When the name is taken, the token is used up, or the store refuses.
    pub async fn enroll(&self, token: &str, host: NewHost, now: i64) -> Result<(), EnrollError> {
        let mut transaction = self.begin().await?;
        let changes = self.roster.changes([&host.name]);
        let taken = sqlx::query(
            "UPDATE tokens SET uses_left = uses_left - 1 \
             WHERE id = $1 AND uses_left > 0 AND expires_us > $2",
        )
        .bind(token)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if taken.rows_affected() != 1 {
            transaction.roll_back().await?;
            return Err(EnrollError::Token);
        }
        if host.replace {
            connections::replaced(&mut transaction, &host.name, now).await?;
            // How its checks stand is kept, and so is what people were told: an agent that remembers
            // goes on from there, and what another one tells is compared with it. What it measured
            // leads to nothing on another machine.
            for query in
                ["DELETE FROM hosts WHERE name = $1", "DELETE FROM figure_days WHERE host = $1"]
            {
                sqlx::query(query).bind(host.name.as_str()).execute(&mut *transaction).await?;
            }
        }
        let inserted = sqlx::query(
            "INSERT INTO hosts (name, labels, agent_labels, facts, operations, agent_version, \
             machine_id, key_fingerprint, certificate_until_us, enrolled_us, connection, \
             since_us, reason, address, last_seen_us, revoked_us) VALUES \
             ($1, $2, '{}', '{}', '', '', $3, $4, $5, $6, 'never', $6, '', '', 0, 0) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(host.name.as_str())
        .bind(to_json(&host.labels))
        .bind(host.machine_id)
        .bind(host.key)
        .bind(host.certificate_until_us)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if inserted.rows_affected() != 1 {
            transaction.roll_back().await?;
            return Err(EnrollError::Taken);
        }
        transaction.commit().await?;
        changes.done();
        Ok(())
    }

    /// Writes down the end of a renewed certificate.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn set_certificate(&self, host: &HostName, until: i64) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let changes = self.roster.changes([host]);
        sqlx::query("UPDATE hosts SET certificate_until_us = $2 WHERE name = $1")
            .bind(host.as_str())
            .bind(until)
            .execute(&self.writes)
            .await?;
        changes.done();
        Ok(())
    }

    /// Sets and removes labels that operators give; none when there is no such host.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn label(
        &self,
        host: &HostName,
        set: BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<Option<HostRow>, StoreError> {
        {
            let _writer = self.write().await;
            let changes = self.roster.changes([host]);
            let query = sqlx::query("SELECT labels FROM hosts WHERE name = $1").bind(host.as_str());
            let Some(row) = query.fetch_optional(&self.pool).await? else {
                changes.done();
                return Ok(None);
            };
            let mut labels = from_json(row.try_get("labels")?)?;
            labels.extend(set);
            labels.retain(|key, _| !remove.contains(key));
            sqlx::query("UPDATE hosts SET labels = $2 WHERE name = $1")
                .bind(host.as_str())
                .bind(to_json(&labels))
                .execute(&self.writes)
                .await?;
            changes.done();
        }
        self.host(host).await
    }

    /// Makes a host's certificate worthless; false when there is no such host.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revoke_host(
        &self,
        host: &HostName,
        reason: &str,
        now: i64,
    ) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let changes = self.roster.changes([host]);
        let done = sqlx::query(
            "UPDATE hosts SET revoked_us = $2, reason = $3, since_us = $2 \
             WHERE name = $1 AND revoked_us = 0",
        )
        .bind(host.as_str())
        .bind(now)
        .bind(reason)
        .execute(&self.writes)
        .await?;
        changes.done();
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a host that is not linked, or that was revoked; false when there is none such.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove_host(&self, host: &HostName) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let changes = self.roster.changes([host]);
        let query = "DELETE FROM hosts WHERE name = $1 AND (connection <> 'up' OR revoked_us <> 0)";
        let done = sqlx::query(query).bind(host.as_str()).execute(&mut *transaction).await?;
        if done.rows_affected() != 1 {
            transaction.roll_back().await?;
            changes.done();
            return Ok(false);
        }
        forget(&mut transaction, host).await?;
        transaction.commit().await?;
        changes.done();
        Ok(true)
    }
}
