//! `postgres.indexes`: indexes that only cost, and tables that could use one. Candidates, no orders:
//! a standby may use what the primary does not.

use hostler_proto::{
    operation::{Operation, PostgresIndexes},
    ops::{IndexRecord, PostgresIndexes as Report, PostgresIndexesRequest, TableScans},
    wire::{Failure, Finding, Status},
};

use super::{done, entry, locked::Locked, unseen};
use crate::{
    amount::{DAY_S, size},
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, count, number, text},
    operation::{Answer, Context, Probe},
};

/// Scans up to which an index counts as unused, where the request does not say.
const SCANS: u64 = 50;
/// Tables that are read whole and told one by one as findings.
const TOLD: usize = 5;
/// Indexes below this are not worth a word.
const SMALL: i64 = 1 << 20;
/// Since when the counters count: their reset, or the start of the server that crashed.
const SINCE: &str = "SELECT extract(epoch FROM clock_timestamp() - coalesce(stats_reset, \
    pg_catalog.pg_postmaster_start_time()))::float8 AS seconds \
    FROM pg_catalog.pg_stat_database WHERE datname = current_database()";
/// None that a constraint stands on, or replication identifies rows by; no index of a partition,
/// which goes with its parent's.
const UNUSED: &str = "SELECT s.schemaname || '.' || s.indexrelname AS index, \
    s.schemaname || '.' || s.relname AS name, \
    pg_catalog.pg_relation_size(s.indexrelid)::int8 AS bytes, s.idx_scan::int8 AS scans \
    FROM pg_catalog.pg_stat_user_indexes s JOIN pg_catalog.pg_index i USING (indexrelid) \
    JOIN pg_catalog.pg_class c ON c.oid = s.indexrelid \
    WHERE s.idx_scan <= $1 AND NOT i.indisunique AND NOT i.indisexclusion AND NOT i.indisreplident \
    AND i.indisvalid AND NOT c.relispartition \
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conindid = s.indexrelid) \
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' \
    AND f.conrelid = i.indrelid AND f.conkey[1] = i.indkey[0]) \
    AND CASE WHEN OTHERS THEN pg_catalog.pg_relation_size(s.indexrelid) END >= SMALL ORDER BY 3 DESC, 1 LIMIT 100";
/// The same table, method, classes, predicate and expressions, and columns that the other begins
/// with; a unique one is never the one that goes.
const DUPLICATE: &str = "SELECT n.nspname || '.' || c.relname AS index, \
    n.nspname || '.' || t.relname AS name, \
    pg_catalog.pg_relation_size(c.oid)::int8 AS bytes, \
    coalesce(s.idx_scan, 0)::int8 AS scans, n.nspname || '.' || c2.relname AS covered \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_index j ON j.indrelid = i.indrelid AND j.indexrelid <> i.indexrelid \
    JOIN pg_catalog.pg_class c2 ON c2.oid = j.indexrelid AND c2.relam = c.relam \
    LEFT JOIN pg_catalog.pg_stat_user_indexes s ON s.indexrelid = c.oid \
    WHERE OTHERS AND NOT i.indisunique AND i.indisvalid AND j.indisvalid AND NOT c.relispartition \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
    AND i.indexprs IS NULL AND j.indexprs IS NULL \
    AND i.indpred IS NOT DISTINCT FROM j.indpred \
    AND (j.indkey::text || ' ') LIKE (i.indkey::text || ' %') \
    AND (j.indclass::text || ' ') LIKE (i.indclass::text || ' %') \
    AND (j.indcollation::text || ' ') LIKE (i.indcollation::text || ' %') \
    AND (j.indoption::text || ' ') LIKE (i.indoption::text || ' %') \
    AND (j.indkey <> i.indkey OR j.indisunique OR j.indexrelid < i.indexrelid) \
    ORDER BY 3 DESC, 1 LIMIT 100";
/// Not those that are being built at this moment.
const INVALID: &str = "SELECT n.nspname || '.' || c.relname AS index, \
    n.nspname || '.' || t.relname AS name, pg_catalog.pg_relation_size(c.oid)::int8 AS bytes \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE OTHERS AND NOT i.indisvalid AND c.relkind = 'i' AND NOT EXISTS (SELECT 1 \
    FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) \
    ORDER BY 3 DESC, 1 LIMIT 100";
