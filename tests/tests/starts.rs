//! A controller that cannot start says why in one sentence.

use std::{fs, net::TcpListener, path::Path};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{built, command},
};

/// What a controller says that must not start.
fn refused(fleet: &Fleet) -> String {
    let output = command(built("hostler-controller"))
        .arg("--config")
        .arg(fleet.path("controller.toml"))
        .arg("run")
        .output()
        .expect("the controller runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn sql(store: &Path, statement: &str) {
    let done = command("/usr/bin/sqlite3").arg(store).arg(statement).output().expect("sqlite3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let other = TcpListener::bind(fleet.address()).expect("the port");
    let said = refused(&fleet);
    assert!(said.contains(fleet.address()) && said.contains("key listen"), "{said}");
    drop(other);
    fleet.start_controller();
    fleet.ctl(&["status"]).exits(0);
}

#[test]
fn a_store_of_a_newer_controller_is_not_touched() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    sql(
        &fleet.path("controller/store.sqlite"),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'newer', true, '', 0)",
    );
    let said = refused(&fleet);
    assert!(said.contains("version 9999") && said.contains("; "), "{said}");
}

#[test]
fn a_damaged_or_lost_fleet_is_not_replaced_by_another() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let file = fleet.path("controller/fleet.toml");
    let whole = fs::read_to_string(&file).expect("a fleet");
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    let said = refused(&fleet);
    assert!(said.contains("fleet.toml is damaged; restore it from a backup"), "{said}");
    fs::remove_file(&file).expect("removed");
    let said = refused(&fleet);
    assert!(said.contains("fleet.toml does not exist; run hostler-controller init"), "{said}");
    fs::write(&file, whole).expect("restored");
    fleet.start_controller();
    fleet.ctl(&["status"]).exits(0);
}
