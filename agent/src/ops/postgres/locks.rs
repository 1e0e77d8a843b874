//! `postgres.locks`: who waits for whose lock, from the root down. `pg_locks` alone shows those that
//! suffer, never the one that holds them up.

use std::collections::{BTreeMap, BTreeSet};

use hostler_proto::{
    operation::{Operation, PostgresLocks},
    ops::{LockNode, PostgresLocks as Report, PostgresLocksRequest},
    wire::{Failure, Finding},
};

use sqlx::postgres::PgRow;

use super::{done, entry, partial, statement::shown, unusable};
use crate::{
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, integer, number, pids, text},
    operation::{Answer, Context, Probe},
};

/// Those that wait for a lock, and whom for. `waitstart` came with version 14.
const WAITING: &str = "SELECT a.pid::int8 AS pid, pg_catalog.pg_blocking_pids(a.pid) AS blocked_by, \
    extract(epoch FROM clock_timestamp() - coalesce(WAITSTART, a.query_start))::float8 AS waited, \
    coalesce(l.mode || coalesce(' on ' || n.nspname || '.' || c.relname, ' on ' || l.locktype), '') \
    AS wants FROM pg_catalog.pg_stat_activity a \
    LEFT JOIN pg_catalog.pg_locks l ON l.pid = a.pid AND NOT l.granted \
    LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation \
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE a.wait_event_type = 'Lock'";
const SESSIONS: &str = "SELECT pid::int8 AS pid, coalesce(state, '') AS state, \
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction, \
    coalesce(usename, '')::text AS usename, coalesce(application_name, '') AS application, \
    coalesce(query, '') AS query FROM pg_catalog.pg_stat_activity";

/// The prepared transactions that have a lock for which a session waits, the oldest first. Who waits
/// for one is told that it waits for process 0; its locks are known by that on its own number.
const PREPARED: &str = "SELECT p.gid, p.owner::text AS owner, \
    extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS age \
    FROM pg_catalog.pg_prepared_xacts p WHERE EXISTS (SELECT FROM pg_catalog.pg_locks own \
    JOIN pg_catalog.pg_locks h ON h.virtualtransaction = own.virtualtransaction \
    JOIN pg_catalog.pg_locks w ON (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid, \
    w.transactionid::text, w.classid, w.objid, w.objsubid) IS NOT DISTINCT FROM (h.locktype, h.database, \
    h.relation, h.page, h.tuple, h.virtualxid, h.transactionid::text, h.classid, h.objid, h.objsubid) \
    WHERE own.locktype = 'transactionid' AND own.transactionid = p.transaction AND own.pid IS NULL \
    AND h.granted AND h.pid IS NULL AND NOT w.granted) ORDER BY p.prepared";

