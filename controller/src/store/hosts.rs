//! The hosts, as the store knows them.

use std::{collections::BTreeMap, sync::Arc};

use hostler_proto::{
    name::HostName,
    wire::{self, HelloReply, Status, Turn},
};
use sqlx::{Row, any::AnyRow};
use thiserror::Error;

use super::{NoticeRow, Store, StoreError, from_json, notices, to_json, turns};
use crate::{
    authz::Candidate,
    health::absence::{Lost, Told, returned},
};

/// How long a host may be away until anybody is told.
const AWAY_US: i64 = 60_000_000;
/// The same after a start of the controller, when all of them come back.
const RESTART_US: i64 = 180_000_000;

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
    /// When it was linked last.
    pub last_seen_us: i64,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
    /// How its link was lost, when it is not linked.
    pub lost: Option<Lost>,
}

/// How the link of a host changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is linked.
    Up {
        /// The host.
        host: HostName,
        /// Where it dialled from.
        address: String,
        /// What its agent told of itself.
        hello: Box<HelloReply>,
        /// End of the certificate that was shown.
        certificate_until_us: i64,
        /// When.
        at_us: i64,
    },
    /// It is no longer linked.
    Down {
        /// The host.
        host: HostName,
        /// How.
        lost: Lost,
        /// Why, in words.
        reason: String,
        /// When.
        at_us: i64,
    },
}

impl Change {
    fn host(&self) -> &HostName {
        match self {
            Self::Up { host, .. } | Self::Down { host, .. } => host,
        }
    }
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

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
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

fn lost(row: &AnyRow) -> Result<Option<Lost>, StoreError> {
    let word: String = row.try_get("lost")?;
    Ok(Lost::ALL.into_iter().find(|lost| lost.name() == word))
}

/// Forgets how a host was; what its checks did and measured, too, when it is gone for good.
async fn forget(
    transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
    host: &HostName,
    history: bool,
) -> Result<(), sqlx::Error> {
    let state = [
        "DELETE FROM health WHERE host = $1",
        "DELETE FROM acknowledgements WHERE host = $1",
        "DELETE FROM notices WHERE host = $1",
        "DELETE FROM told WHERE host = $1",
    ];
    let past = [
        "DELETE FROM turns WHERE host = $1",
        "DELETE FROM turn_days WHERE host = $1",
        "DELETE FROM figure_days WHERE host = $1",
    ];
    for query in state.into_iter().chain(past.into_iter().filter(|_| history)) {
        sqlx::query(query).bind(host.as_str()).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// A change of a host's link, as history keeps it: of a check without a name.
fn of_host((was, became, summary): (Status, Status, &str), at_us: i64) -> Turn {
    Turn {
        was: was.into(),
        became: became.into(),
        hard: true,
        at_us,
        summary: summary.to_owned(),
        ..Turn::default()
    }
}

/// Writes down where a host was that is linked again.
async fn came_back(
    transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
    host: &HostName,
    hello: &HelloReply,
    at_us: i64,
) -> Result<(), StoreError> {
    let text = "SELECT lost, boot_id, instance FROM hosts WHERE name = $1";
    let query = sqlx::query(text).bind(host.as_str());
    let Some(row) = query.fetch_optional(&mut **transaction).await? else { return Ok(()) };
    let (boot_id, instance): (String, String) = (row.try_get("boot_id")?, row.try_get("instance")?);
    let before = Told { boot_id: &boot_id, instance: &instance };
    let now = Told { boot_id: &hello.boot_id, instance: &hello.instance };
    match returned(lost(&row)?, before, now) {
        Some(said) => {
            let turn = of_host((Status::Critical, Status::Ok, said), at_us);
            turns::add(transaction, host, &turn).await
        }
        None => Ok(()),
    }
}

impl Store {
    /// All hosts, by name, from the database.
    pub(super) async fn read_hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM hosts ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(HostRow::read).collect()
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
        let _writer = self.write().await;
        let changes = self.roster.changes([&host.name]);
        let mut transaction = self.pool.begin().await?;
        let taken = sqlx::query(
            "UPDATE tokens SET uses_left = uses_left - 1 \
             WHERE id = $1 AND uses_left > 0 AND expires_us > $2",
        )
        .bind(token)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if taken.rows_affected() != 1 {
            return Err(EnrollError::Token);
        }
        if host.replace {
            sqlx::query("DELETE FROM hosts WHERE name = $1")
                .bind(host.name.as_str())
                .execute(&mut *transaction)
                .await?;
            forget(&mut transaction, &host.name, false).await?;
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
            return Err(EnrollError::Taken);
        }
        transaction.commit().await?;
        changes.done();
        Ok(())
    }

    /// Writes down how links of hosts changed, in their order, all or none. A revoked host stays as
    /// it is.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn change_connections(&self, changes: &[Change]) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let changing = self.roster.changes(changes.iter().map(Change::host));
        let mut transaction = self.pool.begin().await?;
        for change in changes {
            match change {
                Change::Up { host, address, hello, certificate_until_us, at_us } => {
                    came_back(&mut transaction, host, hello, *at_us).await?;
                    let sorted = |map: &std::collections::HashMap<String, String>| {
                        to_json(&map.clone().into_iter().collect())
                    };
                    sqlx::query(
                        "UPDATE hosts SET connection = 'up', since_us = $2, reason = '', \
                         address = $3, last_seen_us = $2, agent_version = $4, machine_id = $5, \
                         agent_labels = $6, facts = $7, operations = $8, \
                         certificate_until_us = $9, boot_id = $10, instance = $11, lost = '' \
                         WHERE name = $1 AND revoked_us = 0",
                    )
                    .bind(host.as_str())
                    .bind(*at_us)
                    .bind(address.as_str())
                    .bind(hello.version.as_str())
                    .bind(hello.machine_id.as_str())
                    .bind(sorted(&hello.labels))
                    .bind(sorted(&hello.facts))
                    .bind(hello.operations.join(" "))
                    .bind(*certificate_until_us)
                    .bind(hello.boot_id.as_str())
                    .bind(hello.instance.as_str())
                    .execute(&mut *transaction)
                    .await?;
                    // It was away for a moment, and nobody was told yet.
                    sqlx::query("DELETE FROM notices WHERE host = $1 AND check_name = ''")
                        .bind(host.as_str())
                        .execute(&mut *transaction)
                        .await?;
                    let back = (Status::Critical, Status::Ok, "it is connected again");
                    self.of_link(&mut transaction, host, back, *at_us, 0).await?;
                }
                Change::Down { host, lost, reason, at_us } => {
                    let done = sqlx::query(
                        "UPDATE hosts SET connection = 'down', since_us = $2, reason = $3, \
                         last_seen_us = $2, lost = $4 WHERE name = $1 AND revoked_us = 0",
                    )
                    .bind(host.as_str())
                    .bind(*at_us)
                    .bind(reason.as_str())
                    .bind(lost.name())
                    .execute(&mut *transaction)
                    .await?;
                    let away = (Status::Ok, Status::Critical, reason.as_str());
                    if done.rows_affected() == 1 {
                        let turn = of_host(away, *at_us);
                        turns::add(&mut transaction, host, &turn).await?;
                        self.of_link(&mut transaction, host, away, *at_us, AWAY_US).await?;
                    }
                }
            }
        }
        transaction.commit().await?;
        changing.done();
        Ok(())
    }

    /// When a controller starts nobody is linked: hosts that were are down until they come back.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn none_connected(&self, reason: &str, now: i64) -> Result<u64, StoreError> {
        let _writer = self.write().await;
        let changes = self.roster.changes_all();
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(
            "UPDATE hosts SET connection = 'down', since_us = $1, reason = $2, \
             lost = 'restart' WHERE connection = 'up' AND revoked_us = 0 RETURNING name",
        )
        .bind(now)
        .bind(reason)
        .fetch_all(&mut *transaction)
        .await?;
        // Those that do not come back soon went away while there was no controller.
        for row in &rows {
            let name: String = row.try_get("name")?;
            let host = name.parse().map_err(|_| StoreError::Damaged(format!("host \"{name}\"")))?;
            let away =
                (Status::Ok, Status::Critical, "it did not come back after the controller did");
            self.of_link(&mut transaction, &host, away, now, RESTART_US).await?;
        }
        transaction.commit().await?;
        changes.done();
        Ok(rows.len() as u64)
    }