/// Large, read often, and mostly whole (PgHero: less than 95 % through indexes, 10,000 rows).
const UNINDEXED: &str = "SELECT schemaname || '.' || relname AS name, \
    pg_catalog.pg_relation_size(relid)::int8 AS bytes, n_live_tup::int8 AS live, \
    seq_scan::int8 AS whole, coalesce(idx_scan, 0)::int8 AS through \
    FROM pg_catalog.pg_stat_user_tables WHERE n_live_tup >= 10000 AND seq_scan >= 100 \
    AND CASE WHEN OTHERS THEN pg_catalog.pg_relation_size(relid) END >= 10 * 1024 * 1024 \
    AND coalesce(idx_scan, 0) < 0.95 * (seq_scan + coalesce(idx_scan, 0)) \
    ORDER BY seq_tup_read DESC LIMIT 100";

impl Probe for PostgresIndexes {
    async fn observe(
        request: PostgresIndexesRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.indexes").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unseen(entry, &trouble)),
        };
        let answer = ask(&mut session, &entry.name, &request).await;
        Ok(done(answer.unwrap_or_else(|trouble| unseen(entry, &trouble)), session).await)
    }
}

async fn ask(
    session: &mut Session,
    name: &str,
    request: &PostgresIndexesRequest,
) -> Result<Answer<Report>, Trouble> {
    let locked = Locked::look(session).await?;
    let report = look(session, &locked, request).await?;
    let answer = judge(name, &report, request);
    let answer = locked.finding(name).into_iter().fold(answer, Answer::finding);
    Ok(Answer { data: report, ..answer })
}

async fn look(
    session: &mut Session,
    locked: &Locked,
    request: &PostgresIndexesRequest,
) -> Result<Report, Trouble> {
    let since = session.row(SINCE).await?;
    let scans = i64::try_from(request.scans.unwrap_or(SCANS)).unwrap_or(i64::MAX);
    let others = |sql: &str, table: &str| sql.replace("OTHERS", &locked.others(table));
    let unused = others(UNUSED, "s.relid").replace("SMALL", &SMALL.to_string());
    let unused = session.rows_with(&unused, scans).await?;
    let duplicate = session.rows(&others(DUPLICATE, "i.indrelid")).await?;
    let invalid = session.rows(&others(INVALID, "i.indrelid")).await?;
    let unindexed = session.rows(&others(UNINDEXED, "relid")).await?;
    let index = |row: &sqlx::postgres::PgRow| IndexRecord {
        index: text(row, "index"),
        table: text(row, "name"),
        bytes: count(row, "bytes"),
        scans: count(row, "scans"),
        covered_by: text(row, "covered"),
    };
    let table = |row: &sqlx::postgres::PgRow| TableScans {
        table: text(row, "name"),
        bytes: count(row, "bytes"),
        rows: count(row, "live"),
        whole_reads: count(row, "whole"),
        index_reads: count(row, "through"),
    };
    Ok(Report {
        unused: unused.iter().map(index).collect(),
        duplicate: duplicate.iter().map(index).collect(),
        invalid: invalid.iter().map(index).collect(),
        unindexed: unindexed.iter().map(table).collect(),
        statistics_s: number(&since, "seconds").unwrap_or(0.0),
    })
}

