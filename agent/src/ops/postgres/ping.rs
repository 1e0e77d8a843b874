//! `postgres.ping`: whether a server lets us in and answers.

use hostler_proto::{
    operation::PostgresPing,
    ops::{PostgresPing as Report, PostgresPingRequest},
    wire::{Failure, Finding, Status},
};
use tokio::time::Instant;

use super::{done, entry, home, partial, replication, unusable};
use crate::{
    host::postgres::{Session, Trouble, flag, number, text},
    operation::{Answer, Context, Probe},
};

/// A server that was started later was restarted, by somebody or by a crash.
const RESTARTED_S: f64 = 60.0;
const SQL: &str = "SELECT current_setting('server_version') AS version, \
    pg_catalog.pg_is_in_recovery() AS in_recovery, \
    extract(epoch FROM clock_timestamp() - pg_catalog.pg_postmaster_start_time())::float8 AS uptime, \
    (SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()) AS tls";

impl Probe for PostgresPing {
    async fn observe(
        request: PostgresPingRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.ping").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let answer = match ping(&mut session).await {
            Ok((report, seen)) => {
                let answer = judge(&entry.name, &home(entry).log(), report, &request);
                if seen { answer } else { partial(answer, &session) }
            }
            Err(trouble) => unusable(entry, &trouble),
        };
        Ok(done(answer, session).await)
    }
}

async fn ping(session: &mut Session) -> Result<(Report, bool), Trouble> {
    let began = Instant::now();
    let row = session.row(SQL).await?;
    let mut report = Report {
        connect_s: session.took.as_secs_f64(),
        query_s: began.elapsed().as_secs_f64(),
        version: text(&row, "version").split(' ').next().unwrap_or_default().to_owned(),
        in_recovery: flag(&row, "in_recovery"),
        uptime_s: number(&row, "uptime").unwrap_or(0.0),
        tls: flag(&row, "tls"),
        ..Report::default()
    };
    let seen = replication::look(session, &mut report).await?;
    Ok((report, seen))
}

fn judge(name: &str, log: &str, report: Report, request: &PostgresPingRequest) -> Answer<Report> {
    let role = if report.in_recovery { "standby" } else { "primary" };
    let lag = report.lag_s;
    let behind = match (report.source.as_str(), lag) {
        ("streaming", Some(lag)) => format!(", {lag:.0} s behind"),
        _ => String::new(),
    };
    let took = report.connect_s + report.query_s;
    let summary =
        format!("PostgreSQL {} ({role}{behind}) answered in {:.1} ms", report.version, took * 1e3);
    let replication = replication::judge(name, log, &report, request);
    let restarted = (report.uptime_s < RESTARTED_S).then(|| {
        let summary = format!("postgres \"{name}\" was started {:.0} s ago", report.uptime_s);
        Finding::new(Status::Ok, name, summary)
            .why("somebody restarted it, or it crashed")
            .next(log)
    });
    let mut answer = Answer::ok(summary, report).figure("answer", "", took, "s");
    if let Some(lag) = lag {
        answer = answer.figure("lag", "", lag, "s");
    }
    // What is wrong says more than how fast it answered.
    if !replication.is_empty() {
        answer = replication.into_iter().fold(answer, Answer::finding).summed_up();
    }
    restarted.into_iter().fold(answer, Answer::finding)
}
