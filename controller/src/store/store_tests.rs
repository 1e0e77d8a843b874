//! What the store promises, on SQLite and on a real PostgreSQL server alike.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use hostler_core::clock::{Clock, SystemClock};
use hostler_proto::{
    name::HostName,
    wire::{CheckState, Status, Turn},
};
use sqlx::{Connection as _, Executor, Row as _};

use super::*;
use crate::{
    audit::{Auditor, Entry, Walk, verify},
    authz::Role,
    health::{
        Left,
        absence::Lost,
        figures::{Counted, HOUR_US, Hour, Key},
        recorder::News,
    },
    metrics::Metrics,
};

/// A store of its own for one test.
struct Fixture {
    store: Store,
    url: String,
    _dir: Option<tempfile::TempDir>,
}

async fn sqlite() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite:{}", dir.path().join("store.sqlite").display());
    Fixture { store: Store::open(&url).await.expect("store"), url, _dir: Some(dir) }
}

async fn postgres() -> Fixture {
    let server = std::env::var("HOSTLER_TEST_POSTGRES")
        .expect("HOSTLER_TEST_POSTGRES names no server; run: make test");
    install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("the PostgreSQL server of the tests; run: make test");
    let database = format!("store_{}", SystemClock.id().simple());
    admin.execute(format!("CREATE DATABASE {database}").as_str()).await.expect("database");
    let url = format!("{server}/{database}");
    Fixture { store: Store::open(&url).await.expect("store"), url, _dir: None }
}

macro_rules! on_both {
    ($($(#[$attribute:meta])* async fn $name:ident($fixture:ident: Fixture) $body:block)*) => {
        mod cases { use super::*; $(pub(super) async fn $name($fixture: Fixture) $body)* }
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::cases::$name(super::sqlite().await).await; }
        )* }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::cases::$name(super::postgres().await).await; }
        )* }
    };
}

fn name(text: &str) -> HostName {
    text.parse().expect("a host's name")
}

fn new_host(text: &str, replace: bool) -> NewHost {
    NewHost {
        name: name(text),
        labels: BTreeMap::from([("role".into(), "web".into())]),
        machine_id: "m".into(),
        key: "k".into(),
        certificate_until_us: 100,
        replace,
    }
}

async fn token(store: &Store, id: &str, uses: i64, expires_us: i64) {
    let token = TokenRow {
        id: id.into(),
        host: String::new(),
        labels: BTreeMap::new(),
        created_us: 1,
        expires_us,
        uses_left: uses,
        created_by: "operator/admin".into(),
        replace: false,
    };
    store.create_token(&token, &[7; 32]).await.expect("created");
}

fn entry(kind: &'static str, invocation: &str) -> Entry {
    Entry {
        kind,
        invocation: invocation.into(),
        subject: "web-1".into(),
        operation: "host.facts".into(),
        ..Entry::default()
    }
}

async fn walked(store: &Store) -> (Walk, Option<String>) {
    verify(store, |_| true).await.expect("walked").expect("to its end")
}

/// A store in a directory, with a host.
pub(crate) async fn with_host(directory: &Path, host: &str) -> (Store, HostName) {
    let url = format!("sqlite:{}", directory.join("store.sqlite").display());
    let store = Store::open(&url).await.expect("store");
    token(&store, "t", 1, i64::MAX).await;
    store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
    (store, name(host))
}

fn news(host: &str, turns: Vec<Turn>) -> News {
    News {
        host: name(host),
        memory: "m".into(),
        last_turn: 2,
        heard_us: 5,
        left: Left::Host,
        states: vec![CheckState { check: "disk".into(), ..CheckState::default() }],
        turns,
        untold: Vec::new(),
        gone: Vec::new(),
    }
}

