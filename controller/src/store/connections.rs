//! How links of hosts come and go, and what history and notices are told of it.

use hostler_proto::{
    name::HostName,
    wire::{HelloReply, Status, Turn, hello_reply::Ending},
};
use sqlx::Row;

use super::{
    NoticeRow, Store, StoreError, hosts::lost, notices, to_json, transaction::Transaction, turns,
};
use crate::health::{
    Left,
    absence::{Lost, RETURN_US, Told, returned},
    of_host,
};

/// How long a host may be away until anybody is told.
const AWAY_US: i64 = 60_000_000;
/// The same after a start of the controller, when all of them come back.
const RESTART_US: i64 = 180_000_000;

/// What is said of a host of which no more is known.
const AGAIN: &str = "it is connected again";

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
        /// Whether its agent had said that it would be away.
        left: Left,
        /// Whether history has that its agent tells nothing.
        silent: bool,
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
        /// Whether its agent had said that it is being stopped.
        left: Left,
        /// When something of it came last.
        seen_us: i64,
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

/// How bad it is that a host is away, as history tells it.
fn away(left: Left) -> Status {
    match left {
        Left::No => Status::Critical,
        Left::Agent | Left::Host => Status::Warning,
    }
}

/// What history is told of a host that is linked again: where it was; and that it was away, when
/// there was no controller to notice that. An agent that told nothing may be linked anew without
/// having been away.
async fn came_back(
    transaction: &mut Transaction<'_>,
    host: &HostName,
    (hello, mut left, silent): (&HelloReply, Left, bool),
    at_us: i64,
) -> Result<Vec<Turn>, StoreError> {
    let text = "SELECT lost, boot_id, instance, since_us, connection FROM hosts WHERE name = $1";
    let query = sqlx::query(text).bind(host.as_str());
    let Some(row) = query.fetch_optional(&mut **transaction).await? else { return Ok(Vec::new()) };
    let (boot_id, instance): (String, String) = (row.try_get("boot_id")?, row.try_get("instance")?);
    let since_us: i64 = row.try_get("since_us")?;
    let mut lost = lost(&row)?;
    let missed = lost == Some(Lost::Restart);
    if missed && at_us - since_us > RETURN_US {
        // All others were back long ago.
        lost = Some(Lost::Silent);
    }
    let before = Told { boot_id: &boot_id, instance: &instance };
    let now = Told { boot_id: &hello.boot_id, instance: &hello.instance };
    let connection: String = row.try_get("connection")?;
    // What its agent said before it ended is in history, where there was a controller to write that.
    let unheard = missed || left == Left::No;
    let ending = if unheard { hello.before() } else { Ending::Unspecified };
    if missed && instance != hello.instance {
        left = match ending {
            Ending::Stopped => Left::Agent,
            Ending::HostStopped => Left::Host,
            Ending::Sudden | Ending::Unspecified => left,
        };
    }
    let said = match returned(lost, before, now, ending) {
        Some(said) => said,
        // History has that it was away, so it must have the end of that.
        None if connection == "down" && lost != Some(Lost::Restart) => AGAIN.to_owned(),
        None if silent => return Ok(vec![of_host(Status::Unknown, Status::Ok, AGAIN, at_us)]),
        None => return Ok(Vec::new()),
    };
    let missing = "it was not there when the controller was started";
    let missing = missed.then(|| of_host(Status::Ok, away(left), missing, since_us));
    Ok(missing.into_iter().chain([of_host(away(left), Status::Ok, &said, at_us)]).collect())
}

/// Ends in history that a host is away whose place another machine takes: with its row goes what its
/// return would be judged by.
pub(super) async fn replaced(
    transaction: &mut Transaction<'_>,
    host: &HostName,
    at_us: i64,
) -> Result<(), StoreError> {
    let text = "SELECT hosts.lost, coalesce(health.leaving, 0) AS leaving FROM hosts \
                LEFT JOIN health ON health.host = hosts.name \
                WHERE hosts.name = $1 AND hosts.connection = 'down'";
    let query = sqlx::query(text).bind(host.as_str());
    let Some(row) = query.fetch_optional(&mut **transaction).await? else { return Ok(()) };
    // Of those that did not come back after a start of the controller history has nothing.
    if lost(&row)? == Some(Lost::Restart) {
        return Ok(());
    }
    let left = Left::from_number(row.try_get("leaving")?);
    let said = "another machine was enrolled under its name";
    turns::add(transaction, host, &of_host(away(left), Status::Ok, said, at_us)).await
}

