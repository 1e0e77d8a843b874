//! `postgres.connections`: who has the connections, and what idles.

use hostler_proto::{
    finding::above,
    operation::PostgresConnections,
    ops::{ConnectionGroup, PostgresConnections as Report, PostgresConnectionsRequest},
    wire::{Failure, Figure, Finding},
};

use super::{entry, evidence, partial, unusable};
use crate::{
    host::postgres::{Session, Trouble, count, integer, number, text},
    operation::{Answer, Context, Probe},
};

/// Share of the usable connections from which it is critical.
const CRITICAL_PERCENT: f64 = 90.0;
/// Ages of transaction ids: autovacuum freezes from 200 million on, and the server stops at two
/// thousand million.
const XID_AGE: (f64, f64) = (0.5e9, 1.0e9);
/// Of multixacts, the ids of rows that several transactions lock: autovacuum freezes from 400 million on.
const MULTIXACT_AGE: (f64, f64) = (0.8e9, 1.2e9);

/// `reserved_connections` came with version 16.
const SETTINGS: &str = "SELECT current_setting('max_connections')::int8 AS max, \
    current_setting('superuser_reserved_connections')::int8 \
    + coalesce(current_setting('reserved_connections', true), '0')::int8 AS reserved";
const GROUPS: &str = "SELECT coalesce(state, '') AS state, coalesce(usename, '')::text AS usename, \
    coalesce(application_name, '') AS application, coalesce(datname, '')::text AS datname, \
    count(*)::int8 AS number FROM pg_catalog.pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() \
    GROUP BY 1, 2, 3, 4 ORDER BY number DESC, 1, 2, 3, 4";
const AGES: &str = "SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int8 AS idle, \
    max(extract(epoch FROM clock_timestamp() - state_change)) \
    FILTER (WHERE state LIKE 'idle in transaction%')::float8 AS oldest_idle, \
    (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::int8 AS backends, \
    max(extract(epoch FROM clock_timestamp() - xact_start))::float8 AS oldest \
    FROM pg_catalog.pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()";
const WRAPAROUND: &str = "SELECT datname::text AS datname, \
    pg_catalog.age(datfrozenxid)::int8 AS age, pg_catalog.mxid_age(datminmxid)::int8 AS multixact_age \
    FROM pg_catalog.pg_database";
/// Groups that are told.
const TOLD: usize = 50;

impl Probe for PostgresConnections {
    async fn observe(
        request: PostgresConnectionsRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.connections").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let report = look(&mut session).await.map_err(|t| t.failure(&entry.name))?;
        let answer = partial(judge(&entry.name, report, &request), &session);
        let answer = evidence(answer, &session);
        session.close().await;
        Ok(answer)
    }
}

async fn look(session: &mut Session) -> Result<Report, Trouble> {
    let settings = session.row(SETTINGS).await?;
    let groups = session.rows(GROUPS).await?;
    let ages = session.row(AGES).await?;
    let databases = session.rows(WRAPAROUND).await?;
    let oldest = |age: &str| {
        let oldest = databases.iter().max_by_key(|row| count(row, age));
        oldest.map_or_else(Default::default, |row| (count(row, age), text(row, "datname")))
    };
    let ((xid_age, xid_database), (multixact_age, multixact_database)) =
        (oldest("age"), oldest("multixact_age"));
    let small = |n: i64| u32::try_from(n).unwrap_or(0);
    let max = integer(&settings, "max");
    let mut groups: Vec<_> = groups
        .iter()
        .map(|row| ConnectionGroup {
            state: text(row, "state"),
            user: text(row, "usename"),
            application: text(row, "application"),
            database: text(row, "datname"),
            count: small(integer(row, "number")),
        })
        .collect();
    // Without pg_monitor the rows of others do not tell that they are clients; what is left is a
    // count of all backends, this one among them.
    let used = match session.sees_all {
        true => groups.iter().map(|g| g.count).sum(),
        false => small(integer(&ages, "backends") - 1),
    };
    groups.truncate(TOLD);
    Ok(Report {
        used,
        usable: small(max - integer(&settings, "reserved")),
        max: small(max),
        groups,
        idle_in_transaction: small(integer(&ages, "idle")),
        oldest_idle_s: number(&ages, "oldest_idle").unwrap_or(0.0),
        oldest_transaction_s: number(&ages, "oldest").unwrap_or(0.0),
        oldest_xid_age: xid_age,
        oldest_xid_database: xid_database,
        oldest_multixact_age: multixact_age,
        oldest_multixact_database: multixact_database,
    })
}

