//! What the store promises of what people know and were told.

use hostler_proto::wire::{HelloReply, hello_reply::Ending};

use super::*;
use crate::health::silence::{Acknowledgement, Checks, Downtime};

/// The link of a host stands.
fn linked(host: &str, silent: bool, at_us: i64) -> Change {
    let hello = HelloReply { boot_id: "b".into(), instance: "i".into(), ..HelloReply::default() };
    Change::Up {
        host: name(host),
        address: "10.0.0.1:1".into(),
        hello: Box::new(hello),
        certificate_until_us: 9,
        left: Left::No,
        silent,
        at_us,
    }
}

on_both! {
    async fn what_people_know_of_is_remembered_until_it_is_over(fixture: Fixture) {
        let store = &fixture.store;
        let downtime = Downtime {
            id: "d1".into(),
            hosts: "role=web and not web-3".parse().expect("selector"),
            checks: Checks::new("http:*").expect("pattern"),
            begins_us: 10,
            ends_us: 20,
            lasts_us: Some(5),
            begun: HashMap::new(),
            made_by: "eve".into(),
            comment: "new disks".into(),
        };
        store.add_downtime(&downtime).await.expect("added");
        let read = store.downtimes(24).await.expect("read");
        assert_eq!((read.len(), read[0].lasts_us, read[0].checks.as_str()), (1, Some(5), "http:*"));
        assert!(store.downtimes(25).await.expect("read").is_empty());
        assert!(store.end_downtime("d1", 15).await.expect("ended"));
        assert!(!store.end_downtime("d1", 15).await.expect("again"));
        let given = |comment: &str, expires_us| Acknowledgement {
            host: "web-1".into(),
            check: "disk".into(),
            at_us: 7,
            severity: 3,
            expires_us,
            made_by: "eve".into(),
            comment: comment.into(),
        };
        store.acknowledge(&given("one", Some(9))).await.expect("given");
        store.acknowledge(&given("two", Some(12))).await.expect("given");
        let read = store.acknowledgements(11).await.expect("read");
        assert_eq!((read.len(), read[0].comment.as_str()), (1, "two"));
        assert!(store.acknowledgements(12).await.expect("read").is_empty());
        assert!(store.unacknowledge(&name("web-1"), "disk").await.expect("taken back"));
    }

    async fn a_flexible_downtime_begins_once_with_the_first_problem_of_each_host(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        for host in ["web-1", "web-2", "db-1"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
            store.change_connections(&[linked(host, false, 2)]).await.expect("written");
        }
        let downtime = |id: &str, checks: &str| Downtime {
            id: id.into(),
            hosts: "web-* and role=web".parse().expect("selector"),
            checks: Checks::new(checks).expect("pattern"),
            begins_us: 100,
            ends_us: 200,
            lasts_us: Some(50),
            begun: HashMap::new(),
            made_by: "eve".into(),
            comment: "x".into(),
        };
        store.add_downtime(&downtime("all", "*")).await.expect("added");
        store.add_downtime(&downtime("http", "http:*")).await.expect("added");
        let tell = |host: &'static str, check: &str, became: Status, at_us| {
            let (check, hard) = (check.to_owned(), true);
            let (was, became) = (Status::Ok.into(), became.into());
            let turn = Turn { check, was, became, hard, at_us, ..Turn::default() };
            async move { store.record_health(&[news(host, vec![turn])]).await.expect("written") }
        };
        tell("web-1", "disk", Status::Critical, 99).await;
        tell("web-1", "disk", Status::Ok, 110).await;
        tell("db-1", "disk", Status::Critical, 120).await;
        tell("web-1", "disk", Status::Warning, 150).await;
        tell("web-1", "disk", Status::Critical, 170).await;
        // Told late, and before both.
        tell("web-1", "units", Status::Warning, 140).await;
        tell("web-1", "http:a", Status::Warning, 200).await;
        let (host, reason, left) = (name("web-2"), "silent".to_owned(), Left::No);
        let down = Change::Down { host, lost: Lost::Silent, reason, left, seen_us: 160, at_us: 160 };
        store.change_connections(&[down]).await.expect("written");
        let begun = async |now_us| {
            let read = store.downtimes(now_us).await.expect("read");
            let of = |d: Downtime| (d.id, d.begun.into_iter().collect::<BTreeMap<_, _>>());
            read.into_iter().map(of).collect::<Vec<_>>()
        };
        let all = BTreeMap::from([(name("web-1"), 140), (name("web-2"), 160)]);
        let expected = [("all".to_owned(), all), ("http".to_owned(), BTreeMap::new())];
        assert_eq!(begun(249).await, expected);
        assert!(begun(250).await.is_empty());
    }

    async fn a_damaged_row_is_left_out_and_the_others_count(fixture: Fixture) {
        let store = &fixture.store;
        let downtime = |id: &str, begins_us| Downtime {
            id: id.into(),
            hosts: "all".parse().expect("selector"),
            checks: Checks::new("*").expect("pattern"),
            begins_us,
            ends_us: i64::MAX,
            lasts_us: Some(5),
            begun: HashMap::new(),
            made_by: "eve".into(),
            comment: "x".into(),
        };
        // One of an earlier controller may begin at any time.
        for (id, begins_us) in [("d1", 1), ("d2", 2), ("d3", i64::MAX - 1)] {
            store.add_downtime(&downtime(id, begins_us)).await.expect("added");
        }
        let operator = |name: &str| OperatorRow {
            name: name.parse().expect("a name"),
            role: Role::Viewer,
            scope: Some("web-1".parse().expect("a selector")),
            operations: crate::authz::Operations::default(),
            serial: String::new(),
            key: String::new(),
            renewable: false,
            created_us: 1,
            certificate_until_us: 9,
            revoked_us: None,
        };
        for name in ["alice", "bob"] {
            store.add_operator(&operator(name), false).await.expect("added");
        }
        for text in [
            "UPDATE downtimes SET hosts = 'and and' WHERE id = 'd2'",
            "UPDATE operators SET scope = '(' WHERE name = 'bob'",
        ] {
            sqlx::query(text).execute(&store.pool).await.expect("damaged");
        }
        let read = store.downtimes(100).await.expect("read");
        let ids: Vec<_> = read.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["d1", "d3"]);
        assert!(store.end_downtime("d3", 100).await.expect("ended"));
        assert_eq!(store.operators().await.expect("read").len(), 1);
        let bob = "bob".parse().expect("a name");
        assert!(store.operator(&bob).await.is_err(), "nobody can say what it may do");
        assert!(store.revoke_operator(&bob, 5).await.expect("revoked"));
        assert!(store.add_operator(&operator("bob"), false).await.expect("added anew"));
        assert_eq!(store.operators().await.expect("read").len(), 2);
    }

    async fn the_longest_selector_that_can_be_typed_is_read_back(fixture: Fixture) {
        let store = &fixture.store;
        let names = vec!["web-1"; 10_900].join(",");
        let deep = format!("{}all", "not ".repeat(63));
        for (id, text) in [("a", names), ("b", deep)] {
            let hosts: crate::selector::Selector = text.parse().expect("selector");
            let scope = hosts.clone();
            let downtime = Downtime {
                id: id.into(),
                hosts: hosts.within(&scope),
                checks: Checks::new("*").expect("pattern"),
                begins_us: 1,
                ends_us: 9,
                lasts_us: None,
                begun: HashMap::new(),
                made_by: "eve".into(),
                comment: "x".into(),
            };
            store.add_downtime(&downtime).await.expect("added");
        }
        assert_eq!(store.downtimes(2).await.expect("read").len(), 2);
    }

    async fn the_end_of_a_problem_waits_for_those_alone_who_heard_of_it(fixture: Fixture) {
        let store = &fixture.store.clone().telling(vec!["heard".into(), "deaf".into()]);
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let tell = |number, became: Status| async move {
            let turn = Turn {
                number,
                check: "disk".into(),
                was: Status::Ok.into(),
                became: became.into(),
                hard: true,
                ..Turn::default()
            };
            store.record_health(&[news("web-1", vec![turn])]).await.expect("written");
        };
        let waiting = async |target: &str| store.due_notices(target, 9, 9).await.expect("read");
        tell(1, Status::Critical).await;
        let notice = waiting("heard").await.remove(0);
        assert!(store.notice_attempted(&notice).await.expect("written"));
        tell(2, Status::Ok).await;
        assert!(!store.notice_attempted(&notice).await.expect("asked"), "it waits no more");
        let left = waiting("heard").await.remove(0);
        assert_eq!((left.became, waiting("deaf").await.len()), (Status::Ok, 0));
        let told = store.told("heard", &name("web-1"), "disk").await.expect("read").expect("there");
        assert_eq!((told.status, told.last()), (Status::Unspecified, Status::Critical));
        let fates = [
            Fate::Told { notice: left.clone(), at_us: 7 },
            Fate::Dropped { notice: left, forget: false },
        ];
        store.settle_notices(&fates).await.expect("written");
        let told = store.told("heard", &name("web-1"), "disk").await.expect("read").expect("there");
        assert_eq!((told.last(), told.at_us), (Status::Ok, 7));
        tell(3, Status::Ok).await;
        assert!(waiting("heard").await.is_empty(), "it knows");
    }

    async fn what_is_known_of_a_problem_goes_when_it_recovers_or_gets_worse(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let given = || Acknowledgement {
            host: "web-1".into(),
            check: "disk".into(),
            at_us: 7,
            severity: 2,
            expires_us: None,
            made_by: "eve".into(),
            comment: "on it".into(),
        };
        let after = |became: Status, at_us, flapping| async move {
            store.acknowledge(&given()).await.expect("given");
            let turn = Turn {
                check: "disk".into(),
                became: became.into(),
                hard: true,
                at_us,
                flapping,
                ..Turn::default()
            };
            let news = News { heard_us: 20, ..news("web-1", vec![turn]) };
            store.record_health(&[news]).await.expect("written");
            store.acknowledgements(20).await.expect("read").len()
        };
        assert_eq!(after(Status::Warning, 8, false).await, 1, "it got better");
        assert_eq!(after(Status::Ok, 8, true).await, 1, "it flaps");
        assert_eq!(after(Status::Ok, 6, false).await, 1, "that was before");
        assert_eq!(after(Status::Ok, 8, false).await, 0);
        assert_eq!(after(Status::Critical, 8, false).await, 0);
    }

    async fn that_a_host_is_back_is_told_however_its_link_was_lost(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let hello = HelloReply {
            boot_id: "b".into(),
            instance: "i".into(),
            ..HelloReply::default()
        };
        let up = |at_us| Change::Up {
            host: name("web-1"),
            address: "10.0.0.1:1".into(),
            hello: Box::new(hello.clone()),
            certificate_until_us: 9,
            left: Left::No,
            silent: false,
            at_us,
        };
        let mut at_us = 1;
        for lost in [Lost::Cut, Lost::Closed, Lost::Silent, Lost::Broken] {
            let (host, left) = (name("web-1"), Left::No);
            let (reason, seen_us) = ("x".into(), at_us);
            let down = Change::Down { host, lost, reason, left, seen_us, at_us: at_us + 1 };
            store.change_connections(&[up(at_us), down, up(at_us + 2)]).await.expect("written");
            let turns = store.turns(&name("web-1"), None, at_us + 1, 9).await.expect("read");
            let became: Vec<_> = turns.iter().map(|t| t.became).collect();
            assert_eq!(became, [Status::Ok, Status::Critical], "{lost:?}");
            at_us += 10;
        }
    }

    async fn how_an_agent_ended_while_there_was_no_controller_is_in_its_history(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        store.change_connections(&[linked("web-1", false, 2)]).await.expect("written");
        let cases = [
            (Left::No, Ending::Sudden, Status::Critical, "killed or crashed"),
            (Left::No, Ending::Stopped, Status::Warning, "stopped on purpose"),
            (Left::Agent, Ending::Stopped, Status::Warning, "stopped on purpose"),
        ];
        for ((left, ending, away, why), at_us) in cases.into_iter().zip([10, 20, 30]) {
            store.none_connected("restarted", at_us).await.expect("written");
            let hello = HelloReply {
                boot_id: "b".into(),
                instance: at_us.to_string(),
                before: ending.into(),
                ..HelloReply::default()
            };
            let up = Change::Up {
                host: name("web-1"),
                address: "10.0.0.1:1".into(),
                hello: Box::new(hello),
                certificate_until_us: 9,
                left,
                silent: false,
                at_us: at_us + 1,
            };
            store.change_connections(&[up]).await.expect("written");
            let turns = store.turns(&name("web-1"), None, at_us, 9).await.expect("read");
            let told: Vec<_> = turns.iter().map(|t| (t.was, t.became, t.at_us)).collect();
            assert_eq!(told, [(away, Status::Ok, at_us + 1), (Status::Ok, away, at_us)]);
            assert!(turns[0].summary.ends_with(why), "{}", turns[0].summary);
        }
    }

    async fn that_a_host_left_as_it_said_is_no_emergency_in_its_history(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let hello = |boot: &str| HelloReply {
            boot_id: boot.into(),
            instance: "i".into(),
            ..HelloReply::default()
        };
        let up = |boot: &str, left, at_us| Change::Up {
            host: name("web-1"),
            address: "10.0.0.1:1".into(),
            hello: Box::new(hello(boot)),
            certificate_until_us: 9,
            left,
            silent: false,
            at_us,
        };
        let reason = "the agent closed the link".to_owned();
        let (host, lost, left) = (name("web-1"), Lost::Closed, Left::Host);
        let down = Change::Down { host, lost, reason, left, seen_us: 2, at_us: 3 };
        let changes = [up("a", Left::No, 2), down, up("b", left, 4)];
        store.change_connections(&changes).await.expect("written");
        let turns = store.turns(&name("web-1"), None, 3, 9).await.expect("read");
        let told: Vec<_> = turns.iter().map(|t| (t.was, t.became)).collect();
        let (well, away) = (Status::Ok, Status::Warning);
        assert_eq!(told, [(away, well), (well, away)]);
        assert!(turns[1].summary.starts_with("the host is going down"), "{}", turns[1].summary);
    }

    async fn history_has_the_end_of_an_absence_that_another_machine_ended(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        let went = |left, at_us| async move {
            let reason = "the connection was closed".into();
            let (host, lost) = (name("web-1"), Lost::Closed);
            let down = Change::Down { host, lost, reason, left, seen_us: at_us, at_us };
            store.record_health(&[News { left, ..news("web-1", vec![]) }]).await.expect("written");
            store.change_connections(&[linked("web-1", false, at_us - 1), down]).await.expect("written");
            store.enroll("t", new_host("web-1", true), at_us + 1).await.expect("replaced");
            store.change_connections(&[linked("web-1", false, at_us + 2)]).await.expect("written");
            let turns = store.turns(&name("web-1"), None, at_us, 9).await.expect("read");
            turns.iter().map(|t| (t.was, t.became, t.at_us)).collect::<Vec<_>>()
        };
        for (left, away, at_us) in [(Left::No, Status::Critical, 10), (Left::Agent, Status::Warning, 20)] {
            let told = went(left, at_us).await;
            assert_eq!(told, [(away, Status::Ok, at_us + 1), (Status::Ok, away, at_us)]);
        }
        // One that did not come back after a start of the controller has no beginning either.
        store.none_connected("restarted", 30).await.expect("written");
        store.enroll("t", new_host("web-1", true), 31).await.expect("replaced");
        assert!(store.turns(&name("web-1"), None, 30, 9).await.expect("read").is_empty());
    }

    async fn history_has_the_end_of_a_silence_that_a_new_link_ended(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        store.change_connections(&[linked("web-1", false, 2)]).await.expect("written");
        for (silent, at_us) in [(false, 3), (true, 4)] {
            store.change_connections(&[linked("web-1", silent, at_us)]).await.expect("written");
        }
        let read = async |since_us| {
            let turns = store.turns(&name("web-1"), None, since_us, 9).await.expect("read");
            turns.iter().map(|t| (t.was, t.became, t.at_us)).collect::<Vec<_>>()
        };
        assert_eq!(read(0).await, [(Status::Unknown, Status::Ok, 4)]);
        // Another machine does the same, though nothing is known of where it was.
        store.enroll("t", new_host("web-1", true), 5).await.expect("replaced");
        store.change_connections(&[linked("web-1", true, 6)]).await.expect("written");
        assert_eq!(read(5).await, [(Status::Unknown, Status::Ok, 6)]);
    }

    async fn a_host_was_seen_when_something_of_it_came_last(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        let seen = async |host: &str| {
            store.host(&name(host)).await.expect("read").expect("there").last_seen_us
        };
        for host in ["web-1", "web-2"] {
            store.enroll("t", new_host(host, false), 1).await.expect("enrolled");
            store.change_connections(&[linked(host, false, 2)]).await.expect("written");
        }
        let (lost, reason, left) = (Lost::Silent, "it fell silent".into(), Left::No);
        let down = Change::Down { host: name("web-1"), lost, reason, left, seen_us: 30, at_us: 35 };
        store.change_connections(&[down]).await.expect("written");
        // The controller ends, and sees nothing of the link's end.
        store.seen_until(50).await.expect("written");
        store.none_connected("restarted", 90).await.expect("written");
        assert_eq!((seen("web-1").await, seen("web-2").await), (30, 50));
        let row = store.host(&name("web-1")).await.expect("read").expect("there");
        assert_eq!(row.since_us, 35);
    }

    async fn what_was_said_of_a_host_counts_no_more_when_its_link_is_lost(fixture: Fixture) {
        let store = &fixture.store;
        token(store, "t", 9, i64::MAX).await;
        store.enroll("t", new_host("web-1", false), 1).await.expect("enrolled");
        store.change_connections(&[linked("web-1", false, 2)]).await.expect("written");
        let given = |check: &str, at_us| Acknowledgement {
            host: "web-1".into(),
            check: check.into(),
            at_us,
            severity: 3,
            expires_us: None,
            made_by: "eve".into(),
            comment: "its clock is known to be wrong".into(),
        };
        let kept = async |of_host_us| {
            let (lost, reason, left) = (Lost::Closed, "closed".into(), Left::Agent);
            let (host, seen_us) = (name("web-1"), 10);
            let down = Change::Down { host, lost, reason, left, seen_us, at_us: 10 };
            for given in [given("", of_host_us), given("disk", 5)] {
                store.acknowledge(&given).await.expect("given");
            }
            store.change_connections(&[down]).await.expect("written");
            let kept = store.acknowledgements(20).await.expect("read");
            let mut kept: Vec<_> = kept.into_iter().map(|a| a.check).collect();
            kept.sort();
            store.change_connections(&[linked("web-1", false, 12)]).await.expect("written");
            kept
        };
        assert_eq!(kept(5).await, ["disk"]);
        assert_eq!(kept(11).await, ["", "disk"], "it was said of that it is away");
    }
}
