//! `postgres.activity`: what runs and what waits.

use hostler_proto::{
    operation::{Operation, PostgresActivity},
    ops::{PgSession, PostgresActivity as Report, PostgresActivityRequest},
    wire::{Failure, Finding},
};

use super::{done, entry, partial, statement::shown, unusable};
use crate::{
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, integer, number, pids, text},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Only clients: walsenders, autovacuum and the server's own processes run for ever by design.
const SQL: &str = "SELECT pid::int8 AS pid, coalesce(state, '') AS state, \
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction, \
    extract(epoch FROM clock_timestamp() - CASE state WHEN 'active' THEN query_start \
    ELSE state_change END)::float8 AS statement, \
    coalesce(wait_event_type || '/' || wait_event, '') AS wait, \
    CASE wait_event_type WHEN 'Lock' THEN pg_catalog.pg_blocking_pids(pid) END AS blocked_by, \
    coalesce(usename, '')::text AS usename, coalesce(datname, '')::text AS datname, \
    coalesce(application_name, '') AS application, coalesce(host(client_addr), '') AS client, \
    coalesce(query, '') AS query FROM pg_catalog.pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() \
    AND (state <> 'idle' OR xact_start IS NOT NULL OR state IS NULL) \
    AND coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0) >= $1 \
    ORDER BY xact_start NULLS LAST, pid";
/// Times the bound of the warning from which a statement is critical, unless that is given (PgHero warns at
/// 60 s; the runbook ends what has run for five minutes).
const CRITICAL: f64 = 5.0;

impl Probe for PostgresActivity {
    async fn observe(
        request: PostgresActivityRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.activity").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let answer = match look(&mut session, &request).await {
            Ok(report) => partial(judge(&entry.name, report, &request), &session),
            Err(trouble) => unusable(entry, &trouble),
        };
        Ok(done(answer, session).await)
    }
}

async fn look(session: &mut Session, request: &PostgresActivityRequest) -> Result<Report, Trouble> {
    let rows = session.rows_with(SQL, request.longer_s.into()).await?;
    let sessions = rows.iter().map(|row| PgSession {
        pid: u32::try_from(integer(row, "pid")).unwrap_or(0),
        state: text(row, "state"),
        transaction_s: number(row, "transaction").unwrap_or(0.0),
        statement_s: number(row, "statement").unwrap_or(0.0),
        wait: text(row, "wait"),
        blocked_by: pids(row, "blocked_by"),
        user: text(row, "usename"),
        database: text(row, "datname"),
        application: text(row, "application"),
        client: text(row, "client"),
        statement: shown(&text(row, "query"), &request.text),
    });
    Ok(Report { sessions: sessions.collect(), visibility: session.visibility().to_owned() })
}

/// Judges all sessions, of which there are no more than the server has connections, and tells the first
/// `top`; of the findings, the longest statements.
fn judge(name: &str, mut report: Report, request: &PostgresActivityRequest) -> Answer<Report> {
    let (operation, long_s) = (<PostgresActivity as Operation>::NAME, request.long_s);
    let top = usize::try_from(request.top).unwrap_or(usize::MAX);
    let warning = Bound::of(operation, "long-s", long_s.into());
    let critical = warning.times(CRITICAL).unless(operation, "critical-s", request.critical_s);
    let bounds = Bounds::new(warning, critical, "PgHero (60 s), the runbook");
    let mut findings = Vec::new();
    let mut running: Vec<_> = report.sessions.iter().filter(|s| s.state == "active").collect();
    let active = running.len();
    running.order_by(|a, b| b.statement_s.total_cmp(&a.statement_s));
    for session in running.into_iter().take(top) {
        if let Some(status) = bounds.above(session.statement_s) {
            let (pid, seconds) = (session.pid, session.statement_s);
            let who = match session.application.as_str() {
                "" => &session.user,
                application => application,
            };
            let summary = format!("a statement of {who} (pid {pid}) has run for {seconds:.0} s");
            let why = match session.blocked_by.as_slice() {
                [] => "it holds its locks for as long, and VACUUM from removing what died since",
                _ => "it waits for a lock that another session holds",
            };
            let next = match session.blocked_by.is_empty() {
                true => format!("postgres activity {name} --longer {long_s}s"),
                false => format!("postgres locks {name}"),
            };
            let finding = Finding::new(status, pid.to_string(), summary).why(why).next(next);
            findings.push(bounds.told(finding, session.statement_s, "s"));
        }
    }
    let waiting = report.sessions.iter().filter(|s| !s.blocked_by.is_empty()).count();
    let idle = report.sessions.len() - active;
    let summary =
        format!("{active} run, {waiting} of them wait for locks, {idle} idle in transaction");
    report.sessions.truncate(top);
    let answer = Answer::ok(summary, report);
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;

    use super::*;

    #[test]
    fn sessions_that_are_not_told_are_judged_and_counted() {
        let session = |pid, state: &str, statement_s| PgSession {
            pid,
            state: state.into(),
            statement_s,
            ..PgSession::default()
        };
        let idle = (1..=50).map(|pid| session(pid, "idle in transaction", 900.0));
        let more = [session(51, "active", 70.0), session(52, "active", 400.0)];
        let sessions = idle.chain(more).collect();
        let report = Report { sessions, ..Report::default() };
        let request = |long_s, critical_s| PostgresActivityRequest {
            long_s,
            critical_s,
            top: 50,
            ..PostgresActivityRequest::default()
        };
        let answer = judge("main", report.clone(), &request(60, None));
        assert_eq!((answer.status, answer.data.sessions.len()), (Status::Critical, 50));
        let told: Vec<_> = answer.findings.iter().map(|f| f.subject.as_str()).collect();
        assert_eq!(told, ["52", "51"]);
        let source = |request| judge("main", report.clone(), &request).findings.remove(0).source;
        assert_eq!(source(request(60, None)), "PgHero (60 s), the runbook");
        assert_eq!(source(request(300, None)), "parameter");
        let patient = judge("main", report.clone(), &request(60, Some(500)));
        assert_eq!(patient.status, Status::Warning);
        let well = judge("main", report, &request(500, None));
        assert_eq!(well.summary, "2 run, 0 of them wait for locks, 50 idle in transaction");
    }
}