impl Store {
    /// Writes down how links of hosts changed, in their order, all or none. A revoked host stays as
    /// it is.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn change_connections(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let changing = self.roster.changes(changes.iter().map(Change::host));
        for change in changes {
            match change {
                Change::Up { host, address, hello, certificate_until_us, left, silent, at_us } => {
                    let said = (&**hello, *left, *silent);
                    let told = came_back(&mut transaction, host, said, *at_us).await?;
                    let sorted = |map: &std::collections::HashMap<String, String>| {
                        to_json(&map.clone().into_iter().collect())
                    };
                    let done = sqlx::query(
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
                    if done.rows_affected() == 0 {
                        continue;
                    }
                    for turn in &told {
                        turns::add(&mut transaction, host, turn).await?;
                        self.begin_downtimes(&mut transaction, host, turn).await?;
                    }
                    // It was away for a moment, and nobody was told yet.
                    sqlx::query("DELETE FROM notices WHERE host = $1 AND check_name = ''")
                        .bind(host.as_str())
                        .execute(&mut *transaction)
                        .await?;
                    sqlx::query("DELETE FROM acknowledgements WHERE host = $1 AND check_name = ''")
                        .bind(host.as_str())
                        .execute(&mut *transaction)
                        .await?;
                    let back = (Status::Critical, Status::Ok, AGAIN);
                    self.of_link(&mut transaction, host, back, *at_us, 0).await?;
                }
                Change::Down { host, lost, reason, left, seen_us, at_us } => {
                    let done = sqlx::query(
                        "UPDATE hosts SET connection = 'down', since_us = $2, reason = $3, \
                         last_seen_us = $5, lost = $4 \
                         WHERE name = $1 AND revoked_us = 0 AND connection = 'up'",
                    )
                    .bind(host.as_str())
                    .bind(*at_us)
                    .bind(reason.as_str())
                    .bind(lost.name())
                    .bind(*seen_us)
                    .execute(&mut *transaction)
                    .await?;
                    if done.rows_affected() == 1 {
                        let said = left.said().unwrap_or(reason);
                        let turn = of_host(Status::Ok, away(*left), said, *at_us);
                        turns::add(&mut transaction, host, &turn).await?;
                        self.begin_downtimes(&mut transaction, host, &turn).await?;
                        // What was said of the host before was said of another problem.
                        sqlx::query(
                            "DELETE FROM acknowledgements \
                             WHERE host = $1 AND check_name = '' AND at_us < $2",
                        )
                        .bind(host.as_str())
                        .bind(*at_us)
                        .execute(&mut *transaction)
                        .await?;
                        // Why it is away is judged anew when its time to be told has come.
                        let away = (Status::Ok, Status::Critical, reason.as_str());
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
        let mut transaction = self.begin().await?;
        let changes = self.roster.changes_all();
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

    /// Writes down that hosts that are linked were seen until now: at the end of a controller, which
    /// will not see how their links end.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn seen_until(&self, now: i64) -> Result<(), StoreError> {
        let _writer = self.write().await;
        let changes = self.roster.changes_all();
        sqlx::query("UPDATE hosts SET last_seen_us = $1 WHERE connection = 'up'")
            .bind(now)
            .execute(&self.writes)
            .await?;
        changes.done();
        Ok(())
    }

    /// Writes a notice of a host's link down for every target, due after a while.
    async fn of_link(
        &self,
        transaction: &mut Transaction<'_>,
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
                flapping: false,
                at_us,
                attempts: 0,
                failed_us: 0,
                summary: summary.to_owned(),
            };
            notices::add(transaction, &notice, at_us + wait_us).await?;
        }
        Ok(())
    }
}