    /// Writes a notice of a host's link down for every target, due after a while.
    async fn of_link(
        &self,
        transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
        host: &HostName,
        (was, became, summary): (Status, Status, &str),
        at_us: i64,
        wait_us: i64,
    ) -> Result<(), StoreError> {
        for target in self.targets.iter() {
            let notice = NoticeRow {
                id: format!("{target}/{host}//{at_us}"),
                target: target.clone(),
                host: host.clone(),
                check: String::new(),
                was,
                became,
                at_us,
                attempts: 0,
                summary: summary.to_owned(),
            };
            notices::add(transaction, &notice, at_us + wait_us).await?;
        }
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
            .execute(&self.pool)
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
            let Some(row) = query.fetch_optional(&self.pool).await? else { return Ok(None) };
            let mut labels = from_json(row.try_get("labels")?)?;
            labels.extend(set);
            labels.retain(|key, _| !remove.contains(key));
            sqlx::query("UPDATE hosts SET labels = $2 WHERE name = $1")
                .bind(host.as_str())
                .bind(to_json(&labels))
                .execute(&self.pool)
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
        .execute(&self.pool)
        .await?;
        changes.done();
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a host that is not linked, or that was revoked; false when there is none such.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove_host(&self, host: &HostName) -> Result<bool, StoreError> {
        let _writer = self.write().await;
        let changes = self.roster.changes([host]);
        let mut transaction = self.pool.begin().await?;
        let query = "DELETE FROM hosts WHERE name = $1 AND (connection <> 'up' OR revoked_us <> 0)";
        let done = sqlx::query(query).bind(host.as_str()).execute(&mut *transaction).await?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        forget(&mut transaction, host, true).await?;
        transaction.commit().await?;
        changes.done();
        Ok(true)
    }
}
