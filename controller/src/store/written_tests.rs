//! What the store promises of what cannot be written, and of what it holds no more.

use std::time::Duration;

use super::*;

on_both! {
    async fn one_record_that_cannot_be_kept_keeps_no_other_from_it(fixture: Fixture) {
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
        let counted = |subject: &str| Counted {
            key: Arc::new(Key {
                check: "disk".into(),
                name: "used".into(),
                subject: subject.into(),
                unit: "bytes".into(),
            }),
            mean: 1.0,
            most: 1.0,
            share: 1.0,
        };
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
