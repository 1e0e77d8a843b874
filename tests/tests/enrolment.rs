//! What goes wrong between a token and a host that is linked, and costs nothing.

use std::{fs, path::PathBuf};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{command, eventually},
};
use rustix::process::Signal;
use serde_json::Value;

fn identity(fleet: &Fleet) -> PathBuf {
    fleet.path("state-web-1/identity.toml")
}

fn enrolments(fleet: &Fleet) -> Vec<Value> {
    let fits = |r: &Value| r["operation"] == "host.enroll" && r["kind"] == "outcome";
    fleet.audit().into_iter().filter(fits).collect()
}

#[test]
fn an_identity_that_could_not_be_kept_costs_neither_the_token_nor_the_name() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "");
    fleet.configure("web-2", "");
    let token = fleet.token(&["--host", "web-1"]);
    // Nothing can be written: nothing is sent.
    let state = fleet.path("state-web-1");
    fs::write(&state, "no directory").expect("written");
    let said = fleet.enroll_by_force("web-1", &token).expect_err("no directory");
    assert!(said.contains("state-web-1") && !said.contains("the host is enrolled"), "{said}");
    assert!(enrolments(&fleet).is_empty());
    // The last step fails: the host is enrolled, and does not know it.
    fs::remove_file(&state).expect("removed");
    fs::create_dir_all(identity(&fleet)).expect("in the way");
    let said = fleet.enroll_by_force("web-1", &token).expect_err("cannot be kept");
    assert!(said.contains("run the same command again"), "{said}");
    assert_eq!(fleet.host("web-1")["connection"], "never");
    // Without its key the token is used up.
    let said = fleet.enroll("web-2", &token).expect_err("for another name");
    assert!(said.contains("web-1"), "{said}");
    fs::rename(&state, fleet.path("kept")).expect("moved");
    let said = fleet.enroll("web-1", &token).expect_err("another key");
    assert!(said.contains("used up"), "{said}");
    fs::remove_dir_all(&state).expect("removed");
    fs::rename(fleet.path("kept"), &state).expect("moved");
    fs::remove_dir(identity(&fleet)).expect("out of the way");
    fleet.enroll("web-1", &token).expect("the same token, the same key");
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    let enrolments = enrolments(&fleet);
    assert_eq!(enrolments.len(), 2, "{enrolments:?}");
    assert!(enrolments[1]["detail"].to_string().contains("again"), "{enrolments:?}");
}

/// Does something to the store beside the controller.
fn sql(fleet: &Fleet, statement: &str) {
    let store = fleet.path("controller/store.sqlite");
    let mut done = command("/usr/bin/sqlite3");
    let done =
        done.args(["-cmd", ".timeout 10000"]).arg(store).arg(statement).output().expect("sqlite3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// From now on a change of the store is refused, until `allow`.
fn refuse(fleet: &Fleet, change: &str) {
    let trigger = "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sql(fleet, &format!("CREATE TRIGGER full BEFORE {change} {trigger}"));
}

fn allow(fleet: &Fleet) {
    sql(fleet, "DROP TRIGGER full");
}

#[test]
fn an_enrolment_whose_outcome_cannot_be_written_down_yet_is_answered() {
    let fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "");
    let token = fleet.token(&["--host", "web-1"]);
    let outcomes = |fleet: &Fleet| {
        let word = |r: Value| r["outcome"].as_str().expect("a word").to_owned();
        enrolments(fleet).into_iter().map(word).collect::<Vec<_>>()
    };
    // It is done, and only that cannot be written down.
    refuse(&fleet, "INSERT ON audit WHEN NEW.kind = 'outcome'");
    fleet.enroll("web-1", &token).expect("it is enrolled");
    allow(&fleet);
    eventually("its outcome is written down", || outcomes(&fleet) == ["ok"]);
    let intents = |r: &Value| r["operation"] == "host.enroll" && r["kind"] == "intent";
    assert_eq!(fleet.audit().into_iter().filter(intents).count(), 1);
}

#[test]
fn a_machine_whose_name_was_taken_is_cut_also_when_the_answer_to_that_was_lost() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "[link]\nreconnect_first = \"100ms\"");
    // Another machine that is called web-1.
    let state = fleet.path("state-other").display().to_string();
    let config = format!("state_dir = \"{state}\"\n");
    fs::write(fleet.path("web-1.toml"), config).expect("written");
    let token = fleet.token(&["--host", "web-1", "--replace"]);
    refuse(&fleet, "INSERT ON hosts");
    fleet.enroll("web-1", &token).expect_err("the store fails");
    allow(&fleet);
    // As if it had done it, and only the answer had been lost.
    let failed = enrolments(&fleet).pop().expect("its outcome");
    assert_eq!(failed["outcome"], "failed");
    let detail = failed["detail"]
        .as_str()
        .map_or_else(|| failed["detail"].clone(), |text| serde_json::from_str(text).expect("JSON"));
    assert!(detail["summary"].as_str().expect("why").contains("the disk is full"), "{detail}");
    let key = detail["key"].as_str().expect("a key");
    let taken = format!("UPDATE hosts SET key_fingerprint = '{key}', connection = 'never'");
    sql(&fleet, &format!("{taken}; UPDATE tokens SET uses_left = 0"));
    // What fails here, too, has its outcome.
    refuse(&fleet, "UPDATE ON hosts");
    fleet.enroll("web-1", &token).expect_err("the store fails");
    allow(&fleet);
    assert_eq!(enrolments(&fleet).last().expect("its outcome")["outcome"], "failed");
    fleet.enroll("web-1", &token).expect("the same token, the same key");
    let refused = "refuses this host: ";
    eventually("the former is cut", || fleet.agent("web-1").log().contains(refused));
}

