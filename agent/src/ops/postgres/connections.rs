//! `postgres.connections`: who has the connections, and what idles.

use hostler_proto::{
    operation::{Operation, PostgresConnections},
    ops::{ConnectionGroup, PostgresConnections as Report, PostgresConnectionsRequest},
    wire::{Failure, Figure, Finding},
};

use super::{done, entry, partial, unusable};
use crate::{
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, count, integer, number, text},
    operation::{Answer, Context, Probe},
};

/// Share of the usable connections from which it is critical, where neither that nor a higher warning is
/// given.
const CRITICAL_PERCENT: f64 = 90.0;
/// How much longer than for a warning a transaction idles where it is critical, unless that is given.
const CRITICAL_IDLE: f64 = 10.0;
const NAME: &str = <PostgresConnections as Operation>::NAME;

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
        let answer = match look(&mut session).await {
            Ok(report) => partial(judge(&entry.name, report, &request), &session),
            Err(trouble) => unusable(entry, &trouble),
        };
        Ok(done(answer, session).await)
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
        // That of others none idles nobody knows who does not see them.
        idle_in_transaction: Some(small(integer(&ages, "idle")))
            .filter(|idle| session.sees_all || *idle > 0),
        oldest_idle_s: number(&ages, "oldest_idle"),
        oldest_transaction_s: number(&ages, "oldest"),
        oldest_xid_age: xid_age,
        oldest_xid_database: xid_database,
        oldest_multixact_age: multixact_age,
        oldest_multixact_database: multixact_database,
        used_percent: 0.0,
    })
}

