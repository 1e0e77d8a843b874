//! What goes wrong between a token and a host that is linked, and costs nothing.

use std::{fs, path::PathBuf};

use hostler_tests::fleet::{Fleet, Place};
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
