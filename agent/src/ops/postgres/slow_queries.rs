//! `postgres.slow-queries`: the statements that take the time, from pg_stat_statements.

use hostler_proto::{
    operation::{Operation, PostgresSlowQueries},
    ops::{PostgresSlowQueries as Report, PostgresSlowQueriesRequest, StatementTimes},
    wire::{Failure, Finding, Status},
};

use super::{done, entry, partial, unseen};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, count, counted, flag, integer, number, text},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Runs from which a mean says something (PgHero).
const RUNS: u64 = 100;
/// Slow statements that are told as findings; the longest of the others is in the list anyway.
const TOLD: usize = 5;
/// Characters of a statement in a sentence.
const SHOWN: usize = 80;
/// A setting that the role may not read is an error, and not NULL.
const EXTENSION: &str = "SELECT coalesce(n.nspname::text, '') AS schema, \
    coalesce(e.extversion, '') AS version, coalesce(a.default_version, '') AS offered, \
    'pg_stat_statements' = ANY (string_to_array(replace(s.libraries, ' ', ''), ',')) AS loaded, \
    s.libraries IS NULL AS hidden \
    FROM (SELECT CASE WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'usage') \
    THEN current_setting('shared_preload_libraries', true) END AS libraries) s \
    LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'pg_stat_statements' \
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
    LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = 'pg_stat_statements'";
/// Numbers first, and texts of those alone that are shown: reading all texts reads a file.
const TIMES: &str = "SELECT s.queryid::int8 AS id, s.TOTAL_TIME::float8 AS total, \
    s.MEAN_TIME::float8 AS mean, s.MAX_TIME::float8 AS max, s.calls::int8 AS calls, \
    s.rows::int8 AS rows, pg_catalog.pg_get_userbyid(s.userid)::text AS usename, \
    (s.TOTAL_TIME * 100 / nullif(sum(s.TOTAL_TIME) OVER (), 0))::float8 AS share, \
    (s.shared_blks_hit * 100.0 / nullif(s.shared_blks_hit + s.shared_blks_read, 0))::float8 AS hit \
    FROM SCHEMA.pg_stat_statements(false) s \
    WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
    AND s.calls >= $1 ORDER BY ORDER DESC LIMIT LIMIT_ROWS";
const TEXTS: &str = "SELECT queryid::int8 AS id, query FROM SCHEMA.pg_stat_statements(true) \
    WHERE queryid IN (IDS)";
/// An extension keeps its version through an upgrade of the server, until somebody updates it. With
/// 1.8 the times got other names, with 1.9 came the view.
const NAMES_CHANGED: (u32, u32) = (1, 8);
const INFO_CAME: (u32, u32) = (1, 9);
/// Before it there are no times that can be compared.
const OLDEST: (u32, u32) = (1, 3);
const UPDATE: &str = "ALTER EXTENSION pg_stat_statements UPDATE";
const INFO: &str = "SELECT extract(epoch FROM stats_reset)::float8 AS since, dealloc::int8 AS dealloc \
    FROM SCHEMA.pg_stat_statements_info";

impl Probe for PostgresSlowQueries {
    async fn observe(
        request: PostgresSlowQueriesRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.slow-queries").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unseen(entry, &trouble)),
        };
        let now_s = cx.host.clock.now().as_second();
        let answer = ask(&mut session, &entry.name, &request, now_s).await;
        Ok(done(answer.unwrap_or_else(|trouble| unseen(entry, &trouble)), session).await)
    }
}