fn judge(name: &str, report: Report, request: &PostgresConnectionsRequest) -> Answer<Report> {
    let mut findings = Vec::new();
    let share = f64::from(report.used) * 100.0 / f64::from(report.usable.max(1));
    let (warning, critical) =
        (f64::from(request.warning_percent), CRITICAL_PERCENT.max(request.warning_percent.into()));
    if let Some(status) = above(share, warning, critical) {
        let most = report.groups.first().map_or(String::new(), |g| {
            let who = if g.application.is_empty() { &g.user } else { &g.application };
            format!("; {} of them {} of {who}", g.count, g.state)
        });
        let (used, usable) = (report.used, report.usable);
        let summary = format!("{used} of {usable} usable connections are taken{most}");
        let finding = Finding::new(status, "connections", summary)
            .why("the next client is refused when none is left")
            .next(format!("postgres activity {name}"))
            .measured(share, "percent");
        let source = "awesome-prometheus-alerts (80), ours (90)";
        findings.push(finding.bounds(warning, critical, source));
    }
    let idle = f64::from(request.idle_s);
    if let Some(status) = above(report.oldest_idle_s, idle, idle * 10.0) {
        let (number, oldest) = (report.idle_in_transaction, report.oldest_idle_s);
        let summary = format!("{number} transactions idle, the oldest for {oldest:.0} s");
        let finding = Finding::new(status, "idle in transaction", summary)
            .why("it keeps its locks, and VACUUM from removing what died since")
            .next(format!("postgres activity {name}"))
            .measured(report.oldest_idle_s, "s");
        findings.push(finding.bounds(idle, idle * 10.0, "pg-healthcheck (30 s), ours (5 min)"));
    }
    let ids = [
        Ids {
            what: "transaction ids",
            unit: "transactions",
            age: report.oldest_xid_age,
            database: &report.oldest_xid_database,
            bounds: XID_AGE,
            source: "ours; check_postgres has 1.3e9, 1.4e9",
        },
        Ids {
            what: "multixact ids",
            unit: "multixacts",
            age: report.oldest_multixact_age,
            database: &report.oldest_multixact_database,
            bounds: MULTIXACT_AGE,
            source: "ours: two and three times autovacuum_multixact_freeze_max_age",
        },
    ];
    findings.extend(ids.iter().filter_map(|ids| ids.judge(name)));
    let figures: Vec<Figure> = ["transaction_id_age", "multixact_id_age"]
        .iter()
        .zip(&ids)
        .map(|(name, ids)| Figure {
            name: (*name).to_owned(),
            value: ids.number(),
            limit: Some(2e9),
            ..Figure::default()
        })
        .collect();
    let summary = format!(
        "{} of {} usable connections are taken, {} transactions idle",
        report.used, report.usable, report.idle_in_transaction
    );
    let connections = Figure {
        name: "connections".into(),
        value: report.used.into(),
        limit: Some(report.usable.into()),
        ..Figure::default()
    };
    let mut answer = Answer::ok(summary, report);
    answer.figures = [vec![connections], figures].concat();
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

/// Ids that the server numbers in a circle: before the oldest is met again it has to be frozen.
struct Ids<'r> {
    what: &'static str,
    unit: &'static str,
    age: u64,
    database: &'r str,
    bounds: (f64, f64),
    source: &'static str,
}

impl Ids<'_> {
    #[expect(clippy::cast_precision_loss, reason = "at most four thousand million")]
    fn number(&self) -> f64 {
        self.age as f64
    }

    fn judge(&self, name: &str) -> Option<Finding> {
        let (age, (warning, critical)) = (self.number(), self.bounds);
        let status = above(age, warning, critical)?;
        let summary =
            format!("{} of {} are {:.0} million old", self.what, self.database, age / 1e6);
        let finding = Finding::new(status, self.database, summary)
            .why("autovacuum does not keep up; at two thousand million the server accepts no write")
            .next(format!("postgres bloat {name}"))
            .measured(age, self.unit);
        Some(finding.bounds(warning, critical, self.source))
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;

    use super::*;

    fn status(used: u32, idle: f64, age: u64) -> Status {
        let report = Report {
            used,
            usable: 97,
            max: 100,
            oldest_idle_s: idle,
            oldest_xid_age: age,
            ..Report::default()
        };
        let request =
            PostgresConnectionsRequest { warning_percent: 80, idle_s: 30, ..Default::default() };
        judge("main", report, &request).status
    }

    #[test]
    fn connections_are_measured_against_those_that_can_be_used() {
        assert_eq!(status(77, 0.0, 0), Status::Ok);
        assert_eq!(status(78, 0.0, 0), Status::Warning);
        assert_eq!(status(88, 0.0, 0), Status::Critical);
    }

    #[test]
    fn a_transaction_that_idles_and_ids_that_run_out_are_told() {
        assert_eq!(status(1, 30.0, 0), Status::Warning);
        assert_eq!(status(1, 300.0, 0), Status::Critical);
        assert_eq!(status(1, 0.0, 600_000_000), Status::Warning);
        assert_eq!(status(1, 0.0, 1_100_000_000), Status::Critical);
    }

    #[test]
    fn multixacts_run_out_like_transaction_ids_and_it_is_said_which_they_are() {
        let judged = |age| {
            let report = Report {
                oldest_multixact_age: age,
                oldest_multixact_database: "shop".into(),
                ..Report::default()
            };
            let request = PostgresConnectionsRequest {
                warning_percent: 80,
                idle_s: 30,
                ..Default::default()
            };
            judge("main", report, &request)
        };
        assert_eq!(judged(450_000_000).status, Status::Ok, "autovacuum begins with them");
        let bad = judged(1_900_000_000);
        assert_eq!(bad.status, Status::Critical);
        assert_eq!(bad.summary, "multixact ids of shop are 1900 million old");
        let figure = bad.figures.iter().find(|f| f.name == "multixact_id_age").expect("a figure");
        assert_eq!((figure.value, figure.limit), (1.9e9, Some(2e9)));
    }
}