fn judge(name: &str, mut report: Report, request: &PostgresConnectionsRequest) -> Answer<Report> {
    let mut findings = Vec::new();
    let share = f64::from(report.used) * 100.0 / f64::from(report.usable.max(1));
    report.used_percent = share;
    let warning = Bound::of(NAME, "warning-percent", request.warning_percent.into());
    let critical =
        if warning.at > CRITICAL_PERCENT { warning } else { Bound::fixed(CRITICAL_PERCENT) };
    let critical = critical.unless(NAME, "critical-percent", request.critical_percent);
    let bounds = Bounds::new(warning, critical, "awesome-prometheus-alerts (80), ours (90)");
    if let Some(status) = bounds.above(share) {
        let most = report.groups.first().map_or(String::new(), |g| {
            let who = if g.application.is_empty() { &g.user } else { &g.application };
            format!("; {} of them {} of {who}", g.count, g.state)
        });
        let (used, usable) = (report.used, report.usable);
        let summary = format!("{used} of {usable} usable connections are taken{most}");
        let finding = Finding::new(status, "connections", summary)
            .why("the next client is refused when none is left")
            .next(format!("postgres activity {name}"));
        findings.push(bounds.told(finding, share, "percent"));
    }
    let idle = Bound::of(NAME, "idle-s", request.idle_s.into());
    let critical =
        idle.times(CRITICAL_IDLE).unless(NAME, "idle-critical-s", request.idle_critical_s);
    let bounds = Bounds::new(idle, critical, "pg-healthcheck (30 s), ours (5 min)");
    if let Some(oldest) = report.oldest_idle_s
        && let Some(status) = bounds.above(oldest)
    {
        let number = report.idle_in_transaction.unwrap_or(0);
        let summary = format!("{number} transactions idle, the oldest for {oldest:.0} s");
        let finding = Finding::new(status, "idle in transaction", summary)
            .why("it keeps its locks, and VACUUM from removing what died since")
            .next(format!("postgres activity {name}"));
        findings.push(bounds.told(finding, oldest, "s"));
    }
    // Autovacuum freezes from 200 million transaction ids and 400 million multixacts on, and the server
    // stops at two thousand million of either.
    #[expect(clippy::cast_precision_loss, reason = "at most two thousand million")]
    let bound = |parameter, age: u64| Bound::of(NAME, parameter, age as f64);
    let ids = [
        Ids {
            what: "transaction ids",
            unit: "transactions",
            age: report.oldest_xid_age,
            database: &report.oldest_xid_database,
            bounds: Bounds::new(
                bound("xid-warning", request.xid_warning),
                bound("xid-critical", request.xid_critical),
                "ours; check_postgres has 1.3e9, 1.4e9",
            ),
        },
        Ids {
            what: "multixact ids",
            unit: "multixacts",
            age: report.oldest_multixact_age,
            database: &report.oldest_multixact_database,
            bounds: Bounds::new(
                bound("multixact-warning", request.multixact_warning),
                bound("multixact-critical", request.multixact_critical),
                "ours: two and three times autovacuum_multixact_freeze_max_age",
            ),
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
    let idle = report.idle_in_transaction;
    let idle = idle.map_or(String::new(), |idle| format!(", {idle} transactions idle"));
    let summary =
        format!("{} of {} usable connections are taken{idle}", report.used, report.usable);
    let connections = Figure {
        name: "connections".into(),
        value: report.used.into(),
        limit: Some(report.usable.into()),
        ..Figure::default()
    };
    let taken = Figure {
        name: "connections_used".into(),
        value: share,
        unit: "percent".into(),
        // That they run out is foreseen from their number.
        limit: None,
        ..Figure::default()
    };
    let mut answer = Answer::ok(summary, report);
    answer.figures = [vec![connections, taken], figures].concat();
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

/// Ids that the server numbers in a circle: before the oldest is met again it has to be frozen.
struct Ids<'r> {
    what: &'static str,
    unit: &'static str,
    age: u64,
    database: &'r str,
    bounds: Bounds,
}

impl Ids<'_> {
    #[expect(clippy::cast_precision_loss, reason = "at most four thousand million")]
    fn number(&self) -> f64 {
        self.age as f64
    }

    fn judge(&self, name: &str) -> Option<Finding> {
        let age = self.number();
        let status = self.bounds.above(age)?;
        let summary =
            format!("{} of {} are {:.0} million old", self.what, self.database, age / 1e6);
        let finding = Finding::new(status, self.database, summary)
            .why("autovacuum does not keep up; at two thousand million the server accepts no write")
            .next(format!("postgres bloat {name}"));
        Some(self.bounds.told(finding, age, self.unit))
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;

    use super::*;
    use crate::operation::completed;

    fn status(used: u32, idle: f64, age: u64) -> Status {
        let report = Report {
            used,
            usable: 97,
            max: 100,
            oldest_idle_s: Some(idle),
            oldest_xid_age: age,
            ..Report::default()
        };
        judge("main", report, &request()).status
    }

    fn request() -> PostgresConnectionsRequest {
        completed::<PostgresConnections>(&Default::default()).expect("defaults")
    }

    #[test]
    fn every_bound_can_be_moved_and_a_warning_beyond_what_is_critical_moves_that_too() {
        let report = |used, idle| Report {
            used,
            usable: 100,
            oldest_idle_s: Some(idle),
            oldest_xid_age: 600_000_000,
            oldest_multixact_age: 900_000_000,
            ..Report::default()
        };
        let judged = |report, request| {
            let found = judge("main", report, &request).findings;
            found.into_iter().map(|f| (f.status(), f.critical, f.source)).collect::<Vec<_>>()
        };
        let moved = PostgresConnectionsRequest {
            warning_percent: 95,
            idle_critical_s: Some(40),
            xid_warning: 700_000_000,
            multixact_critical: 850_000_000,
            ..request()
        };
        let found = judged(report(96, 50.0), moved.clone());
        assert_eq!(found[0], (Status::Critical, Some(95.0), "parameter".into()));
        assert_eq!((found[1].0, found[1].1), (Status::Critical, Some(40.0)));
        assert_eq!((found.len(), found[2].0), (3, Status::Critical));
        let more = PostgresConnectionsRequest { critical_percent: Some(97), ..moved };
        let found = judged(report(96, 1.0), more);
        assert_eq!(found[0], (Status::Warning, Some(97.0), "parameter".into()));
        let answer = judge("main", report(50, 1.0), &request());
        assert_eq!(answer.data.used_percent, 50.0);
        let figure = answer.figures.iter().find(|f| f.name == "connections_used").expect("one");
        assert_eq!((figure.value, figure.limit), (50.0, None));
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
            judge("main", report, &request())
        };
        assert_eq!(judged(450_000_000).status, Status::Ok, "autovacuum begins with them");
        let bad = judged(1_900_000_000);
        assert_eq!(bad.status, Status::Critical);
        assert_eq!(bad.summary, "multixact ids of shop are 1900 million old");
        let figure = bad.figures.iter().find(|f| f.name == "multixact_id_age").expect("a figure");
        assert_eq!((figure.value, figure.limit), (1.9e9, Some(2e9)));
    }
}