async fn ask(
    session: &mut Session,
    name: &str,
    request: &PostgresSlowQueriesRequest,
    now_s: i64,
) -> Result<Answer<Report>, Trouble> {
    let row = session.row(EXTENSION).await?;
    let schema = text(&row, "schema");
    let (loaded, hidden) = (flag(&row, "loaded"), flag(&row, "hidden"));
    if schema.is_empty() || !(loaded || hidden) {
        return Ok(absent(loaded || hidden));
    }
    let (version, offered) = (text(&row, "version"), text(&row, "offered"));
    if of(&version) < OLDEST {
        return Ok(outdated(&version));
    }
    let report = match look(session, &schema, of(&version), request).await {
        // The extension is there, and its library is not; that could not be seen beforehand.
        Err(Trouble::Refused(said)) if said.contains("shared_preload_libraries") => {
            return Ok(absent(false));
        }
        report => report?,
    };
    let answer = partial(judge(name, report, request, now_s), session);
    let old = of(&version) < INFO_CAME && of(&version) < of(&offered);
    let old = old.then(|| {
        let summary = format!("pg_stat_statements is {version}, the server offers {offered}");
        let why = format!("since when it counts only 1.9 tells: {UPDATE}, in this database");
        Finding::new(Status::Ok, "pg_stat_statements", summary).why(why)
    });
    Ok(old.into_iter().fold(answer, Answer::finding))
}

/// Judges what is slow each time; what takes the most time in all may be what the application is for.
#[expect(clippy::cast_precision_loss, reason = "seconds of a date")]
fn judge(
    name: &str,
    report: Report,
    request: &PostgresSlowQueriesRequest,
    now_s: i64,
) -> Answer<Report> {
    let short = |statement: &str| statement.chars().take(SHOWN).collect::<String>();
    let since = match report.since_s {
        Some(since) => format!("in {}", amount::span((now_s as f64 - since).max(0.0))),
        None => "since when is not known".to_owned(),
    };
    let summary = match report.statements.first() {
        None => format!("no statement was counted, {since}"),
        Some(first) => format!(
            "{} statements, {since}; {:.0} % of all time goes to: {}",
            report.statements.len(),
            first.share_percent,
            short(&first.statement)
        ),
    };
    let slow =
        Bound::of(<PostgresSlowQueries as Operation>::NAME, "slow-ms", request.slow_ms.into());
    let bounds = Bounds::warning(slow.times(1e-3), "");
    let mut slow: Vec<_> = report.statements.iter().filter(|s| s.calls >= RUNS).collect();
    slow.order_by(|a, b| b.mean_s.total_cmp(&a.mean_s));
    let slow = slow.into_iter().take(TOLD).filter_map(|statement| {
        let mean_s = statement.mean_s;
        let status = bounds.above(mean_s)?;
        let (calls, text) = (statement.calls, short(&statement.statement));
        let said = format!("{mean_s:.1} s on average, {calls} times {since}: {text}");
        let finding = Finding::new(status, &statement.user, said)
            .why("whoever runs it waits as long each time; EXPLAIN ANALYZE shows for what")
            .next(format!("postgres indexes {name}"));
        Some(bounds.told(finding, mean_s, "s"))
    });
    let slow: Vec<_> = slow.collect();
    let answer = Answer::ok(summary, report);
    slow.into_iter().fold(answer, Answer::finding).summed_up()
}

