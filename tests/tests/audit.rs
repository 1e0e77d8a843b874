//! What the audit promises, under kill -9.

use std::{collections::HashMap, time::Duration};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::eventually,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// How often the controller is killed.
const KILLS: usize = 12;

#[test]
fn a_controller_killed_at_any_moment_keeps_every_record_that_it_answered_for() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "[link]\nreconnect_longest = \"500ms\"");
    // Moments differ from run to run as processes do; the seed keeps the plan the same.
    let mut rng = SmallRng::seed_from_u64(7);
    let mut answered = Vec::new();
    for _ in 0..KILLS {
        fleet.wait_for("web-1", "up");
        let path = fleet.path("");
        let mut running = Vec::new();
        for i in 0..4 {
            let output = format!("run-{}-{i}.json", answered.len());
            let args = ["host", "resources", "--interval", "1s", "--on", "all", "-o", "json"];
            let quick = ["host", "facts", "--on", "all", "-o", "json"];
            let args: &[&str] = if i % 2 == 0 { &quick } else { &args };
            running.push((fleet.ctl_begins(args, &output), path.join(output)));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..1300)));
        fleet.take_controller().kill();
        for (mut ctl, output) in running {
            let code = ctl.ended();
            if code == Some(0) {
                answered.push(output);
            }
        }
        fleet.start_controller();
        fleet.ctl(&["audit", "verify"]).exits(0);
    }
    let audit = fleet.audit();
    let mut ends: HashMap<String, (usize, usize)> = HashMap::new();
    let mut outcomes = 0;
    for record in &audit {
        let invocation = record["invocation"].as_str().unwrap_or_default().to_owned();
        match record["kind"].as_str() {
            Some("intent") => ends.entry(invocation).or_default().0 += 1,
            Some("outcome" | "recovered") => {
                outcomes += usize::from(record["kind"] == "outcome");
                ends.entry(invocation).or_default().1 += 1;
            }
            _ => {}
        }
    }
    assert!(ends.values().all(|(begun, ended)| begun == ended), "{ends:?}");
    assert!(outcomes >= answered.len(), "{outcomes} outcomes, {} answers", answered.len());
    assert!(audit.iter().any(|r| r["kind"] == "recovered"), "no kill hit a running operation");
}

#[test]
fn who_only_looks_is_in_the_audit_too_and_does_not_fill_it() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    fleet.add_operator("eve", "viewer", "all");
    for _ in 0..3 {
        fleet.ctl_as("eve", &["status"]);
    }
    fleet.ctl_as("eve", &["hosts", "--on", "web-*"]).exits(0);
    fleet.ctl_as("eve", &["audit", "list", "--host", "web-1"]).exits(0);
    let of_eve = |more: &[&str]| {
        let args = [&["audit", "list", "--operator", "eve", "-o", "json"], more].concat();
        let records = fleet.ctl(&args).exits(0).json();
        let shown = |r: &serde_json::Value| {
            let text = |name: &str| r[name].as_str().expect("text").to_owned();
            (text("kind"), text("operation"), text("subject"))
        };
        records.as_array().expect("a list").iter().map(shown).collect::<Vec<_>>()
    };
    let look = |operation: &str, subject: &str| ("look".into(), operation.into(), subject.into());
    let wanted =
        [look("audit.list", "web-1"), look("fleet.hosts", "web-*"), look("fleet.status", "")];
    eventually("each look is recorded once", || of_eve(&["--looks"]) == wanted);
    assert!(of_eve(&[]).is_empty(), "they are shown to those alone who ask for them");
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn a_record_that_was_changed_or_taken_out_is_found() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
    fleet.ctl(&["audit", "verify"]).exits(0);
    fleet.take_controller().stop();
    let store = fleet.path("controller/store.sqlite");
    let change = "UPDATE audit SET principal = 'operator/mallory' WHERE seq = 3";
    let done = hostler_tests::process::command("/usr/bin/sqlite3").arg(&store).arg(change).output();
    assert!(done.expect("sqlite3").status.success());
    fleet.start_controller();
    let said = fleet.ctl(&["audit", "verify"]).exits(1);
    assert!(format!("{}{}", said.out, said.err).contains('3'), "{said:?}");
    eventually("the agent is back", || fleet.host("web-1")["connection"] == "up");
}
