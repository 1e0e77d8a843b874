//! What survives: cables are pulled, hosts freeze and lose power, the operator lets go, the controller
//! is killed, its disk is full.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use hostler_tests::{
    disk::SmallDisk,
    fleet::{Fleet, Place},
    lab::Lab,
    process::{built, command, eventually, within},
};
use serde_json::Value;

use super::{AGENT, QUICK, fleet};

#[test]
fn a_host_that_falls_silent_is_found_and_comes_back_by_itself() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    for fault in ["drop", "in", "out", "link"] {
        lab.script(&["cut", "h2", fault]);
        let found =
            within(Duration::from_secs(15), fault, || fleet.host("h2")["connection"] == "down");
        eprintln!("{fault}: found after {found:?}");
        assert!(!fleet.host("h2")["reason"].as_str().expect("a reason").is_empty());
        // It holds up nobody.
        let said = fleet.ctl(&["host", "facts", "--on", "all"]).exits(3);
        assert!(said.out.contains("h1") && said.out.contains("unreachable"), "{said:?}");
        lab.script(&["heal", "h2"]);
        fleet.wait_for("h2", "up");
    }
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
}

#[test]
fn a_host_that_loses_power_in_the_middle_of_an_action_is_reported_as_unknown() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/sleep 30\n";
    lab.write("h2", "/etc/systemd/system/slow.service", unit);
    lab.exec("h2", &["systemctl", "daemon-reload"]);
    let args = ["systemd", "start", "slow", "--on", "h2", "--yes", "-o", "json"];
    let mut starting = fleet.ctl_begins(&args, "slow.out");
    eventually("it is being started", || {
        let state = lab.exec("h2", &["systemctl", "show", "slow", "-P", "ActiveState"]);
        state.trim() == "activating"
    });
    lab.script(&["kill", "h2"]);
    assert_eq!(starting.ended(), Some(3), "{}", starting.log());
    assert!(starting.log().contains("unknown"), "{}", starting.log());
    let audit = fleet.audit();
    let unknown = |r: &&Value| r["operation"] == "systemd.start" && r["kind"] == "outcome";
    let outcome = audit.iter().find(unknown).expect("an outcome");
    assert!(outcome["outcome"].as_str().expect("text").contains("unknown"), "{outcome}");
    lab.script(&["boot", "h2"]);
}

#[test]
fn an_agent_that_is_stopped_ends_what_runs_and_records_it_as_interrupted() {
    let lab = Lab::take();
    let fleet = Fleet::new(Place::Lab, QUICK);
    lab.join(&fleet, "h2", &format!("stop = \"1s\"\n{AGENT}"));
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/sleep 30\n";
    lab.write("h2", "/run/systemd/system/slow.service", unit);
    lab.exec("h2", &["systemctl", "daemon-reload"]);
    let args = ["systemd", "start", "slow", "--on", "h2", "--yes", "-o", "json"];
    let mut starting = fleet.ctl_begins(&args, "slow.out");
    let follow = ["journal", "read", "--follow", "--on", "h2", "-o", "jsonl"];
    let mut following = fleet.ctl_begins(&follow, "follow.out");
    eventually("both run", || {
        let state = lab.exec("h2", &["systemctl", "show", "slow", "-P", "ActiveState"]);
        state.trim() == "activating" && !following.log().is_empty()
    });
    let began = Instant::now();
    lab.exec("h2", &["systemctl", "stop", "hostler-agent"]);
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    assert_eq!(starting.ended(), Some(3), "{}", starting.log());
    assert!(starting.log().contains("interrupted, the agent was stopped"), "{}", starting.log());
    following.ended();
    let audit = fleet.audit();
    let of_it = |r: &&Value| r["operation"] == "systemd.start" && r["kind"] == "outcome";
    let outcome = audit.iter().find(of_it).expect("an outcome");
    assert_eq!(outcome["outcome"], "outcome-unknown", "{outcome}");
    let detail = outcome["detail"].as_str().expect("text");
    assert!(detail.contains("interrupted, the agent was stopped"), "{outcome}");
    let state = lab.exec("h2", &["systemctl", "show", "hostler-agent", "-P", "Result"]);
    assert_eq!(state.trim(), "success");
    lab.exec("h2", &["systemctl", "stop", "slow"]);
}

#[test]
fn a_frozen_host_is_found_and_its_agent_goes_on_when_it_thaws() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.script(&["freeze", "h2"]);
    within(Duration::from_secs(15), "the silence is found", || {
        fleet.host("h2")["connection"] == "down"
    });
    lab.script(&["thaw", "h2"]);
    fleet.wait_for("h2", "up");
    fleet.ctl(&["host", "facts", "--on", "h2"]).exits(0);
}