/// A version of an extension: `1.10` is after `1.9`.
fn of(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn outdated(version: &str) -> Answer<Report> {
    let summary = format!("pg_stat_statements {version} is too old to be asked");
    let finding = Finding::new(Status::Unknown, "pg_stat_statements", summary);
    Answer::unmeasured(finding.why(format!("{UPDATE}, in the database of the stack file")))
}

/// Without the extension nothing is known; what to do depends on what is missing.
fn absent(loaded: bool) -> Answer<Report> {
    let summary = "pg_stat_statements is not there: nobody counts the statements";
    let why = match loaded {
        true => "CREATE EXTENSION pg_stat_statements in the database of the stack file",
        false => {
            "shared_preload_libraries = 'pg_stat_statements', a restart, then CREATE EXTENSION"
        }
    };
    Answer::unmeasured(Finding::new(Status::Unknown, "pg_stat_statements", summary).why(why))
}

async fn look(
    session: &mut Session,
    schema: &str,
    version: (u32, u32),
    request: &PostgresSlowQueriesRequest,
) -> Result<Report, Trouble> {
    let schema = format!("\"{}\"", schema.replace('"', "\"\""));
    // Words of our own and numbers, nothing else, are put into the statement.
    let order = match request.by.as_str() {
        "mean" => "s.MEAN_TIME",
        "max" => "s.MAX_TIME",
        "calls" => "s.calls",
        _ => "s.TOTAL_TIME",
    };
    let time = if version < NAMES_CHANGED { "time" } else { "exec_time" };
    let sql = TIMES
        .replace("SCHEMA", &schema)
        .replace("ORDER BY ORDER", &format!("ORDER BY {order}"))
        .replace("LIMIT_ROWS", &request.top.to_string())
        .replace("TOTAL_TIME", &format!("total_{time}"))
        .replace("MEAN_TIME", &format!("mean_{time}"))
        .replace("MAX_TIME", &format!("max_{time}"));
    let calls = i64::try_from(request.calls).unwrap_or(i64::MAX);
    let rows = session.rows_with(&sql, calls).await?;
    let ids: Vec<String> = rows.iter().map(|row| integer(row, "id").to_string()).collect();
    let texts = match ids.is_empty() {
        true => Vec::new(),
        false => {
            let sql = TEXTS.replace("SCHEMA", &schema).replace("IDS", &ids.join(", "));
            session.rows(&sql).await?
        }
    };
    let statement = |id: i64| {
        let row = texts.iter().find(|row| integer(row, "id") == id);
        let words = row.map(|row| text(row, "query")).unwrap_or_default();
        // Utility statements keep their constants: passwords of roles, for one.
        super::statement::shown(&words, "masked")
    };
    // The extension counts milliseconds.
    let seconds = |row: &_, name| number(row, name).unwrap_or(0.0) * 1e-3;
    let statements = rows.iter().map(|row| StatementTimes {
        total_s: seconds(row, "total"),
        mean_s: seconds(row, "mean"),
        max_s: seconds(row, "max"),
        calls: count(row, "calls"),
        rows: count(row, "rows"),
        share_percent: number(row, "share").unwrap_or(0.0),
        hit_percent: number(row, "hit"),
        user: text(row, "usename"),
        statement: statement(integer(row, "id")),
    });
    let mut report = Report { statements: statements.collect(), ..Report::default() };
    if version >= INFO_CAME {
        let row = session.row(&INFO.replace("SCHEMA", &schema)).await?;
        report.since_s = number(&row, "since");
        report.forgotten = counted(&row, "dealloc");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    #[test]
    fn versions_of_extensions_are_numbers_and_no_texts() {
        assert!(of("1.10") > of("1.9") && of("1.7") < NAMES_CHANGED && of("") < OLDEST);
        assert_eq!(outdated("1.2").status, Status::Unknown);
    }

    #[test]
    fn what_is_slow_each_time_and_runs_often_is_a_warning_and_since_when_is_said() {
        let request = completed::<PostgresSlowQueries>(&PostgresSlowQueriesRequest::default());
        let request = request.expect("defaults");
        let statement = |mean_s, calls| StatementTimes {
            mean_s,
            calls,
            user: "app".into(),
            statement: "SELECT 1".into(),
            ..StatementTimes::default()
        };
        let judged = |since_s, request: &PostgresSlowQueriesRequest| {
            let statements =
                vec![statement(0.001, 1_000_000), statement(9.0, 99), statement(2.5, 100)];
            let report = Report { statements, since_s, ..Report::default() };
            judge("main", report, request, 10_000)
        };
        let known = judged(Some(2800.0), &request);
        assert_eq!((known.status, known.findings.len()), (Status::Warning, 1));
        assert_eq!(known.summary, "2.5 s on average, 100 times in 2 h: SELECT 1");
        let found = &known.findings[0];
        assert_eq!(
            (found.value, found.warning, found.source.as_str()),
            (Some(2.5), Some(1.0), "default")
        );
        let patient = PostgresSlowQueriesRequest { slow_ms: 3000, ..request };
        let unknown = judged(None, &patient);
        assert_eq!(unknown.status, Status::Ok);
        let said = "3 statements, since when is not known; 0 % of all time goes to: SELECT 1";
        assert_eq!(unknown.summary, said);
    }
}