#[test]
fn a_token_that_was_revoked_answers_nobody_once_more() {
    let fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "");
    let token = fleet.token(&["--host", "web-1"]);
    fs::create_dir_all(identity(&fleet)).expect("in the way");
    fleet.enroll_by_force("web-1", &token).expect_err("cannot be kept");
    fs::remove_dir(identity(&fleet)).expect("out of the way");
    let id = token.split('.').nth(1).expect("an id");
    fleet.ctl(&["token", "revoke", id]).exits(0);
    let said = fleet.enroll("web-1", &token).expect_err("revoked");
    assert!(said.contains("used up or expired"), "{said}");
}

#[test]
fn a_host_that_is_enrolled_keeps_its_identity_unless_it_is_forced() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    let before = fs::read(identity(&fleet)).expect("an identity");
    let token = fleet.token(&["--host", "web-1", "--replace"]);
    let said = fleet.enroll("web-1", &token).expect_err("enrolled already");
    assert!(said.contains("as web-1 of the fleet test") && said.contains("--force"), "{said}");
    let said = fleet.enroll_by_force("web-1", &token).expect_err("its agent runs");
    assert!(said.contains("another hostler-agent (pid "), "{said}");
    assert_eq!(fs::read(identity(&fleet)).expect("an identity"), before);
    fleet.take_agent("web-1").stop();
    fleet.enroll_by_force("web-1", &token).expect("the token is still good");
    assert_ne!(fs::read(identity(&fleet)).expect("an identity"), before);
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
}

#[test]
fn two_agents_do_not_share_a_state_directory() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    let state = fleet.path("state-web-1");
    let config = format!("state_dir = \"{}\"\n", state.display());
    fs::write(fleet.path("second.toml"), config).expect("written");
    fleet.start_agent("second");
    fleet.take_agent("second").ended();
    let said = fs::read_to_string(fleet.path("second.log")).expect("a log");
    assert!(said.contains("another hostler-agent (pid "), "{said}");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
}

/// Starts an agent with a copy of a host's key.
fn copy(fleet: &mut Fleet) {
    fs::create_dir(fleet.path("state-copy")).expect("made");
    let copied = fleet.path("state-copy/identity.toml");
    fs::copy(identity(fleet), copied).expect("copied");
    fleet.configure("copy", "");
    fleet.start_agent("copy");
}

#[test]
fn an_agent_that_is_refused_says_why_once_and_what_to_do() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let quick = "[link]\nreconnect_first = \"100ms\"\nreconnect_longest = \"200ms\"";
    fleet.join("web-1", &[], quick);
    let log = |fleet: &Fleet, host: &str| fleet.agent(host).log();
    copy(&mut fleet);
    let said = "the controller refuses this host: an agent at 127.";
    eventually("the copy says why", || log(&fleet, "copy").contains(said));
    fleet.take_agent("copy").stop();
    fleet.ctl(&["host", "revoke", "web-1", "--reason", "stolen", "--yes"]).exits(0);
    let again = "still refuses this host: web-1 is revoked";
    eventually("it was refused again", || log(&fleet, "web-1").matches(again).count() > 2);
    let errors =
        log(&fleet, "web-1").matches("refuses this host: web-1 is revoked; an admin").count();
    assert_eq!(errors, 1, "{}", log(&fleet, "web-1"));
}

#[test]
fn a_copy_that_takes_the_place_of_a_host_that_hangs_is_told_of() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let quick = "[link]\nreconnect_first = \"100ms\"\nreconnect_longest = \"200ms\"";
    fleet.join("web-1", &[], quick);
    fleet.agent("web-1").signal(Signal::STOP);
    copy(&mut fleet);
    let problems =
        |fleet: &Fleet| fleet.ctl(&["status", "-o", "json"]).json()["problems"].to_string();
    eventually("the copy is told of", || problems(&fleet).contains("perhaps a clone"));
    let taken = |r: &Value| {
        r["operation"] == "host.link" && r["kind"] == "change" && r["subject"] == "web-1"
    };
    assert_eq!(fleet.audit().into_iter().filter(taken).count(), 1);
    fleet.agent("web-1").signal(Signal::CONT);
    eventually("the one that hung is the clone", || {
        problems(&fleet).contains("a clone: an agent at")
    });
    eventually("it says so itself", || fleet.agent("web-1").log().contains("refuses this host"));
}
