//! `postgres.bloat`: dead rows, wasted space, and what keeps VACUUM from its work. Dead rows are no
//! bloat: after VACUUM there are none, and the file may be empty to four fifths.

use hostler_proto::{
    operation::{Operation, PostgresBloat},
    ops::{PostgresBloat as Report, PostgresBloatRequest, TableBloat},
    wire::{Failure, Finding, Status},
};

use super::{done, entry, locked::Locked, partial, unseen};
use crate::{
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, count, flag, number, text},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Where the shares of dead rows and of wasted space come from.
const ALERTS: &str = "awesome-prometheus-alerts";
/// A table below this has too few pages for an estimate.
const MEASURABLE: u64 = 1 << 20;
/// A session that is older holds VACUUM back.
const HOLDS_BACK: &str = "5 minutes";

/// Estimated: the pages that the rows would take at their average width, against those that there
/// are. It needs statistics of every column; without it says nothing (24 bytes of row header, 4 of
/// line pointer, 24 of page header: storage/bufpage.h). Counters are lost where far fewer rows are counted than
/// there were when the catalogue was told, and nobody vacuumed or analyzed since.
const ESTIMATE: &str = "SELECT c.oid::int8 AS oid, n.nspname || '.' || c.relname AS name, \
    pg_catalog.pg_relation_size(c.oid)::int8 AS heap, \
    s.n_dead_tup AS dead, s.n_live_tup AS live, \
    (coalesce((SELECT option_value::float8 FROM pg_catalog.pg_options_to_table(c.reloptions) \
    WHERE option_name = 'autovacuum_vacuum_threshold'), \
    current_setting('autovacuum_vacuum_threshold')::float8) \
    + coalesce((SELECT option_value::float8 FROM pg_catalog.pg_options_to_table(c.reloptions) \
    WHERE option_name = 'autovacuum_vacuum_scale_factor'), \
    current_setting('autovacuum_vacuum_scale_factor')::float8) \
    * greatest(c.reltuples, 0)::float8)::int8 AS vacuum_at, \
    extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8 \
    AS vacuumed, \
    extract(epoch FROM clock_timestamp() - greatest(s.last_analyze, s.last_autoanalyze))::float8 \
    AS analyzed, \
    coalesce(s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze) IS NULL \
    AND 2 * (s.n_live_tup + s.n_dead_tup) <= greatest(c.reltuples, 0) AS lost, \
    CASE WHEN c.relpages > 10 AND w.known = w.columns AND c.reltuples >= 0 THEN \
    greatest(0, 100 - 100 * ceil(c.reltuples * (w.width + 28) / (current_setting('block_size')::float8 - 24)) \
    / c.relpages)::float8 END AS wasted \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_stat_user_tables s ON s.relid = c.oid \
    CROSS JOIN LATERAL (SELECT count(*) AS columns, count(p.avg_width) AS known, \
    coalesce(sum((1 - p.null_frac) * p.avg_width), 0)::float8 AS width \
    FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_stats p ON p.schemaname = n.nspname \
    AND p.tablename = c.relname AND p.attname = a.attname AND NOT p.inherited \
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) w \
    WHERE c.relkind = 'r' AND OTHERS \
    ORDER BY s.n_dead_tup + coalesce(c.relpages, 0) DESC, 2 LIMIT $1";
const STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS standby";
const EXTENSION: &str = "SELECT coalesce((SELECT n.nspname::text FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgstattuple'), '') \
    AS schema";
/// Who keeps the oldest snapshot: a session, a prepared transaction, a replication slot.
const HELD_BACK: &str = "SELECT what FROM (\
    SELECT pg_catalog.age(backend_xmin)::int8 AS age, 'pid ' || pid || ' of ' \
    || coalesce(nullif(application_name, ''), usename::text, backend_type) || ', ' \
    || coalesce(state, '') || ', transaction open for ' \
    || extract(epoch FROM clock_timestamp() - xact_start)::int8 || ' s' AS what, \
    clock_timestamp() - xact_start AS since FROM pg_catalog.pg_stat_activity \
    WHERE backend_xmin IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() \
    UNION ALL SELECT pg_catalog.age(transaction)::int8, 'prepared transaction ' || gid, \
    clock_timestamp() - prepared FROM pg_catalog.pg_prepared_xacts \
    UNION ALL SELECT pg_catalog.age(coalesce(xmin, catalog_xmin))::int8, \
    'replication slot ' || slot_name || CASE WHEN active THEN '' ELSE ', inactive' END, \
    interval '1 day' FROM pg_catalog.pg_replication_slots \
    WHERE coalesce(xmin, catalog_xmin) IS NOT NULL) h WHERE since > interval 'PATIENCE' \
    ORDER BY age DESC LIMIT 1";