on_both! {
    async fn a_token_is_spent_only_when_a_host_was_enrolled_with_it(fixture: Fixture) {
        let store = fixture.store;
        token(&store, "t", 2, 1000).await;
        assert!(store.token("t", &[8; 32], 5).await.expect("read").is_none(), "another secret");
        assert!(store.token("t", &[7; 32], 1000).await.expect("read").is_none(), "expired");
        store.enroll("t", new_host("web-1", false), 5).await.expect("enrolled");
        let taken = store.enroll("t", new_host("web-1", false), 5).await;
        assert!(matches!(taken, Err(EnrollError::Taken)));
        assert_eq!(store.token("t", &[7; 32], 5).await.expect("read").expect("left").uses_left, 1);
        store.enroll("t", new_host("web-1", true), 5).await.expect("replaced");
        let spent = store.enroll("t", new_host("web-2", false), 5).await;
        assert!(matches!(spent, Err(EnrollError::Token)));
        assert_eq!(store.token("t", &[7; 32], 5).await.expect("read").expect("known").uses_left, 0);
        assert!(store.revoke_token("t").await.expect("revoked"));
        assert!(store.token("t", &[7; 32], 5).await.expect("read").is_none(), "ended");
        assert_eq!(store.hosts().await.expect("hosts").len(), 1);
    }

    async fn many_hosts_cannot_use_one_token_more_often_than_it_allows(fixture: Fixture) {
        let store = fixture.store;
        token(&store, "t", 3, 1000).await;
        let tasks: Vec<_> = (0..12)
            .map(|i| {
                let store = store.clone();
                let host = new_host(&format!("web-{i}"), false);
                tokio::spawn(async move { store.enroll("t", host, 5).await.is_ok() })
            })
            .collect();
        let mut enrolled = 0;
        for task in tasks {
            enrolled += usize::from(task.await.expect("no panic"));
        }
        assert_eq!((enrolled, store.hosts().await.expect("hosts").len()), (3, 3));
    }

    async fn labels_of_operators_are_set_and_taken_away(fixture: Fixture) {
        let store = fixture.store;
        token(&store, "t", 1, 1000).await;
        store.enroll("t", new_host("web-1", false), 5).await.expect("enrolled");
        let odd = BTreeMap::from([("note".to_owned(), "a 'quoted' ü $1 -- ; \\".to_owned())]);
        let row = store.label(&name("web-1"), odd.clone(), &["role".into()]).await.expect("set");
        assert_eq!(row.expect("the host").labels, odd);
        let again = store.host(&name("web-1")).await.expect("read").expect("there");
        assert_eq!(again.labels, odd);
        assert!(store.label(&name("nope"), odd, &[]).await.expect("asked").is_none());
    }

    async fn a_link_that_stood_when_the_controller_ended_is_down_when_it_starts(fixture: Fixture) {
        let store = fixture.store;
        token(&store, "t", 2, 1000).await;
        for host in ["web-1", "web-2"] {
            store.enroll("t", new_host(host, false), 5).await.expect("enrolled");
        }
        let up = "UPDATE hosts SET connection = 'up' WHERE name = 'web-1'";
        sqlx::query(up).execute(&store.pool).await.expect("set");
        assert_eq!(store.none_connected("restarted", 9).await.expect("set"), 1);
        let host = store.host(&name("web-1")).await.expect("read").expect("there");
        assert_eq!((host.connection, host.since_us), (Connection::Down, 9));
        assert_eq!(host.reason, "restarted");
        let never = store.host(&name("web-2")).await.expect("read").expect("there");
        assert_eq!(never.connection, Connection::Never);
        assert!(store.revoke_host(&name("web-1"), "stolen", 11).await.expect("revoked"));
        let down = |host: &str| Change::Down {
            host: name(host),
            lost: Lost::Silent,
            reason: "cut".into(),
            left: Left::No,
            seen_us: 12,
            at_us: 13,
        };
        // Whose link was never up has lost none.
        store.change_connections(&[down("web-2")]).await.expect("written");
        let never = store.host(&name("web-2")).await.expect("read").expect("there");
        assert_eq!(never.connection, Connection::Never);
        let up = "UPDATE hosts SET connection = 'up' WHERE name = 'web-2'";
        sqlx::query(up).execute(&store.pool).await.expect("set");
        let changes = [down("web-1"), down("web-2")];
        store.change_connections(&changes).await.expect("written");
        let other = store.host(&name("web-2")).await.expect("read").expect("there");
        assert_eq!((other.connection, other.reason.as_str()), (Connection::Down, "cut"));
        let host = store.host(&name("web-1")).await.expect("read").expect("there");
        assert_eq!((host.connection, host.revoked_us), (Connection::Revoked, Some(11)));
        assert_eq!(host.reason, "stolen");
    }

    async fn an_operator_that_counts_is_not_overwritten_and_a_revoked_one_can_be(fixture: Fixture) {
        let store = fixture.store;
        let operator = |serial: &str| OperatorRow {
            name: "alice".parse().expect("a name"),
            role: Role::Operator,
            scope: Some("role=web and not canary".parse().expect("a selector")),
            operations: "systemd.*,redis.status".parse().expect("patterns"),
            serial: serial.into(),
            key: format!("key {serial}"),
            renewable: true,
            created_us: 1,
            certificate_until_us: i64::MAX,
            revoked_us: None,
        };
        assert!(store.add_operator(&operator("1"), false).await.expect("added"));
        assert!(!store.add_operator(&operator("2"), false).await.expect("asked"));
        let alice = operator("1").name;
        assert!(store.revoke_operator(&alice, 5).await.expect("revoked"));
        assert!(!store.revoke_operator(&alice, 5).await.expect("asked"));
        assert!(store.add_operator(&operator("3"), false).await.expect("added"));
        let row = store.operator(&alice).await.expect("read").expect("there");
        assert_eq!((row.serial.as_str(), row.revoked_us), ("3", None));
        assert_eq!(row.operations.to_string(), "systemd.*,redis.status");
        assert_eq!(row.certificate_until_us, i64::MAX);
        assert_eq!(row.scope.map(|s| s.to_string()), operator("3").scope.map(|s| s.to_string()));
        let renew = async |key: &str| store.renew_operator(&alice, key, "5", 77).await;
        assert!(!renew("key 1").await.expect("asked"), "that key was replaced");
        assert!(renew("key 3").await.expect("renewed"));
        let row = store.operator(&alice).await.expect("read").expect("there");
        assert_eq!((row.serial.as_str(), row.certificate_until_us), ("5", 77));
        assert!(store.add_operator(&operator("4"), true).await.expect("replaced"));
    }

    async fn the_last_admin_of_the_whole_fleet_stays(fixture: Fixture) {
        let store = fixture.store;
        let admin = |name: &str, scope: Option<&str>, until: i64| OperatorRow {
            name: name.parse().expect("a name"),
            role: Role::Admin,
            scope: scope.map(|s| s.parse().expect("a selector")),
            operations: crate::authz::Operations::default(),
            serial: name.into(),
            key: name.into(),
            renewable: true,
            created_us: 1,
            certificate_until_us: until,
            revoked_us: None,
        };
        let all = [admin("alice", None, 100), admin("bob", None, 100), admin("carol", None, 10)];
        for row in all.iter().chain([&admin("dave", Some("role=web"), 100)]) {
            assert!(store.add_operator(row, false).await.expect("added"));
        }
        let revoke = async |name: &str| {
            store.revoke_operator(&name.parse().expect("a name"), 50).await.expect("asked")
        };
        assert!(revoke("alice").await);
        assert!(!revoke("bob").await, "carol's certificate has ended, dave has a part of the hosts");
        assert!(revoke("carol").await && revoke("dave").await);
        assert!(!revoke("bob").await);
    }

    async fn one_controller_has_the_store(fixture: Fixture) {
        let first = fixture.store.claim().await.expect("claimed");
        if first.is_some() {
            assert!(matches!(fixture.store.claim().await, Err(StoreError::Taken)));
            // Nor are its tables changed under it.
            let old = "DELETE FROM _sqlx_migrations WHERE version = 10";
            sqlx::query(old).execute(&fixture.store.pool).await.expect("as of an older one");
            let other = Store::open_alone(&fixture.url).await;
            assert!(matches!(other, Err(StoreError::Taken)));
            drop(first);
        }
        fixture.store.claim().await.expect("it is free again");
    }

    async fn the_audit_is_written_while_all_others_read(fixture: Fixture) {
        let store = &fixture.store;
        let (auditor, _) =
            Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default()).await.expect("started");
        let mut readers = Vec::new();
        while let Some(reader) = store.pool.try_acquire() {
            readers.push(reader);
        }
        readers.push(store.pool.acquire().await.expect("the last one"));
        while readers.len() < READERS as usize {
            readers.push(store.pool.acquire().await.expect("one more"));
        }
        auditor.record_all(vec![entry("intent", "1")]).await.expect("recorded");
        drop(readers);
        assert_eq!(walked(store).await.0.records, 1);
        assert!(verify(store, |_| false).await.expect("read").is_none(), "nobody listens");
    }

    async fn intents_that_were_settled_are_not_looked_at_again(fixture: Fixture) {
        let store = &fixture.store;
        let start = || Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default());
        let (auditor, _) = start().await.expect("started");
        auditor.record_all(vec![entry("intent", "1"), entry("intent", "2")]).await.expect("recorded");
        store.settled(1).await.expect("written");
        let left = store.unfinished(9).await.expect("read");
        assert_eq!((left.len(), left[0].seq), (1, 2));
        assert_eq!(start().await.expect("started").1, 1);
        assert_eq!(store.unfinished(9).await.expect("read").len(), 0);
    }

    async fn what_is_listed_of_the_audit_is_what_was_asked_for(fixture: Fixture) {
        let store = &fixture.store;
        let (auditor, _) =
            Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default()).await.expect("started");
        let of = |subject: &str, principal: &str| Entry {
            subject: subject.into(),
            principal: principal.into(),
            ..entry("intent", "1")
        };
        let all = vec![of("web-1", "operator/a"), of("web-2", "operator/a"), of("web-1", "operator/b")];
        auditor.record_all(all).await.expect("recorded");
        let list = async |filter: AuditFilter| {
            let records = store.audit(&AuditFilter { limit: 9, ..filter }).await.expect("read");
            records.iter().map(|r| r.seq).collect::<Vec<_>>()
        };
        let (subject, principal) = ("web-1".to_owned(), "operator/a".to_owned());
        let none = AuditFilter::default;
        assert_eq!(list(none()).await, [3, 2, 1]);
        assert_eq!(list(AuditFilter { before: 3, ..none() }).await, [2, 1]);
        assert_eq!(list(AuditFilter { subject: subject.clone(), ..none() }).await, [3, 1]);
        assert_eq!(list(AuditFilter { subject, principal, since_us: 1, ..none() }).await, [1]);
        assert_eq!(list(AuditFilter { since_us: i64::MAX, ..none() }).await, [0; 0]);
        assert_eq!(list(AuditFilter { operation: "host.facts".into(), ..none() }).await.len(), 3);
        assert_eq!(list(AuditFilter { without: "intent", ..none() }).await, [0; 0]);
    }

    async fn the_audit_is_one_chain_however_many_write_at_once(fixture: Fixture) {
        let store = fixture.store;
        let (auditor, _) =
            Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default()).await.expect("started");
        let tasks: Vec<_> = (0..200)
            .map(|i| {
                let auditor = auditor.clone();
                let both = vec![entry("intent", &i.to_string()), entry("outcome", &i.to_string())];
                tokio::spawn(async move { auditor.record_all(both).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic").expect("recorded");
        }
        let (walk, problem) = walked(&store).await;
        assert_eq!((walk.records, problem), (400, None));
        let filter = AuditFilter { invocation: "17".into(), limit: 10, ..AuditFilter::default() };
        let pair = store.audit(&filter).await.expect("read");
        assert_eq!(pair.len(), 2);
        assert_eq!(pair[0].seq, pair[1].seq + 1, "entries of one request stay together");
    }

    async fn what_an_earlier_controller_let_go_is_recovered_once(fixture: Fixture) {
        let store = fixture.store;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (auditor, recovered) =
            Auditor::start(store.clone(), Arc::clone(&clock), Metrics::default()).await.expect("started");
        assert_eq!(recovered, 0);
        let entries = vec![entry("intent", "1"), entry("intent", "2"), entry("outcome", "1")];
        auditor.record_all(entries).await.expect("recorded");
        for expected in [1, 0] {
            let (_, recovered) =
                Auditor::start(store.clone(), Arc::clone(&clock), Metrics::default()).await.expect("started");
            assert_eq!(recovered, expected);
        }
        let (walk, problem) = walked(&store).await;
        assert_eq!((walk.records, problem), (4, None));
    }

    async fn lost_actions_are_found_behind_any_number_of_lost_probes(fixture: Fixture) {
        let store = fixture.store;
        let (auditor, _) =
            Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default()).await.expect("started");
        let restart = |kind, outcome: &str| Entry {
            operation: "systemd.restart".into(),
            outcome: outcome.into(),
            ..entry(kind, "lost")
        };
        let probe = |i: u32| Entry {
            outcome: "outcome-unknown".into(),
            ..entry("recovered", &i.to_string())
        };
        auditor.record_all(vec![restart("recovered", "outcome-unknown")]).await.expect("recorded");
        auditor.record_all((0..50).map(probe).collect()).await.expect("recorded");
        let host = name("web-1");
        let actions = ["systemd.restart", "systemd.stop"];
        let lost = store.unknown_outcomes(&host, &actions, 20).await.expect("read");
        assert_eq!(lost.iter().map(|r| r.invocation.as_str()).collect::<Vec<_>>(), ["lost"]);
        auditor.record_all(vec![restart("reconciled", "ok")]).await.expect("recorded");
        assert!(store.unknown_outcomes(&host, &actions, 20).await.expect("read").is_empty());
    }

    async fn how_hosts_are_is_remembered_and_changes_are_kept_in_their_order(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let turn = |number, became: Status| Turn {
            number,
            check: "disk".into(),
            was: Status::Ok.into(),
            became: became.into(),
            hard: true,
            at_us: i64::try_from(number).expect("small"),
            summary: "full".into(),
            ..Turn::default()
        };
        let turns = vec![turn(1, Status::Warning), turn(2, Status::Critical)];
        let both = [news("web-1", turns), news("gone-1", vec![turn(1, Status::Critical)])];
        store.record_health(&both).await.expect("written");
        store.record_health(&[news("web-1", vec![])]).await.expect("again");
        let health = store.health().await.expect("read");
        assert_eq!(health.len(), 1, "a host that is not known is left out");
        let web = &health[&name("web-1")];
        assert_eq!((web.last_turn, web.left, web.checks.len()), (2, Left::Host, 1));
        let read = store.turns(&name("web-1"), Some("disk"), 0, 10).await.expect("read");
        let seen: Vec<_> = read.iter().map(|t| (t.at_us, t.became)).collect();
        assert_eq!(seen, [(2, Status::Critical), (1, Status::Warning)]);
        assert_eq!(store.turns(&name("web-1"), None, 2, 10).await.expect("read").len(), 1);
        // Enrolled anew it goes on from what is known: nothing is told again.
        store.enroll("t", new_host("web-1", true), 6).await.expect("replaced");
        let health = store.health().await.expect("read");
        let web = &health[&name("web-1")];
        assert_eq!((web.memory.as_str(), web.last_turn), ("m", 2));
        assert!(store.turns(&name("web-1"), Some("x"), 0, 10).await.expect("read").is_empty());
        assert!(store.remove_host(&name("web-1")).await.expect("removed"));
        assert!(store.health().await.expect("read").is_empty());
    }

    async fn changes_that_were_brought_to_their_days_are_read_as_before(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        let day_us = 24 * HOUR_US;
        let turn = |check: &str, at_us| Turn {
            check: check.into(),
            was: Status::Ok.into(),
            became: Status::Critical.into(),
            hard: true,
            at_us,
            summary: format!("{check} at {at_us}"),
            ..Turn::default()
        };
        for host in ["web-1", "web-2"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
            let turns = vec![turn("disk", 5), turn("host", 7), turn("disk", day_us + 1)];
            store.record_health(&[news(host, turns)]).await.expect("written");
        }
        let all = || async { store.turns(&name("web-1"), None, 0, 10).await.expect("read") };
        let before = all().await;
        let pack = |before_us, after: &'static str, most| async move {
            store.pack_turns(before_us, after, most).await.expect("packed")
        };
        assert_eq!(pack(day_us, "", 1).await.as_deref(), Some("web-1"));
        assert_eq!(pack(day_us, "web-1", 5).await.as_deref(), Some("web-2"));
        assert_eq!(pack(day_us, "", 5).await, None);
        assert_eq!(all().await, before);
        // An agent that was away tells late.
        store.record_health(&[news("web-1", vec![turn("disk", 6)])]).await.expect("written");
        assert_eq!(pack(2 * day_us, "", 5).await.as_deref(), Some("web-2"));
        let times: Vec<_> = all().await.iter().map(|t| t.at_us).collect();
        assert_eq!(times, [day_us + 1, 7, 6, 5]);
        let disk = store.turns(&name("web-1"), Some("disk"), 6, 10).await.expect("read");
        assert_eq!(disk.iter().map(|t| t.at_us).collect::<Vec<_>>(), [day_us + 1, 6]);
        assert_eq!(store.turns(&name("web-1"), None, 0, 2).await.expect("read").len(), 2);
        assert!(store.remove_host(&name("web-1")).await.expect("removed"));
        assert!(all().await.is_empty());
    }

    async fn a_damaged_day_does_not_make_the_others_grow(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let day_us = 24 * HOUR_US;
        let turn = |at_us| Turn { check: "disk".into(), was: 1, became: 3, hard: true, at_us, ..Turn::default() };
        let turns = vec![turn(1), turn(day_us + 1), turn(2 * day_us + 1)];
        store.record_health(&[news("web-1", turns)]).await.expect("written");
        let damage = "INSERT INTO turn_days (host, day_us, data) VALUES ('web-1', $1, $2)";
        let damage = sqlx::query(damage).bind(day_us).bind(vec![255_u8; 9]);
        damage.execute(&store.pool).await.expect("damaged");
        for _ in 0..3 {
            store.pack_turns(9 * day_us, "", 5).await.expect("packed");
        }
        let left = "SELECT at_us FROM turns";
        let left = sqlx::query(left).fetch_all(&store.pool).await.expect("read");
        let left: Vec<i64> = left.iter().map(|row| row.get("at_us")).collect();
        assert_eq!(left, [day_us + 1], "it waits until its day is whole");
        assert_eq!(store.damages.lock().expect("lock").len(), 1, "and the log has it once");
        sqlx::query("DELETE FROM turn_days WHERE day_us = $1").bind(day_us).execute(&store.pool).await.expect("mended");
        store.pack_turns(9 * day_us, "", 5).await.expect("packed");
        let read = store.turns(&name("web-1"), None, 0, 9).await.expect("read");
        let times: Vec<_> = read.iter().map(|t| t.at_us).collect();
        assert_eq!(times, [2 * day_us + 1, day_us + 1, 1], "each once");
    }

    async fn one_hosts_figures_do_not_keep_those_of_others_from_being_written(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        let key = |subject: &str| {
            let (check, name, unit) = ("disk".into(), "used".into(), "bytes".into());
            Arc::new(Key { check, name, subject: subject.into(), unit })
        };
        let hour = |host: &str, subject: &str| Hour {
            host: name(host),
            begins_us: 0,
            values: vec![Counted { key: key(subject), mean: 1.0, most: 2.0, share: 1.0 }],
        };
        for host in ["web-1", "web-2", "web-3"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
        }
        let damage = "INSERT INTO figure_days (host, day_us, data) VALUES ('web-1', 0, $1)";
        sqlx::query(damage).bind(vec![255_u8; 9]).execute(&store.pool).await.expect("damaged");
        // PostgreSQL refuses the second, too.
        let mut hours = vec![hour("web-1", "/"), hour("web-2", "a\0b"), hour("web-3", "/")];
        let figures = crate::health::figures::Figures::default();
        figures.write_down(store, i64::MAX, &mut hours).await.expect("written");
        assert!(hours.is_empty());
        assert_eq!(store.hours(&name("web-3"), 0).await.expect("read").len(), 1);
    }

    async fn hosts_that_changed_are_read_anew(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        let labels = || async {
            let hosts = store.hosts().await.expect("hosts");
            hosts.iter().map(|h| (h.name.to_string(), h.labels.len())).collect::<Vec<_>>()
        };
        assert!(labels().await.is_empty());
        for host in ["web-2", "web-1"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
        }
        assert_eq!(labels().await, [("web-1".into(), 1), ("web-2".into(), 1)]);
        let more = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        store.label(&name("web-2"), more, &[]).await.expect("labelled");
        assert_eq!(labels().await, [("web-1".into(), 1), ("web-2".into(), 2)]);
        assert!(store.revoke_host(&name("web-1"), "gone", 5).await.expect("revoked"));
        assert!(store.hosts().await.expect("hosts")[0].revoked_us.is_some());
        assert!(store.remove_host(&name("web-1")).await.expect("removed"));
        assert_eq!(labels().await, [("web-2".into(), 2)]);
    }

    async fn figures_of_hours_are_read_back_by_what_they_are_of(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let key = |subject: &str| {
            Arc::new(Key {
                check: "disk".into(),
                name: "used".into(),
                subject: subject.into(),
                unit: "bytes".into(),
            })
        };
        let hour = |begins_us, values| Hour { host: name("web-1"), begins_us, values };
        let counted =
            |subject: &str, mean, most, share| Counted { key: key(subject), mean, most, share };
        let both = vec![counted("/", 1.5, 2.0, 1.0), counted("/srv", 7.0, 9.0, 1.0)];
        store.add_hours(&[hour(0, both)]).await.expect("written");
        let before = vec![counted("/", 9.0, 10.0, 1.0)];
        store.add_hours(&[hour(HOUR_US, before)]).await.expect("written");
        let after = vec![counted("/", 1.0, 3.0, 0.25)];
        store.add_hours(&[hour(HOUR_US, after)]).await.expect("the controller was restarted");
        let tomorrow = hour(24 * HOUR_US, vec![counted("/", 3.5, 4.0, 1.0)]);
        store.add_hours(&[tomorrow]).await.expect("written");
        let read = store.hours(&name("web-1"), 0).await.expect("read");
        let means: Vec<_> = read[&*key("/")].iter().map(|p| (p.at_us, p.mean, p.most)).collect();
        assert_eq!(means, [(0, 1.5, 2.0), (HOUR_US, 7.0, 10.0), (24 * HOUR_US, 3.5, 4.0)]);
        assert_eq!(read[&*key("/srv")].len(), 1);
        let late = store.hours(&name("web-1"), HOUR_US).await.expect("read");
        assert_eq!((late.len(), late[&*key("/")].len()), (1, 2), "only since then");
        store.forget_figures(30 * HOUR_US).await.expect("forgotten");
        let left = store.hours(&name("web-1"), 0).await.expect("read");
        assert_eq!(left[&*key("/")].len(), 1, "days that are over for so long are gone");
    }

    async fn a_store_of_a_newer_controller_is_left_alone(fixture: Fixture) {
        let Fixture { store, url, _dir } = fixture;
        let newer = "INSERT INTO _sqlx_migrations \
                     (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'newer', true, '', 0)";
        sqlx::query(newer).execute(&store.pool).await.expect("inserted");
        let error = Store::open(&url).await.expect_err("refused");
        assert!(matches!(error, StoreError::Newer(9999)), "{error}");
    }
}