impl Probe for PostgresLocks {
    async fn observe(
        request: PostgresLocksRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut session = match Session::open(entry, "postgres.locks").await {
            Ok(session) => session,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let answer = match look(&mut session, &request.text).await {
            Ok(report) => {
                let answer = judge(&entry.name, report, request.wait_s, request.critical_s);
                partial(answer, &session)
            }
            Err(trouble) => unusable(entry, &trouble),
        };
        Ok(done(answer, session).await)
    }
}

async fn look(session: &mut Session, words: &str) -> Result<Report, Trouble> {
    let waits = waits(session).await?;
    let mut report = Report { visibility: session.visibility().to_owned(), ..Report::default() };
    if waits.is_empty() {
        return Ok(report);
    }
    report.waiting = u32::try_from(waits.len()).unwrap_or(u32::MAX);
    let sessions = session.rows(SESSIONS).await?;
    report.sessions = tree(&waits);
    if let Some(orphan) = report.sessions.iter_mut().find(|node| node.pid == 0) {
        let held = session.rows(PREPARED).await?;
        prepared(orphan, held.first(), held.len());
    }
    for node in &mut report.sessions {
        let row = sessions.iter().find(|r| integer(r, "pid") == i64::from(node.pid));
        let Some(row) = row else { continue };
        node.state = text(row, "state");
        node.user = text(row, "usename");
        node.application = text(row, "application");
        node.statement = shown(&text(row, "query"), words);
    }
    Ok(report)
}

/// What is known of a transaction that no session holds.
fn prepared(node: &mut LockNode, row: Option<&PgRow>, all: usize) {
    node.state = "prepared".to_owned();
    let Some(row) = row else { return };
    node.user = text(row, "owner");
    node.application = text(row, "gid");
    node.open_s = number(row, "age");
    node.more = u32::try_from(all.saturating_sub(1)).unwrap_or(u32::MAX);
}

/// A session that waits.
#[derive(Debug, Clone, Default)]
struct Wait {
    blocked_by: Vec<u32>,
    waited_s: f64,
    wants: String,
}

async fn waits(session: &mut Session) -> Result<BTreeMap<u32, Wait>, Trouble> {
    let since = if session.version >= 140_000 { "l.waitstart" } else { "NULL" };
    let rows = session.rows(&WAITING.replace("WAITSTART", since)).await?;
    let wait = |row| {
        // Parallel workers are told under their leader's number, more than once.
        let blocked_by: BTreeSet<u32> = pids(row, "blocked_by").into_iter().collect();
        let wait = Wait {
            blocked_by: blocked_by.into_iter().collect(),
            waited_s: number(row, "waited").unwrap_or(0.0),
            wants: text(row, "wants"),
        };
        (u32::try_from(integer(row, "pid")).unwrap_or(0), wait)
    };
    Ok(rows.iter().map(wait).filter(|(_, wait)| !wait.blocked_by.is_empty()).collect())
}

/// Every tree of those that wait, each session once, below one that it waits for. Of sessions
/// that wait for each other (a deadlock that is not broken yet) the first is taken for a root.
fn tree(waits: &BTreeMap<u32, Wait>) -> Vec<LockNode> {
    let roots: BTreeSet<u32> = waits
        .values()
        .flat_map(|wait| &wait.blocked_by)
        .filter(|pid| !waits.contains_key(pid))
        .copied()
        .collect();
    let mut nodes = Vec::new();
    let mut seen = BTreeSet::new();
    for root in roots.into_iter().chain(waits.keys().copied()) {
        if seen.insert(root) {
            let at = nodes.len();
            nodes.push(LockNode { pid: root, ..LockNode::default() });
            let held_up = descend(root, 1, waits, &mut seen, &mut nodes);
            nodes[at].holds_up = held_up;
        }
    }
    nodes
}

fn descend(
    parent: u32,
    depth: u32,
    waits: &BTreeMap<u32, Wait>,
    seen: &mut BTreeSet<u32>,
    nodes: &mut Vec<LockNode>,
) -> u32 {
    let mut count = 0;
    for (pid, wait) in waits.iter().filter(|(_, w)| w.blocked_by.contains(&parent)) {
        if !seen.insert(*pid) {
            continue;
        }
        let at = nodes.len();
        nodes.push(LockNode {
            depth,
            pid: *pid,
            waits_for: parent,
            waited_s: wait.waited_s,
            wants: wait.wants.clone(),
            ..LockNode::default()
        });
        let below = descend(*pid, depth + 1, waits, seen, nodes);
        nodes[at].holds_up = below;
        count += 1 + below;
    }
    count
}

fn judge(name: &str, report: Report, wait_s: u32, critical_s: Option<u32>) -> Answer<Report> {
    let longest = report.sessions.iter().map(|s| s.waited_s).fold(0.0, f64::max);
    let operation = <PostgresLocks as Operation>::NAME;
    let warning = Bound::of(operation, "wait-s", wait_s.into());
    let critical = warning.times(2.0).unless(operation, "critical-s", critical_s);
    let bounds = Bounds::new(warning, critical, "check_postgres (1 min, 2 min)");
    let mut findings = Vec::new();
    // Each root comes before those of its own tree.
    for tree in report.sessions.chunk_by(|_, next| next.depth > 0) {
        let waited = tree.iter().map(|s| s.waited_s).fold(0.0, f64::max);
        let (Some(root), Some(status)) = (tree.first(), bounds.above(waited)) else { continue };
        let idles = match root.state.as_str() {
            "active" => String::new(),
            state => format!(", {state}"),
        };
        let who = if root.application.is_empty() { &root.user } else { &root.application };
        let (pid, held) = (root.pid, root.holds_up);
        let (subject, summary, why) = match pid {
            0 => orphan(root),
            _ => (
                pid.to_string(),
                format!("pid {pid} of {who}{idles} holds up {held} sessions"),
                "they wait until its transaction ends".to_owned(),
            ),
        };
        let finding = Finding::new(status, subject, summary)
            .why(why)
            .next(format!("postgres activity {name}"));
        findings.push(bounds.told(finding, waited, "s"));
    }
    let summary = match report.waiting {
        0 => "nobody waits for a lock".to_owned(),
        n => format!("{n} sessions wait for locks, the longest for {longest:.0} s"),
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of sessions")]
    let waiting = report.waiting as f32;
    let answer = Answer::ok(summary, report).figure("waiting", "", waiting.into(), "");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

/// Subject, summary and why of a prepared transaction that holds up others.
fn orphan(root: &LockNode) -> (String, String, String) {
    let (gid, owner, held) = (&root.application, &root.user, root.holds_up);
    if gid.is_empty() {
        let summary = format!("a prepared transaction holds up {held} sessions");
        return ("prepared".into(), summary, "pg_prepared_xacts names it".into());
    }
    let age = root.open_s.unwrap_or(0.0) / 60.0;
    let more = match root.more {
        0 => String::new(),
        more => format!(", with {more} more"),
    };
    let summary = format!(
        "prepared transaction \"{gid}\" of {owner}, {age:.0} min old{more}, holds up {held} sessions"
    );
    let why = format!(
        "no session has it: it keeps its locks, through restarts too, until its coordinator or \
         somebody says COMMIT PREPARED or ROLLBACK PREPARED '{}'",
        gid.replace('\'', "''")
    );
    (gid.clone(), summary, why)
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;
    use proptest::prelude::*;

    use super::*;

    fn waits(pairs: &[(u32, &[u32])]) -> BTreeMap<u32, Wait> {
        let wait =
            |(pid, by): &(u32, &[u32])| (*pid, Wait { blocked_by: by.to_vec(), ..Wait::default() });
        pairs.iter().map(wait).collect()
    }

    fn shape(nodes: &[LockNode]) -> Vec<(u32, u32, u32)> {
        nodes.iter().map(|n| (n.depth, n.pid, n.holds_up)).collect()
    }

    #[test]
    fn the_root_comes_first_with_how_many_it_holds_up() {
        let nodes = tree(&waits(&[(2, &[1]), (3, &[2]), (4, &[2, 1])]));
        assert_eq!(shape(&nodes), [(0, 1, 3), (1, 2, 2), (2, 3, 0), (2, 4, 0)]);
    }

    #[test]
    fn a_transaction_that_no_session_holds_is_named_by_its_own_name() {
        let root = LockNode {
            holds_up: 1,
            state: "prepared".into(),
            user: "app".into(),
            application: "it's".into(),
            open_s: Some(7200.0),
            ..LockNode::default()
        };
        let waiting = LockNode { depth: 1, pid: 9, waited_s: 500.0, ..LockNode::default() };
        let report = Report { sessions: vec![root, waiting], waiting: 1, ..Report::default() };
        let answer = judge("main", report, 60, None);
        let said = "prepared transaction \"it's\" of app, 120 min old, holds up 1 sessions";
        assert_eq!(answer.findings[0].summary, said);
        assert!(answer.findings[0].why.ends_with("ROLLBACK PREPARED 'it''s'"));
    }

    #[test]
    fn each_root_is_as_bad_as_the_longest_wait_for_itself() {
        let node = |depth, pid, waited_s| LockNode { depth, pid, waited_s, ..LockNode::default() };
        let sessions = vec![
            node(0, 1, 0.0),
            node(1, 2, 1.0),
            node(2, 3, 70.0),
            node(0, 4, 0.0),
            node(1, 5, 2.0),
            node(0, 6, 0.0),
            node(1, 7, 500.0),
        ];
        let answer = judge("main", Report { sessions, waiting: 4, ..Report::default() }, 60, None);
        let told: Vec<_> =
            answer.findings.iter().map(|f| (f.subject.as_str(), f.status())).collect();
        assert_eq!(told, [("1", Status::Warning), ("6", Status::Critical)]);
    }

    #[test]
    fn a_deadlock_that_is_not_broken_yet_is_shown_all_the_same() {
        let nodes = tree(&waits(&[(1, &[2]), (2, &[1])]));
        assert_eq!(shape(&nodes), [(0, 1, 1), (1, 2, 0)]);
    }

    proptest! {
        #[test]
        fn everybody_who_waits_is_shown_once(
            pairs in prop::collection::btree_map(1..12_u32, prop::collection::vec(1..12_u32, 1..4), 0..12),
        ) {
            let pairs: Vec<(u32, &[u32])> = pairs.iter().map(|(p, b)| (*p, b.as_slice())).collect();
            let waits = waits(&pairs);
            let nodes = tree(&waits);
            let mut shown: Vec<u32> = nodes.iter().map(|n| n.pid).collect();
            shown.sort_unstable();
            let mut all: BTreeSet<u32> = waits.keys().copied().collect();
            all.extend(waits.values().flat_map(|w| &w.blocked_by));
            prop_assert_eq!(shown, all.into_iter().collect::<Vec<_>>());
        }
    }
}
