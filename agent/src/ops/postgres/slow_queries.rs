//! `postgres.slow-queries`: the statements that take the time, from pg_stat_statements.

use hostler_proto::{
    operation::PostgresSlowQueries,
    ops::{PostgresSlowQueries as Report, PostgresSlowQueriesRequest, StatementTimes},
    wire::{Failure, Finding, Status},
};

use super::{entry, evidence, partial};
use crate::{
    host::postgres::{Session, Trouble, count, flag, integer, number, text},
    operation::{Answer, Context, Probe},
};

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
        let failed = |t: Trouble| t.failure(&entry.name);
        let mut session = Session::open(entry, "postgres.slow-queries").await.map_err(failed)?;
        let row = session.row(EXTENSION).await.map_err(failed)?;
        let schema = text(&row, "schema");
        let loaded = flag(&row, "loaded");
        let hidden = flag(&row, "hidden");
        if schema.is_empty() || !(loaded || hidden) {
            let answer = evidence(absent(loaded || hidden), &session);
            session.close().await;
            return Ok(answer);
        }
        let (version, offered) = (text(&row, "version"), text(&row, "offered"));
        if of(&version) < OLDEST {
            let answer = evidence(outdated(&version), &session);
            session.close().await;
            return Ok(answer);
        }
        let report = match look(&mut session, &schema, of(&version), &request).await {
            // The extension is there, and its library is not; that could not be seen beforehand.
            Err(Trouble::Refused(said)) if said.contains("shared_preload_libraries") => {
                let answer = evidence(absent(false), &session);
                session.close().await;
                return Ok(answer);
            }
            report => report.map_err(failed)?,
        };
        let summary = match report.statements.first() {
            None => "no statement was counted yet".to_owned(),
            Some(first) => format!(
                "{} statements; {:.0} % of all time goes to: {}",
                report.statements.len(),
                first.share_percent,
                first.statement.chars().take(80).collect::<String>()
            ),
        };
        let answer = partial(Answer::ok(summary, report), &session);
        let mut answer = evidence(answer, &session);
        session.close().await;
        if of(&version) < INFO_CAME && of(&version) < of(&offered) {
            let summary = format!("pg_stat_statements is {version}, the server offers {offered}");
            let finding = Finding::new(Status::Ok, "pg_stat_statements", summary);
            answer = answer.finding(finding.why(format!("{UPDATE}, in this database")));
        }
        Ok(answer)
    }
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
    let statements = rows.iter().map(|row| StatementTimes {
        total_ms: number(row, "total").unwrap_or(0.0),
        mean_ms: number(row, "mean").unwrap_or(0.0),
        max_ms: number(row, "max").unwrap_or(0.0),
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
        report.forgotten = count(&row, "dealloc");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_extensions_are_numbers_and_no_texts() {
        assert!(of("1.10") > of("1.9") && of("1.7") < NAMES_CHANGED && of("") < OLDEST);
        assert_eq!(outdated("1.2").status, Status::Unknown);
    }
}
