//! What the store promises of what cannot be written, and of what it holds no more.

use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::health::recorder;

fn counted(subject: &str) -> Counted {
    let (check, name, unit) = ("disk".into(), "used".into(), "bytes".into());
    let key = Arc::new(Key { check, name, subject: subject.into(), unit });
    Counted { key, mean: 1.0, most: 1.0, share: 1.0 }
}

/// Makes PostgreSQL refuse, for what they hold, rows of a table whose column has some value.
async fn refuse(store: &Store, table: &str, column: &str, value: &str) {
    for text in [
        format!(
            "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN IF NEW.{column} = '{value}' THEN \
             RAISE EXCEPTION 'odd' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$ \
             LANGUAGE plpgsql"
        ),
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
    ] {
        sqlx::query(&text).execute(&store.writes).await.expect(&text);
    }
}

/// On one thread, so that all three wait before the first is written.
#[tokio::test]
async fn a_record_that_is_refused_keeps_none_that_waits_with_it_from_being_written() {
    let Fixture { store, url: _, _dir } = postgres().await;
    refuse(&store, "audit", "subject", "odd").await;
    let (auditor, _) = Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default())
        .await
        .expect("started");
    let record = |subject: &str| {
        let entry = Entry { subject: subject.into(), ..entry("denied", "1") };
        auditor.record_all(vec![entry])
    };
    let (first, odd, last) = tokio::join!(record("web-1"), record("odd"), record("web-2"));
    first.expect("it is well");
    odd.expect_err("it is refused");
    last.expect("it is well");
    assert_eq!(auditor.trouble(), None);
    let records = store.audit_after(0, 9).await.expect("read");
    let subjects: Vec<_> = records.iter().map(|r| r.subject.as_str()).collect();
    assert_eq!(subjects, ["web-1", "web-2"]);
    assert_eq!(walked(&store).await.1, None, "the chain holds");
}

#[tokio::test]
async fn what_a_host_tells_and_is_refused_keeps_nothing_of_others_from_being_written() {
    let Fixture { store, url: _, _dir } = postgres().await;
    token(&store, "t", 9, i64::MAX).await;
    for host in ["web-1", "web-2"] {
        store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
    }
    refuse(&store, "health", "host", "web-2").await;
    let (way, waiting) = mpsc::channel(9);
    let turn = |number, became: Status| {
        let at_us = i64::try_from(number).expect("small");
        let (was, became) = (Status::Ok.into(), became.into());
        Turn { number, check: "disk".into(), was, became, hard: true, at_us, ..Turn::default() }
    };
    for (host, number) in [("web-1", 1), ("web-2", 1), ("web-1", 2)] {
        let turns = vec![turn(number, Status::Critical)];
        let told = News { last_turn: number, ..news(host, turns) };
        way.send(told).await.expect("there is room");
    }
    drop(way);
    recorder::write(store.clone(), waiting).await;
    let health = store.health().await.expect("read");
    assert_eq!((health.len(), health[&name("web-1")].last_turn), (1, 2));
    let turns = store.turns(&name("web-1"), None, 0, 9).await.expect("read");
    assert_eq!(turns.iter().map(|t| t.at_us).collect::<Vec<_>>(), [2, 1]);
}