#[path = "known_tests.rs"]
mod known;
#[path = "written_tests.rs"]
mod written;

/// The process of the server that holds the claim of this database, if any.
async fn holder(store: &Store) -> Option<i64> {
    let text = "SELECT pid::BIGINT AS pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = sqlx::query(text).fetch_optional(&store.pool).await.expect("asked");
    row.map(|row| row.get("pid"))
}

/// Ends the connection of the claim, as a restart of the server does.
async fn end_holder(store: &Store) -> i64 {
    let pid = holder(store).await.expect("it is claimed");
    let end = "SELECT CASE WHEN pg_terminate_backend($1::INTEGER, 5000) THEN 1 ELSE 0 END::BIGINT AS ended";
    sqlx::query(end).bind(pid).fetch_one(&store.pool).await.expect("ended");
    pid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_connection_is_lost_is_taken_again_or_ends_the_controller() {
    let Fixture { store, url, _dir } = postgres().await;
    let claim = store.claim().await.expect("claimed").expect("PostgreSQL's");
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping = tokio::spawn(claim.keep(stop.clone()));
    let first = end_holder(&store).await;
    let again = async {
        while holder(&store).await.is_none_or(|pid| pid == first) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("it is taken again");
    assert!(matches!(store.claim().await, Err(StoreError::Taken)));
    let other = Store::open(&url).await.expect("another controller's");
    end_holder(&store).await;
    let _theirs = other.claim().await.expect("claimed").expect("PostgreSQL's");
    let kept = keeping.await.expect("no panic");
    assert!(matches!(kept, Err(StoreError::Lost)));
    assert!(store.settled(1).await.is_err(), "nothing can be written any more");
    assert!(other.settled(1).await.is_ok());
}

#[tokio::test]
async fn what_changes_and_is_listed_all_the_time_has_an_index() {
    let Fixture { store, url: _, _dir } = sqlite().await;
    let plan = async |text: &str| {
        let rows = sqlx::query(&format!("EXPLAIN QUERY PLAN {text}")).fetch_all(&store.pool).await;
        let detail = |row: &AnyRow| row.get::<String, _>("detail");
        rows.expect(text).iter().map(detail).collect::<Vec<_>>().join("; ")
    };
    for (text, index) in [
        (
            "DELETE FROM notices WHERE target = '' AND host = '' AND check_name = '' AND id <> ''",
            "notices_of",
        ),
        ("DELETE FROM notices WHERE host = '' AND check_name = ''", "notices_of"),
        (
            "SELECT * FROM notices WHERE target = '' AND due_us <= 1 ORDER BY due_us, at_us, id",
            "notices_due",
        ),
        ("DELETE FROM told WHERE host = '' AND check_name = '' AND status < 2", "told_of"),
        (
            "SELECT * FROM audit WHERE seq < 9 AND kind <> '' AND subject = '' ORDER BY seq DESC",
            "audit_subject",
        ),
        (
            "SELECT * FROM audit WHERE seq < 9 AND kind <> '' AND principal = '' ORDER BY seq DESC",
            "audit_principal",
        ),
    ] {
        let used = plan(text).await;
        assert!(used.contains(index), "{text}: {used}");
    }
}

#[tokio::test]
async fn a_new_store_can_be_read_by_its_owner_alone() {
    let Fixture { store, url, _dir } = sqlite().await;
    token(&store, "t", 1, 1).await;
    let path = url.strip_prefix("sqlite:").expect("a file");
    for file in [path.to_owned(), format!("{path}-wal")] {
        let mode = std::fs::metadata(&file).expect(&file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named_without_its_password() {
    let error = Store::open("postgres://me:secret@127.0.0.1:1/none").await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1/none") && !text.contains("secret"), "{text}");
    let error = Store::open("sqlite:/no/such/directory/store").await.expect_err("refused");
    assert!(error.to_string().contains("/no/such/directory/store"), "{error}");
}
