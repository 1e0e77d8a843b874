//! `postgres.sizes`: where the space of a server went.

use std::{collections::BTreeMap, time::Duration};

use hostler_proto::{
    operation::{Operation, PostgresSizes},
    ops::{DatabaseSize, PostgresSizes as Report, PostgresSizesRequest, TableSize},
    wire::{Failure, Finding, Status},
};

use super::{done, entry, locked::Locked, unseen};
use crate::{
    amount,
    host::{
        blocking,
        past::{Look, Past},
        postgres::{Session, Trouble, count, counted, flag, text},
    },
    operation::{Answer, Context, Probe},
};

/// Looks that are compared with are so far apart at least: what grew in a minute says nothing.
const APART: Duration = Duration::from_secs(1800);
/// Tables whose size is kept for comparison, however few are asked for.
const COMPARED: u32 = 200;
/// Of a database that the role may not connect to the size cannot be asked.
const DATABASES: &str = "SELECT d.datname::text AS datname, d.seen, \
    CASE WHEN d.seen THEN pg_catalog.pg_database_size(d.oid) END::int8 AS bytes \
    FROM (SELECT oid, datname, pg_catalog.has_database_privilege(oid, 'CONNECT') \
    OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') AS seen \
    FROM pg_catalog.pg_database WHERE datallowconn OR NOT datistemplate) d \
    ORDER BY bytes DESC NULLS LAST, datname";
/// Names of databases that are told.
const SHOWN: usize = 5;
/// By oid: a name that needs quotes would be an error otherwise.
const TABLES: &str = "SELECT n.nspname || '.' || c.relname AS name, \
    pg_catalog.pg_total_relation_size(c.oid)::int8 AS total, \
    pg_catalog.pg_relation_size(c.oid)::int8 AS heap, \
    pg_catalog.pg_indexes_size(c.oid)::int8 AS indexes, \
    coalesce(pg_catalog.pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)::int8 AS toast, \
    CASE WHEN c.reltuples >= 0 THEN c.reltuples END::int8 AS live FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_(toast|temp)' \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND OTHERS \
    ORDER BY total DESC LIMIT $1";

impl Probe for PostgresSizes {
    async fn observe(
        request: PostgresSizesRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.sizes").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unseen(entry, &trouble)),
        };
        let (mut report, findings) = match look(&mut session, &entry.name, request.top).await {
            Ok(seen) => seen,
            Err(trouble) => return Ok(done(unseen(entry, &trouble), session).await),
        };
        let now_us = cx.host.clock.now().as_microsecond();
        let past = Past::of(&cx.host.policy.state_dir, Self::NAME, &entry.name, APART);
        let look = Look { at_us: now_us, sizes: sizes(&report) };
        let before = blocking(move || Ok(past.look(look))).await?;
        let since_us = now_us.saturating_sub_unsigned(request.since_s.saturating_mul(1_000_000));
        let then = before.iter().rev().find(|look| look.at_us <= since_us).or(before.first());
        then.into_iter().for_each(|then| compare(&mut report, then));
        let top = usize::try_from(request.top).unwrap_or(usize::MAX);
        report.tables.truncate(top);
        let total: u64 = report.databases.iter().map(|d| d.bytes).sum();
        let largest = report.tables.first().map_or(String::new(), |t| {
            format!("; the largest table is {} with {}", t.table, amount::size(t.total_bytes))
        });
        let grown = grown(&report, now_us).unwrap_or_default();
        let count = report.databases.len();
        let summary = format!("{count} databases, {}{largest}{grown}", amount::size(total));
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
        let figures: Vec<_> =
            report.databases.iter().map(|d| (d.name.clone(), d.bytes as f64)).collect();
        let mut answer = Answer::ok(summary, report);
        for (name, bytes) in figures {
            answer = answer.figure("size", &name, bytes, "bytes");
        }
        let answer = findings.into_iter().fold(answer, Answer::finding);
        Ok(done(answer, session).await)
    }
}

/// What there is, and what is said of the rest.
async fn look(
    session: &mut Session,
    name: &str,
    top: u32,
) -> Result<(Report, Vec<Finding>), Trouble> {
    let databases = session.rows(DATABASES).await?;
    let locked = Locked::look(session).await?;
    let tables = TABLES.replace("OTHERS", &locked.others("c.oid"));
    let tables = session.rows_with(&tables, top.max(COMPARED).into()).await?;
    let (seen, unseen): (Vec<_>, Vec<_>) = databases.iter().partition(|row| flag(row, "seen"));
    let names: Vec<String> = unseen.into_iter().map(|row| text(row, "datname")).collect();
    let databases = seen.iter().map(|row| DatabaseSize {
        name: text(row, "datname"),
        bytes: count(row, "bytes"),
        grown_bytes: None,
    });
    let tables = tables.iter().map(|row| TableSize {
        table: text(row, "name"),
        total_bytes: count(row, "total"),
        heap_bytes: count(row, "heap"),
        index_bytes: count(row, "indexes"),
        toast_bytes: count(row, "toast"),
        rows: counted(row, "live"),
        grown_bytes: None,
    });
    let report = Report { databases: databases.collect(), tables: tables.collect(), since_s: None };
    Ok((report, [hidden(name, &names), locked.finding(name)].into_iter().flatten().collect()))
}