#[test]
fn the_first_ctrl_c_leaves_an_action_to_itself_and_the_second_cancels_it_on_the_host() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/sleep 20\n";
    lab.write("h2", "/etc/systemd/system/slow.service", unit);
    lab.exec("h2", &["systemctl", "daemon-reload"]);
    let state = |wanted: &str| {
        eventually(&format!("the unit is {wanted}"), || {
            lab.exec("h2", &["systemctl", "show", "slow", "-P", "ActiveState"]).trim() == wanted
        });
    };
    let start = ["systemd", "start", "slow", "--on", "h2"];
    let mut watched = fleet.ctl_at_terminal(&start);
    state("activating");
    watched.types("\x03");
    watched.shows("goes on");
    watched.types("\x03");
    assert_ne!(watched.ended(), Some(0), "{}", watched.seen());
    let cancelled = |r: &Value| r["kind"] == "outcome" && r["operation"] == "systemd.start";
    eventually("the audit has its end", || fleet.audit().iter().any(cancelled));
    let outcomes: Vec<_> = fleet.audit().into_iter().filter(cancelled).collect();
    // systemd does not take a start back: what is known is that nobody waits for it any more.
    assert_eq!(outcomes[0]["outcome"], "outcome-unknown", "{outcomes:?}");
    assert!(outcomes[0]["detail"].as_str().is_some_and(|d| d.contains("its job goes on")));

    lab.exec("h2", &["systemctl", "stop", "slow"]);
    let mut left = fleet.ctl_at_terminal(&start);
    state("activating");
    left.types("\x03");
    left.shows("goes on");
    assert_ne!(left.ended(), Some(0), "{}", left.seen());
    state("activating");
    lab.exec("h2", &["systemctl", "stop", "slow"]);
}