impl Probe for PostgresBloat {
    async fn observe(
        request: PostgresBloatRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.bloat").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unseen(entry, &trouble)),
        };
        let answer = ask(&mut session, &entry.name, &request, cx).await;
        Ok(done(answer.unwrap_or_else(|trouble| unseen(entry, &trouble)), session).await)
    }
}

async fn ask(
    session: &mut Session,
    name: &str,
    request: &PostgresBloatRequest,
    cx: &Context,
) -> Result<Answer<Report>, Trouble> {
    if flag(&session.row(STANDBY).await?, "standby") {
        return Ok(blind(name));
    }
    let locked = Locked::look(session).await?;
    let (report, lost, missing) = look(session, &locked, request, cx).await?;
    let answer = partial(judge(name, report, &lost, request), session);
    let answer = locked.finding(name).into_iter().fold(answer, Answer::finding);
    let missing = missing.then(|| {
        let summary = "exact figures need the extension pgstattuple, which is not installed";
        Finding::new(Status::Unknown, "pgstattuple", summary)
            .why("CREATE EXTENSION pgstattuple, and GRANT pg_stat_scan_tables")
    });
    Ok(missing.into_iter().fold(answer, Answer::finding))
}

/// Dead rows are counted where rows die, and a standby has no part in that: it would see none.
fn blind(name: &str) -> Answer<Report> {
    let summary = format!("postgres \"{name}\" is a standby, which cannot tell");
    let finding = Finding::new(Status::Unknown, "standby", summary)
        .why("dead rows and vacuums are counted on the primary alone: ask there");
    Answer::unmeasured(finding)
}

/// What there is, the tables whose counters were lost, and whether the extension for exact figures is missing.
async fn look(
    session: &mut Session,
    locked: &Locked,
    request: &PostgresBloatRequest,
    cx: &Context,
) -> Result<(Report, Vec<String>, bool), Trouble> {
    let rows = session
        .rows_with(&ESTIMATE.replace("OTHERS", &locked.others("c.oid")), request.top.into())
        .await?;
    let held = session.rows(&HELD_BACK.replace("PATIENCE", HOLDS_BACK)).await?;
    let schema = text(&session.row(EXTENSION).await?, "schema");
    let (mut tables, mut lost) = (Vec::new(), Vec::new());
    for (done, row) in rows.iter().enumerate() {
        let mut table = TableBloat {
            table: text(row, "name"),
            heap_bytes: count(row, "heap"),
            dead_rows: count(row, "dead"),
            live_rows: count(row, "live"),
            vacuum_at: count(row, "vacuum_at"),
            wasted_percent: number(row, "wasted"),
            method: "estimate".to_owned(),
            vacuumed_s: number(row, "vacuumed"),
            analyzed_s: number(row, "analyzed"),
        };
        if request.exact && !schema.is_empty() {
            cx.progress("measuring tables", done as u64, rows.len() as u64, "tables");
            let sql = format!(
                "SELECT (dead_tuple_percent + approx_free_percent)::float8 AS wasted \
                 FROM {}.pgstattuple_approx($1::int8::oid)",
                quoted(&schema)
            );
            let oid = crate::host::postgres::integer(row, "oid");
            // A table that is locked, or large beyond the time for a statement, keeps its estimate.
            if let Ok(measured) = session.rows_with(&sql, oid).await {
                table.wasted_percent = measured.first().and_then(|row| number(row, "wasted"));
                table.method = "exact".to_owned();
            }
        }
        // Of a small one nobody can tell from one that is empty.
        if table.heap_bytes > MEASURABLE && flag(row, "lost") {
            lost.push(table.table.clone());
        }
        tables.push(table);
    }
    let wasted = |t: &TableBloat| {
        #[expect(clippy::cast_precision_loss, reason = "to sort by")]
        let bytes = t.heap_bytes as f64;
        bytes * t.wasted_percent.unwrap_or(0.0)
    };
    tables.order_by(|a, b| wasted(b).total_cmp(&wasted(a)).then(b.dead_rows.cmp(&a.dead_rows)));
    let held_back_by = held.first().map(|row| text(row, "what")).unwrap_or_default();
    Ok((Report { tables, held_back_by }, lost, request.exact && schema.is_empty()))
}