#[expect(clippy::cast_precision_loss, reason = "space, and numbers of reads")]
fn judge(name: &str, report: &Report, request: &PostgresIndexesRequest) -> Answer<Report> {
    let mut findings = Vec::new();
    let bound = |parameter, value: u64| {
        let bound = Bound::of(<PostgresIndexes as Operation>::NAME, parameter, value as f64);
        Bounds::warning(bound, "")
    };
    let wasted = bound("wasted-bytes", request.wasted_bytes);
    let days = report.statistics_s / DAY_S;
    let young = days < f64::from(request.days);
    let mut useless = |subject: &str, indexes: &[IndexRecord], what: &str, why: &str| {
        let bytes: u64 = indexes.iter().map(|index| index.bytes).sum();
        let (Some(largest), Some(status)) = (indexes.first(), wasted.above(bytes as f64)) else {
            return;
        };
        let summary = format!(
            "{} indexes {what}, and take {}; the largest is {}",
            indexes.len(),
            size(bytes),
            largest.index
        );
        let finding = Finding::new(status, subject, summary).why(why);
        let finding = finding.next(format!("postgres indexes {name}"));
        findings.push(wasted.told(finding, bytes as f64, "bytes"));
    };
    let why = "every write keeps them up to date; DROP INDEX CONCURRENTLY takes one away, after a look \
               whether a standby uses it";
    // Of few days nobody can tell; that is said below.
    if !young {
        useless("unused", &report.unused, "are hardly used", why);
    }
    let why = "every write keeps both up to date; DROP INDEX CONCURRENTLY takes the one away";
    useless("duplicate", &report.duplicate, "do what another one does, too", why);
    let often = bound("whole-reads", request.whole_reads);
    for table in &report.unindexed {
        // Within the first day a rate would come from too little.
        let a_day = table.whole_reads as f64 / days.max(1.0);
        let Some(status) = often.above(a_day) else { continue };
        let summary = format!(
            "{} ({}) is read whole {a_day:.0} times a day, and through an index {:.0} times",
            table.table,
            size(table.bytes),
            table.index_reads as f64 / days.max(1.0)
        );
        let finding = Finding::new(status, &table.table, summary)
            .why(
                "an index on what its statements look for would spare most of it; a table that is \
                  read whole on purpose needs none",
            )
            .next(format!("postgres slow-queries {name}"));
        findings.push(often.told(finding, a_day, "reads/d"));
        if findings.len() > TOLD {
            break;
        }
    }
    for index in &report.invalid {
        let summary = format!("{} is invalid: its building was not finished", index.index);
        let why = format!(
            "every write keeps it up to date, and no query uses it: REINDEX INDEX CONCURRENTLY {} \
             makes it anew, DROP INDEX takes it away",
            index.index
        );
        let finding = Finding::new(Status::Warning, &index.index, summary).why(why);
        findings.push(finding.next(format!("postgres locks {name}")));
    }
    if young {
        let wanted = request.days;
        let summary = format!("the statistics cover {days:.1} days, fewer than {wanted}");
        let finding = Finding::new(Status::Unknown, "statistics", summary).why(
            "an index that is needed once a month would seem unused: ask again later, or for fewer days",
        );
        findings.push(
            finding.next(format!("postgres indexes {name} --days {}", days.floor().max(1.0))),
        );
    }
    let wasted: u64 = report.unused.iter().chain(&report.duplicate).map(|i| i.bytes).sum();
    let summary = format!(
        "{} unused, {} duplicate, {} invalid indexes ({} MiB); {} tables are read whole",
        report.unused.len(),
        report.duplicate.len(),
        report.invalid.len(),
        wasted >> 20,
        report.unindexed.len()
    );
    let answer = Answer::ok(summary, Report::default());
    findings.into_iter().fold(answer, Answer::finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    #[test]
    fn statistics_that_are_too_young_make_the_answer_unknown_and_not_well() {
        let request = PostgresIndexesRequest { days: 30, ..PostgresIndexesRequest::default() };
        let young = Report { statistics_s: 2.0 * DAY_S, ..Report::default() };
        assert_eq!(judge("main", &young, &request).status, Status::Unknown);
        let old = Report { statistics_s: 40.0 * DAY_S, ..Report::default() };
        assert_eq!(judge("main", &old, &request).status, Status::Ok);
        let invalid = Report { invalid: vec![IndexRecord::default()], ..old };
        assert_eq!(judge("main", &invalid, &request).status, Status::Warning);
    }

    #[test]
    fn what_wastes_much_space_or_is_read_whole_often_is_a_warning_and_little_is_none() {
        let request = completed::<PostgresIndexes>(&PostgresIndexesRequest::default());
        let request = request.expect("defaults");
        let index = |bytes| IndexRecord { index: "public.i".into(), bytes, ..Default::default() };
        let table = |whole_reads| TableScans {
            table: "public.t".into(),
            whole_reads,
            bytes: 1 << 30,
            ..Default::default()
        };
        let old = || Report { statistics_s: 40.0 * DAY_S, ..Report::default() };
        let found = |report: &Report, request: &PostgresIndexesRequest| {
            let found = judge("main", report, request).findings;
            let told = |f: Finding| (f.subject.clone(), f.status(), f.value, f.unit.clone());
            found.into_iter().map(told).collect::<Vec<_>>()
        };
        let much = Report { unused: vec![index(60 << 20), index(60 << 20)], ..old() };
        let bytes = f64::from(120 << 20);
        let told = ("unused".to_owned(), Status::Warning, Some(bytes), "bytes".to_owned());
        assert_eq!(found(&much, &request), [told]);
        let young = Report { statistics_s: 3.0 * DAY_S, ..much.clone() };
        assert_eq!(found(&young, &request)[0].0, "statistics", "nobody can tell yet");
        let patient = PostgresIndexesRequest { wasted_bytes: 1 << 30, ..request.clone() };
        assert_eq!(found(&much, &patient), []);
        let twice = Report { duplicate: vec![index(200 << 20)], ..young };
        assert_eq!(found(&twice, &request)[0].0, "duplicate", "that is known at once");
        let often = Report { unindexed: vec![table(4000), table(3999)], ..old() };
        let told = ("public.t".to_owned(), Status::Warning, Some(100.0), "reads/d".to_owned());
        assert_eq!(found(&often, &request), [told]);
        let first = judge("main", &often, &request).findings.remove(0);
        assert_eq!(
            (first.next.as_str(), first.source.as_str()),
            ("postgres slow-queries main", "default")
        );
    }
}