on_both! {
    async fn what_no_store_takes_is_left_out_of_a_record_and_the_rest_is_written(fixture: Fixture) {
        let store = &fixture.store;
        let (auditor, _) =
            Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default())
                .await
                .expect("started");
        let odd = Entry { subject: "a\0b".into(), ..entry("look", "1") };
        auditor.record_all(vec![odd]).await.expect("without what no store takes");
        let long = Entry { subject: "ä".repeat(12_000), ..entry("denied", "2") };
        auditor.record_all(vec![long]).await.expect("as much of it as an index holds");
        assert_eq!(auditor.trouble(), None);
        let records = store.audit_after(0, 9).await.expect("read");
        assert_eq!((records[0].subject.as_str(), records.len()), ("ab", 2));
        assert!(records[1].subject.chars().count() < 600);
        assert_eq!(walked(store).await.1, None, "the chain holds");
    }

    async fn how_a_host_was_is_known_also_when_it_is_revoked(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        store.record_health(&[news("web-1", Vec::new())]).await.expect("written");
        assert!(store.revoke_host(&name("web-1"), "cloned", 2).await.expect("revoked"));
        let known = store.health().await.expect("read");
        assert!(known.contains_key(&name("web-1")), "what takes its name is compared with it");
        assert!(store.remove_host(&name("web-1")).await.expect("removed"));
        assert!(store.health().await.expect("read").is_empty());
    }

    async fn a_series_that_nobody_measures_any_more_is_forgotten(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let hour = |day: i64, of: &[&str]| Hour {
            host: name("web-1"),
            begins_us: day * 24 * HOUR_US,
            values: of.iter().map(|subject| counted(subject)).collect(),
        };
        let numbers = async || {
            let rows = sqlx::query("SELECT number FROM series ORDER BY number");
            let rows = rows.fetch_all(&store.pool).await.expect("read");
            rows.iter().map(|row| row.get("number")).collect::<Vec<i64>>()
        };
        store.add_hours(&[hour(0, &["/", "/old"])]).await.expect("written");
        store.add_hours(&[hour(9, &["/"])]).await.expect("written");
        store.forget_figures(5 * 24 * HOUR_US).await.expect("forgotten");
        assert_eq!(numbers().await, [0]);
        store.add_hours(&[hour(9, &["/", "/new"])]).await.expect("written");
        assert_eq!(numbers().await, [0, 1], "its number stands in no day any more");
        let read = store.hours(&name("web-1"), 0).await.expect("read");
        let mut subjects: Vec<_> = read.keys().map(|key| key.subject.as_str()).collect();
        subjects.sort_unstable();
        assert_eq!(subjects, ["/", "/new"]);
        let again = Store::open(&fixture.url).await.expect("opened");
        assert_eq!(again.hours(&name("web-1"), 0).await.expect("read").len(), 2);
    }

    async fn the_numbers_of_series_are_read_anew_when_some_may_be_gone(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let hour = Hour { host: name("web-1"), begins_us: 0, values: vec![counted("/")] };
        store.add_hours(&[hour]).await.expect("written");
        let known = async || store.series.known(&store.pool).await.expect("read");
        let before = known().await;
        store.forget_figures(0).await.expect("nothing is so old");
        assert!(Arc::ptr_eq(&before, &known().await), "they are kept");
        // Another one deletes them in between, and what this one hears of it is a failure.
        sqlx::query("DELETE FROM series").execute(&store.writes).await.expect("deleted");
        sqlx::query("ALTER TABLE series RENAME TO away").execute(&store.writes).await.expect("away");
        store.forget_figures(i64::MAX).await.expect_err("there is no such table");
        sqlx::query("ALTER TABLE away RENAME TO series").execute(&store.writes).await.expect("back");
        assert!(known().await.key(0).is_none());
    }

    async fn figures_of_a_machine_are_not_those_of_one_that_took_its_place(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        for host in ["web-1", "web-2"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
            let hour = Hour { host: name(host), begins_us: 0, values: vec![counted("/")] };
            store.add_hours(&[hour]).await.expect("written");
        }
        store.enroll("t", new_host("web-1", true), 6).await.expect("replaced");
        let hours = async |host: &str| store.hours(&name(host), 0).await.expect("read").len();
        assert_eq!((hours("web-1").await, hours("web-2").await), (0, 1));
    }

    async fn a_day_that_cannot_be_read_is_left_out_of_its_history(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let turn = Turn { check: "disk".into(), number: 1, hard: true, at_us: 7, ..Turn::default() };
        store.record_health(&[news("web-1", vec![turn])]).await.expect("written");
        let text = "INSERT INTO turn_days (host, day_us, data) VALUES ('web-1', 0, $1)";
        sqlx::query(text).bind(vec![0xff_u8; 9]).execute(&store.writes).await.expect("spoilt");
        let turns = store.turns(&name("web-1"), None, 0, 9).await.expect("what can be read");
        assert_eq!(turns.len(), 1);
    }
}

#[tokio::test]
async fn an_audit_that_could_not_be_written_says_so_until_it_can_be_again() {
    let fixture = sqlite().await;
    let store = &fixture.store;
    let (auditor, _) = Auditor::start(store.clone(), Arc::new(SystemClock), Metrics::default())
        .await
        .expect("started");
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit \
                BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sqlx::query(full).execute(&store.writes).await.expect("trigger");
    auditor.record_all(vec![entry("intent", "1")]).await.expect_err("it is full");
    assert!(auditor.trouble().is_some_and(|why| why.contains("the disk is full")));
    sqlx::query("DROP TRIGGER full").execute(&store.writes).await.expect("dropped");
    let healed = async {
        while auditor.trouble().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), healed).await.expect("nobody asked for anything");
    let records = store.audit_after(0, 9).await.expect("read");
    assert_eq!((records.len(), records[0].operation.as_str()), (1, "audit.write"));
    assert!(records[0].detail.contains("the disk is full"), "{}", records[0].detail);
}