/// A name as SQL takes it, whatever it is.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[expect(clippy::cast_precision_loss, reason = "shares of rows")]
fn judge(
    name: &str,
    report: Report,
    lost: &[String],
    request: &PostgresBloatRequest,
) -> Answer<Report> {
    let mut findings = Vec::new();
    let bounds = |parameter, percent: u32| {
        let bound = Bound::of(<PostgresBloat as Operation>::NAME, parameter, percent.into());
        Bounds::warning(bound, ALERTS)
    };
    let dead_bounds = bounds("dead-percent", request.dead_percent);
    let wasted_bounds = bounds("wasted-percent", request.wasted_percent);
    // What shows more of it than was just seen.
    let closer = match request.exact {
        false => format!("postgres bloat {name} --exact"),
        true => format!("postgres indexes {name}"),
    };
    for table in &report.tables {
        let share = table.dead_rows as f64 * 100.0 / table.live_rows.max(1) as f64;
        let subject = &table.table;
        let due = table.dead_rows > request.dead_rows && table.dead_rows > table.vacuum_at;
        if let Some(status) = dead_bounds.above(share).filter(|_| due) {
            let summary = format!("{} rows of {subject} are dead ({share:.0} %)", table.dead_rows);
            let (why, next) = match report.held_back_by.as_str() {
                "" => (
                    format!(
                        "autovacuum does not keep up; VACUUM ANALYZE {subject} makes up for it"
                    ),
                    closer.clone(),
                ),
                who => (
                    format!("VACUUM would remove none: {who} may still see them"),
                    format!("postgres activity {name}"),
                ),
            };
            let finding = Finding::new(status, subject, summary).why(why).next(next);
            findings.push(dead_bounds.told(finding, share, "percent"));
        }
        let Some(wasted) = table.wasted_percent else { continue };
        let large = table.heap_bytes > request.wasted_bytes;
        if let Some(status) = wasted_bounds.above(wasted).filter(|_| large) {
            let mib = (table.heap_bytes as f64 * wasted / 100.0) as u64 >> 20;
            let method = &table.method;
            let summary = format!("{subject} wastes {mib} MiB ({wasted:.0} %, {method})");
            let finding = Finding::new(status, subject, summary)
                .why("the space is used again by new rows, and given back only by a rewrite")
                .next(&closer);
            findings.push(wasted_bounds.told(finding, wasted, "percent"));
        }
    }
    if let [first, others @ ..] = lost {
        let more = match others.len() {
            0 => String::new(),
            n => format!(" and of {n} more tables"),
        };
        let summary = format!("dead rows of {first}{more} are not known: their counters were lost");
        let why = format!(
            "since a crash, pg_stat_reset() or an upgrade the server counts from nothing, and autovacuum \
             goes by that; ANALYZE {first} makes up for it"
        );
        findings.push(Finding::new(Status::Unknown, first, summary).why(why).next(&closer));
    }
    let blind = report.tables.iter().filter(|t| {
        t.heap_bytes > MEASURABLE && t.wasted_percent.is_none() && !lost.contains(&t.table)
    });
    let (analyzed, fresh): (Vec<&TableBloat>, _) = blind.partition(|t| t.analyzed_s.is_some());
    if !analyzed.is_empty() {
        let summary = format!("the wasted space of {} tables cannot be estimated", analyzed.len());
        let why = "the agent's role may not read their columns' statistics (pg_read_all_data may); \
                   --exact needs only pgstattuple";
        let finding = Finding::new(Status::Unknown, "statistics", summary);
        findings.push(finding.why(why).next(&closer));
    }
    if let [first, ..] = fresh.as_slice() {
        let (table, n) = (&first.table, fresh.len());
        let summary =
            format!("the wasted space of {n} tables, as {table}, was not estimated so far");
        let why = format!(
            "they were not analyzed since they were made or their counters were lost; ANALYZE {table} \
             makes up for it"
        );
        findings.push(Finding::new(Status::Unknown, table, summary).why(why).next(closer));
    }
    let dead: u64 = report.tables.iter().map(|t| t.dead_rows).sum();
    let held = match report.held_back_by.as_str() {
        "" => String::new(),
        who => format!("; VACUUM is held back by {who}"),
    };
    let summary = format!("{dead} dead rows in {} tables{held}", report.tables.len());
    let answer = Answer::ok(summary, report);
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    fn table(dead: u64, wasted: Option<f64>) -> TableBloat {
        TableBloat {
            table: "public.t".into(),
            heap_bytes: 1 << 30,
            dead_rows: dead,
            live_rows: 100_000,
            vacuum_at: 20_000,
            wasted_percent: wasted,
            method: "estimate".into(),
            analyzed_s: Some(60.0),
            ..TableBloat::default()
        }
    }

    fn request() -> PostgresBloatRequest {
        completed::<PostgresBloat>(&PostgresBloatRequest::default()).expect("defaults")
    }

    fn judged(table: TableBloat, request: &PostgresBloatRequest) -> Answer<Report> {
        judge("main", Report { tables: vec![table], ..Report::default() }, &[], request)
    }

    #[test]
    fn every_bound_of_dead_rows_and_wasted_space_can_be_moved() {
        let bad = || table(30_000, Some(85.0));
        let found = judged(bad(), &request()).findings;
        assert_eq!((found.len(), found[0].warning, found[0].critical), (2, Some(10.0), None));
        assert_eq!((found[1].value, found[1].source.as_str()), (Some(85.0), ALERTS));
        let moved = [
            PostgresBloatRequest { dead_percent: 31, ..request() },
            PostgresBloatRequest { dead_rows: 30_000, ..request() },
            PostgresBloatRequest { wasted_percent: 86, ..request() },
            PostgresBloatRequest { wasted_bytes: 1 << 30, ..request() },
        ];
        assert_eq!(moved.map(|request| judged(bad(), &request).findings.len()), [1; 4]);
        let lower = PostgresBloatRequest { dead_percent: 5, ..request() };
        assert_eq!(judged(bad(), &lower).findings[0].source, "parameter");
    }

    #[test]
    fn dead_rows_count_when_autovacuum_should_have_taken_them_and_who_keeps_them_is_named() {
        let status = |t| judged(t, &request()).status;
        assert_eq!(
            status(table(15_000, Some(1.0))),
            Status::Ok,
            "autovacuum does not want them yet"
        );
        assert_eq!(status(table(30_000, None)), Status::Warning);
        assert_eq!(status(table(0, Some(85.0))), Status::Warning);
        let held = Report { tables: vec![table(30_000, None)], held_back_by: "pid 7".into() };
        let held = judge("main", held, &[], &request()).findings.remove(0);
        assert!(held.why.contains("pid 7 may still see them"));
        assert_eq!(held.next, "postgres activity main");
        let next = |exact| {
            let request = PostgresBloatRequest { exact, ..request() };
            judged(table(30_000, None), &request).findings.remove(0).next
        };
        assert_eq!(next(false), "postgres bloat main --exact");
        assert_eq!(next(true), "postgres indexes main");
    }

    #[test]
    fn what_was_not_counted_or_not_analyzed_is_unknown_with_what_makes_up_for_it() {
        let seen = |change: &dyn Fn(&mut TableBloat), lost: &[String]| {
            let mut table = table(0, None);
            change(&mut table);
            let report = Report { tables: vec![table], ..Report::default() };
            let answer = judge("main", report, lost, &request());
            let why = answer.findings.first().map_or(String::new(), |found| found.why.clone());
            (answer.status, answer.findings.len(), why)
        };
        let small = |t: &mut TableBloat| (t.heap_bytes, t.analyzed_s) = (8192, None);
        assert_eq!(seen(&small, &[]).0, Status::Ok, "a fresh or an empty one");
        let fresh = |t: &mut TableBloat| t.analyzed_s = None;
        let counted = |t: &mut TableBloat| (t.wasted_percent, t.analyzed_s) = (Some(1.0), None);
        assert_eq!(seen(&counted, &[]).0, Status::Ok);
        for (change, lost) in
            [(&fresh as &dyn Fn(&mut TableBloat), false), (&fresh, true), (&counted, true)]
        {
            let lost: Vec<String> = lost.then(|| "public.t".to_owned()).into_iter().collect();
            let (status, findings, why) = seen(change, &lost);
            assert_eq!((status, findings), (Status::Unknown, 1), "{lost:?}");
            assert!(why.contains("ANALYZE public.t makes up for it"), "{why}");
        }
        let (status, _, why) = seen(&|_| {}, &[]);
        assert!(status == Status::Unknown && why.contains("pg_read_all_data"), "{why}");
    }

    #[test]
    fn a_schema_of_any_name_is_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