/// What is kept for comparison. A table's name has a dot, and a database's gets none in front of it.
fn sizes(report: &Report) -> BTreeMap<String, u64> {
    let databases = report.databases.iter().map(|d| (database(d), d.bytes));
    let most = usize::try_from(COMPARED).unwrap_or(usize::MAX);
    let tables = report.tables.iter().take(most).map(|t| (t.table.clone(), t.total_bytes));
    databases.chain(tables).collect()
}

fn database(of: &DatabaseSize) -> String {
    format!("/{}", of.name)
}

/// Tells what grew since a look.
fn compare(report: &mut Report, then: &Look) {
    let grown = |name: &str, now: u64| {
        then.sizes.get(name).map(|then| now.cast_signed() - then.cast_signed())
    };
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let since_s = then.at_us as f64 / 1e6;
    report.since_s = Some(since_s);
    for of in &mut report.databases {
        of.grown_bytes = grown(&database(of), of.bytes);
    }
    for table in &mut report.tables {
        table.grown_bytes = grown(&table.table, table.total_bytes);
    }
}

/// The table that grew most, when one did.
fn grown(report: &Report, now_us: i64) -> Option<String> {
    let grew = |t: &TableSize| u64::try_from(t.grown_bytes?).ok();
    let most = report.tables.iter().max_by_key(|table| grew(table))?;
    let by = grew(most).filter(|by| *by > 0)?;
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let within = now_us as f64 / 1e6 - report.since_s?;
    let (by, within) = (amount::size(by), amount::span(within));
    Some(format!("; {} grew most, by {by} in {within}", most.table))
}

/// What is said of databases that are not seen: one of them may be the one that grows.
fn hidden(server: &str, hidden: &[String]) -> Option<Finding> {
    let shown = hidden[..hidden.len().min(SHOWN)].join(", ");
    let more = if hidden.len() > SHOWN { ", ..." } else { "" };
    let summary = format!("the size of {} databases is not seen: {shown}{more}", hidden.len());
    let finding = Finding::new(Status::Unknown, "databases", summary)
        .why("the agent's role may not connect to them, and lacks pg_monitor: GRANT pg_monitor TO it")
        .next(format!("postgres sizes {server}"));
    (!hidden.is_empty()).then_some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_are_not_seen_are_named() {
        assert_eq!(hidden("main", &[]), None);
        let finding = hidden("main", &["app".to_owned(), "shop".to_owned()]).expect("a finding");
        assert_eq!(finding.status(), Status::Unknown);
        assert_eq!(finding.next, "postgres sizes main");
        assert_eq!(finding.summary, "the size of 2 databases is not seen: app, shop");
    }

    #[test]
    fn what_grew_is_told_with_since_when_and_what_is_new_grew_by_nothing_known() {
        let table = |name: &str, total_bytes| TableSize {
            table: name.into(),
            total_bytes,
            ..TableSize::default()
        };
        let app = DatabaseSize { name: "app".into(), bytes: 90 << 20, grown_bytes: None };
        let mut report = Report {
            databases: vec![app],
            tables: vec![table("public.a", 50 << 20), table("public.b", 9), table("public.new", 1)],
            since_s: None,
        };
        let then = Look {
            at_us: 1_000_000,
            sizes: [("/app", 80 << 20), ("public.a", 30 << 20), ("public.b", 10), ("app", 1)]
                .map(|(name, size)| (name.to_owned(), size))
                .into(),
        };
        let kept = sizes(&report);
        assert_eq!((kept.len(), kept["/app"], kept["public.b"]), (4, 90 << 20, 9));
        compare(&mut report, &then);
        assert_eq!(report.databases[0].grown_bytes, Some(10 << 20));
        let grew: Vec<_> = report.tables.iter().map(|t| t.grown_bytes).collect();
        assert_eq!(grew, [Some(20 << 20), Some(-1), None]);
        let told = grown(&report, 7_201_000_000).expect("one grew");
        assert_eq!(told, "; public.a grew most, by 20 MiB in 2 h");
        report.tables.remove(0);
        assert_eq!(grown(&report, 7_201_000_000), None);
    }
}