#[test]
fn the_outcome_of_an_action_that_outlived_the_controller_is_asked_for_when_it_is_back() {
    let lab = Lab::take();
    let mut fleet = fleet(&lab);
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/sleep 4\n";
    lab.write("h1", "/run/systemd/system/brief.service", unit);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    let args = ["systemd", "start", "brief", "--on", "h1", "--yes", "-o", "json"];
    let mut starting = fleet.ctl_begins(&args, "brief.out");
    eventually("it is being started", || {
        let state = lab.exec("h1", &["systemctl", "show", "brief", "-P", "ActiveState"]);
        state.trim() == "activating"
    });
    fleet.take_controller().kill();
    starting.ended();
    fleet.start_controller();
    fleet.wait_for("h1", "up");
    eventually("its outcome is known", || {
        let audit = fleet.audit();
        let known = audit.iter().find(|r| r["kind"] == "reconciled");
        known.is_some_and(|r| r["operation"] == "systemd.start" && r["outcome"] == "ok")
    });
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn the_outcome_of_an_action_whose_link_was_replaced_is_asked_for_on_the_new_one() {
    let lab = Lab::take();
    // The agent finds the dead path long before the controller does, and dials again.
    let patient = "keepalive = \"120s\"\nkeepalive_timeout = \"60s\"";
    let fleet = Fleet::new(Place::Lab, patient);
    lab.join(&fleet, "h2", AGENT);
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/sleep 14\n";
    lab.write("h2", "/run/systemd/system/brief.service", unit);
    lab.exec("h2", &["systemctl", "daemon-reload"]);
    let args = ["systemd", "start", "brief", "--on", "h2", "--yes", "-o", "json"];
    let mut starting = fleet.ctl_begins(&args, "brief.out");
    eventually("it is being started", || {
        let state = lab.exec("h2", &["systemctl", "show", "brief", "-P", "ActiveState"]);
        state.trim() == "activating"
    });
    let run = lab.exec("h2", &["systemctl", "show", "hostler-agent", "-P", "InvocationID"]);
    let run = format!("_SYSTEMD_INVOCATION_ID={}", run.trim());
    lab.script(&["cut", "h2", "drop"]);
    eventually("the agent dials again", || {
        lab.succeeds("h2", &["journalctl", "--quiet", "--grep=dialling again", &run])
    });
    lab.script(&["heal", "h2"]);
    assert_eq!(starting.ended(), Some(3), "{}", starting.log());
    eventually("its outcome is known", || {
        let audit = fleet.audit();
        let known = audit.iter().find(|r| r["kind"] == "reconciled");
        known.is_some_and(|r| r["operation"] == "systemd.start" && r["outcome"] == "ok")
    });
}

#[test]
fn a_full_disk_under_the_store_lets_nothing_run_that_cannot_be_audited() {
    let disk = SmallDisk::new();
    let store = disk.path().join("store.sqlite");
    let mut fleet = Fleet::new(Place::Loopback, &format!("store = \"sqlite:{}\"", store.display()));
    fleet.join("web-1", &[], "");
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
    let before = fleet.audit().len();
    disk.fill();
    // The log has some room left in its last page; then nothing fits any more, and nothing is let go
    // however often it is asked for.
    let mut refused = Vec::new();
    eventually("operations are refused", || {
        let said = fleet.ctl(&["host", "facts", "--on", "all"]);
        if said.code != 0 {
            refused.push(said);
        }
        refused.len() == 8
    });
    for said in &refused {
        assert!(said.err.contains("full") && said.err.contains("audit"), "{said:?}");
    }
    let stored = || -> u64 {
        let list = "SELECT count(*) FROM audit WHERE kind <> 'look'";
        let said = command("/usr/bin/sqlite3").arg(&store).arg(list).output().expect("sqlite3");
        String::from_utf8_lossy(&said.stdout).trim().parse().expect("a number")
    };
    assert_eq!(fleet.audit().len() as u64, stored(), "what is told is what is on the disk");
    let status = fleet.ctl(&["status", "-o", "json"]).exits(1).json();
    assert!(status["problems"].to_string().contains("the audit cannot be written"), "{status}");
    disk.free();
    eventually("operations run again", || fleet.ctl(&["host", "facts", "--on", "all"]).code == 0);
    fleet.ctl(&["audit", "verify"]).exits(0);
    fleet.ctl(&["status"]).exits(0);
    let audit = fleet.audit();
    assert!(audit.len() > before);
    assert_eq!(audit.len() as u64, stored());
    let count = |kind: &str| audit.iter().filter(|r| r["kind"] == kind).count();
    assert_eq!(count("intent"), count("outcome") + count("recovered"), "{audit:?}");
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.ctl(&["audit", "verify"]).exits(0);
    assert_eq!(fleet.audit()[..audit.len()], audit, "nothing that was told is gone");
}

#[test]
fn an_agent_whose_disk_is_full_starts_and_looks_and_acts_again_when_there_is_space() {
    let disk = SmallDisk::new();
    let mut fleet = Fleet::new(Place::Loopback, "");
    symlink(disk.path(), fleet.path("state-web-1")).expect("a link");
    fleet.join("web-1", &[], "");
    let act = |fleet: &Fleet| {
        let said =
            fleet.ctl(&["systemd", "start", "no-such-unit", "--on", "web-1", "--yes"]).exits(1);
        format!("{}{}", said.out, said.err)
    };
    assert!(!act(&fleet).contains("journal"));
    fleet.take_agent("web-1").kill();
    disk.fill();
    fleet.start_agent("web-1");
    eventually("the agent looks", || fleet.ctl(&["host", "facts", "--on", "web-1"]).code == 0);
    let log = fleet.agent("web-1").log();
    for file in ["journal.jsonl cannot be rewritten", "checks.json, cannot be written"] {
        assert!(log.contains(&format!("{file}: No space left on device")), "{log}");
    }
    eventually("its checks run", || {
        let health = fleet.ctl(&["health", "web-1", "-o", "json"]).json();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        checks.iter().any(|c| c["state"]["check"] == "disk" && !c["state"]["checked_us"].is_null())
    });
    // Its start took away what would not be true any more, and left some room.
    disk.fill();
    let refused = act(&fleet);
    assert!(refused.contains("the agent's journal"), "{refused}");
    assert!(refused.contains("cannot be written: No space left on device"), "{refused}");
    disk.free();
    let said = act(&fleet);
    assert!(!said.contains("journal"), "{said}");
    let audit = fleet.audit();
    let count = |kind: &str| audit.iter().filter(|r| r["kind"] == kind).count();
    assert_eq!(count("intent"), count("outcome"), "{audit:?}");
}

#[test]
fn a_fleet_whose_admin_cannot_be_given_credentials_is_not_made() {
    let (disk, dir) = (SmallDisk::new(), tempfile::tempdir().expect("a directory"));
    let config = dir.path().join("controller.toml");
    let state = dir.path().join("state");
    fs::write(&config, format!("state_dir = \"{}\"\n", state.display())).expect("written");
    let context = disk.path().join("admin.toml");
    let init = || {
        let mut command = command(built("hostler-controller"));
        command.arg("--config").arg(&config).arg("init").arg("--context").arg(&context);
        command.output().expect("init runs")
    };
    disk.fill();
    let said = init();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && text.contains("admin.toml"), "{text}");
    assert!(!context.exists() && !state.join("fleet.toml").exists());
    disk.free();
    let said = init();
    assert!(said.status.success(), "{said:?}");
    assert!(context.exists() && state.join("fleet.toml").exists());
}
