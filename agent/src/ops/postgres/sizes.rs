//! `postgres.sizes`: where the space of a server went.

use hostler_proto::{
    operation::PostgresSizes,
    ops::{DatabaseSize, PostgresSizes as Report, PostgresSizesRequest, TableSize},
    wire::{Failure, Finding, Status},
};

use super::{entry, evidence, locked::Locked};
use crate::{
    host::postgres::{Session, count, flag, text},
    operation::{Answer, Context, Probe},
};

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
    greatest(c.reltuples, 0)::int8 AS live FROM pg_catalog.pg_class c \
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
        let failed = |t: crate::host::postgres::Trouble| t.failure(&entry.name);
        let mut session = Session::open(entry, "postgres.sizes").await.map_err(failed)?;
        let databases = session.rows(DATABASES).await.map_err(failed)?;
        let locked = Locked::look(&mut session).await.map_err(failed)?;
        let tables = TABLES.replace("OTHERS", &locked.others("c.oid"));
        let tables = session.rows_with(&tables, request.top.into()).await.map_err(failed)?;
        let (seen, hidden): (Vec<_>, Vec<_>) = databases.iter().partition(|row| flag(row, "seen"));
        let hidden: Vec<String> = hidden.into_iter().map(|row| text(row, "datname")).collect();
        let databases = seen
            .iter()
            .map(|row| DatabaseSize { name: text(row, "datname"), bytes: count(row, "bytes") });
        let tables = tables.iter().map(|row| TableSize {
            table: text(row, "name"),
            total_bytes: count(row, "total"),
            heap_bytes: count(row, "heap"),
            index_bytes: count(row, "indexes"),
            toast_bytes: count(row, "toast"),
            rows: count(row, "live"),
        });
        let report = Report { databases: databases.collect(), tables: tables.collect() };
        let total: u64 = report.databases.iter().map(|d| d.bytes).sum();
        let largest = report.tables.first().map_or(String::new(), |t| {
            format!("; the largest table is {} with {} MiB", t.table, t.total_bytes >> 20)
        });
        let summary = format!("{} databases, {} MiB{largest}", report.databases.len(), total >> 20);
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
        let figures: Vec<_> =
            report.databases.iter().map(|d| (d.name.clone(), d.bytes as f64)).collect();
        let mut answer = evidence(Answer::ok(summary, report), &session);
        for (name, bytes) in figures {
            answer = answer.figure("size", &name, bytes, "bytes");
        }
        session.close().await;
        let findings = [unseen(&entry.name, &hidden), locked.finding(&entry.name)];
        Ok(findings.into_iter().flatten().fold(answer, Answer::finding))
    }
}

/// What is said of databases that are not seen: one of them may be the one that grows.
fn unseen(server: &str, hidden: &[String]) -> Option<Finding> {
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
        assert_eq!(unseen("main", &[]), None);
        let finding = unseen("main", &["app".to_owned(), "shop".to_owned()]).expect("a finding");
        assert_eq!(finding.status(), Status::Unknown);
        assert_eq!(finding.next, "postgres sizes main");
        assert_eq!(finding.summary, "the size of 2 databases is not seen: app, shop");
    }
}
