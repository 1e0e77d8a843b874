//! Who gets in, for how long, and how a fleet keeps from locking everybody out.

use std::process::Output;

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{built, command, within},
};

/// The controller's program with the fleet's configuration.
fn controller(fleet: &Fleet, args: &[&str]) -> Output {
    let mut command = command(built("hostler-controller"));
    command.arg("--config").arg(fleet.path("controller.toml")).args(args);
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn kept(fleet: &Fleet) -> String {
    let file = fleet.path("contexts/hostler/contexts/admin.toml");
    std::fs::read_to_string(file).expect("the admin's context")
}

#[test]
fn an_operator_renews_its_certificate_unless_that_was_made_to_end() {
    let fleet = Fleet::new(Place::Loopback, "operator_certificate = \"30d\"");
    let before = kept(&fleet);
    let renewed = fleet.ctl(&["context", "renew"]).exits(0);
    assert!(renewed.err.contains("counts until"), "{renewed:?}");
    assert_ne!(kept(&fleet), before);
    fleet.ctl(&["status"]).exits(0);

    let file = fleet.path("guest.toml").display().to_string();
    let add = ["operator", "add", "guest", "--role", "viewer", "--days", "1", "--out", &file];
    fleet.ctl(&add).exits(0);
    fleet.ctl(&["context", "import", &file, "--name", "guest"]).exits(0);
    let soon = fleet.ctl_as("guest", &["whoami"]);
    assert_eq!(soon.err, "", "a whole life is left");
    let refused = fleet.ctl(&["context", "renew", "guest"]).exits(4);
    assert!(refused.err.contains("was made to end"), "{refused:?}");
    let status = fleet.ctl(&["status", "-o", "json"]).json();
    assert!(!status["problems"].to_string().contains("guest"), "it was made to end: {status}");
    let renewals = fleet.audit().into_iter().filter(|r| r["operation"] == "operator.renew");
    assert_eq!(renewals.count(), 4, "two with their outcomes");
}

#[test]
fn the_last_admin_cannot_be_revoked_and_one_that_revokes_itself_hears_the_answer() {
    let fleet = Fleet::new(Place::Loopback, "");
    let revoke = ["operator", "revoke", "admin", "--reason", "left", "--yes"];
    let refused = fleet.ctl(&revoke).exits(1);
    assert!(refused.err.contains("the last admin"), "{refused:?}");
    let part = fleet.path("part.toml").display().to_string();
    let add = ["operator", "add", "part", "--role", "admin", "--on", "role=web", "--out", &part];
    let refused = fleet.ctl(&add).exits(2);
    assert!(refused.err.contains("is not limited"), "{refused:?}");
    fleet.add_operator("second", "admin", "all");
    fleet.ctl(&revoke).exits(0);
    within(std::time::Duration::from_secs(1), "it is out", || fleet.ctl(&["status"]).code == 4);
    fleet.ctl_as("second", &["status"]).exits(0);
}

#[test]
fn a_fleet_that_no_admin_can_enter_gets_one_where_the_controller_runs() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let context = fleet.path("again.toml").display().to_string();
    let args = ["admin", "admin", "--context", &context];
    let running = controller(&fleet, &args);
    assert!(!running.status.success() && said(&running).contains("stop it first"), "{running:?}");
    assert!(!fleet.path("again.toml").exists());
    fleet.add_operator("part", "operator", "role=web");
    fleet.take_controller().stop();
    let limited = controller(&fleet, &["admin", "part", "--context", &context]);
    assert!(said(&limited).contains("part is an operator, and would become"), "{limited:?}");
    assert!(!limited.status.success() && !fleet.path("again.toml").exists());
    let made = controller(&fleet, &args);
    assert!(made.status.success(), "{made:?}");
    fleet.start_controller();
    fleet.ctl(&["status"]).exits(4);
    fleet.ctl(&["context", "import", &context, "--name", "again"]).exits(0);
    fleet.ctl_as("again", &["audit", "verify"]).exits(0);
    let audit = fleet.ctl_as("again", &["audit", "list", "-o", "json"]).exits(0).json();
    assert!(audit.to_string().contains("\"local\""), "{audit}");
    let theirs = ["audit", "list", "--operator", "local", "-o", "json"];
    let local = fleet.ctl_as("again", &theirs).exits(0).json();
    assert_eq!(local.as_array().map(Vec::len), Some(1), "{local}");
}

#[test]
fn a_state_directory_has_one_controller() {
    let fleet = Fleet::new(Place::Loopback, "");
    let second = controller(&fleet, &["run"]);
    assert!(!second.status.success(), "{second:?}");
    assert!(said(&second).contains("another hostler-controller uses"), "{second:?}");
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn an_operator_asks_for_the_operations_that_it_was_given_and_no_others() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    let file = fleet.path("probe.toml").display().to_string();
    let add = |operations: &str| {
        let role = ["operator", "add", "probe", "--role", "operator", "--out", &file];
        fleet.ctl(&[&role[..], &["--operations", operations]].concat())
    };
    let slip = add("host.fcats").exits(2);
    assert!(slip.err.contains("there is no operation \"host.fcats\""), "{slip:?}");
    add("host.facts,disk.*").exits(0);
    fleet.ctl(&["context", "import", &file, "--name", "probe"]).exits(0);
    fleet.ctl_as("probe", &["host", "facts", "--on", "all"]).exits(0);
    let disks = fleet.ctl_as("probe", &["disk", "usage", "--on", "all"]);
    assert!(disks.out.contains("MOUNT"), "however full they are: {disks:?}");
    let denied = fleet.ctl_as("probe", &["host", "processes", "--on", "all"]).exits(4);
    assert!(denied.err.contains("may not use host.processes on web-1"), "{denied:?}");
    let list = fleet.ctl(&["operator", "list"]).exits(0);
    assert!(list.out.contains("host.facts,disk.*"), "{list:?}");
}
