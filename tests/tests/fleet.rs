//! The main job on real processes: a controller, agents that enrolled themselves, hostlerctl.

use std::{fs, io::Read, net::TcpListener, time::Duration};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{built, command, eventually, within},
};
use rustix::process::Signal;
use serde_json::Value;

fn hosts_of(results: &Value) -> Vec<&str> {
    results.as_array().expect("a list").iter().filter_map(|r| r["host"].as_str()).collect()
}

#[test]
fn an_operation_runs_on_one_host_on_some_and_on_all_and_every_request_is_in_the_audit() {
    let fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web"), ("db-1", "role=db")]);
    let status = fleet.ctl(&["status", "-o", "json"]).exits(0).json();
    assert_eq!((&status["hosts"], &status["up"]), (&3.into(), &3.into()));
    for (on, expected) in [
        ("db-1", vec!["db-1"]),
        ("web-*", vec!["web-1", "web-2"]),
        ("role=web and not web-1", vec!["web-2"]),
        ("all", vec!["db-1", "web-1", "web-2"]),
    ] {
        let results = fleet.ctl(&["host", "processes", "--on", on, "-o", "json"]).exits(0).json();
        let mut hosts = hosts_of(&results);
        hosts.sort_unstable();
        assert_eq!(hosts, expected, "{on}");
        assert!(results.as_array().expect("a list").iter().all(|r| r["status"] == "ok"));
    }
    let of = |kind: &str| {
        let fits = |r: &&Value| r["kind"] == kind && r["operation"] == "host.processes";
        fleet.audit().iter().filter(fits).count()
    };
    assert_eq!((of("intent"), of("outcome")), (7, 7));
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn a_mistake_of_the_caller_is_told_before_anything_is_sent() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    for (args, code, words) in [
        (vec!["host", "facts", "--on", "nope"], 6, "there is no host nope"),
        (vec!["health", "zz"], 6, "there is no host zz"),
        (vec!["history", "zz"], 6, "there is no host zz"),
        (vec!["ack", "zz", "--comment", "x"], 6, "there is no host zz"),
        (vec!["host", "label", "zz", "a=b"], 6, "there is no host zz"),
        (vec!["diagnose", "all"], 2, "no name of one host"),
        (vec!["status", "--watch", "-o", "json"], 2, "use -o jsonl"),
        (vec!["host", "facts", "--on", "role=="], 2, "column 6"),
        (vec!["disk", "usage", "--warning-percent", "200", "--on", "all"], 2, "at most 100"),
        (vec!["disk", "usage"], 2, "--on"),
        (vec!["host", "fact", "--on", "all"], 2, "facts"),
    ] {
        let said = fleet.ctl(&args).exits(code);
        assert!(said.err.contains(words), "{said:?}");
        assert!(said.out.is_empty(), "{said:?}");
    }
    let sent = |r: &Value| r["kind"] == "intent" && r["subject"] == "web-1" && r["role"] != "";
    assert!(!fleet.audit().iter().any(sent));
}

#[test]
fn a_host_that_dies_is_reported_and_holds_up_no_other() {
    let mut fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    assert_eq!(fleet.host("web-2")["reason"], "the connection was closed without a goodbye");
    let said = fleet.ctl(&["host", "processes", "--on", "all", "-o", "json"]).exits(3);
    let results = said.json();
    let of = |host: &str| {
        let found = results.as_array().expect("a list").iter().find(|r| r["host"] == host);
        found.expect("listed").clone()
    };
    assert_eq!(of("web-1")["status"], "ok");
    assert_eq!(of("web-2")["status"], "unreachable");
    let status = fleet.ctl(&["status", "-o", "json"]).exits(1).json();
    assert_eq!(status["problems"][0]["subject"], "web-2");
    fleet.start_agent("web-2");
    fleet.wait_for("web-2", "up");
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
}

#[test]
fn agents_come_back_after_the_controller_did_and_one_that_died_meanwhile_is_reported() {
    let mut fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_controller().kill();
    fleet.ctl(&["status"]).exits(5);
    fleet.take_agent("web-2").kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    assert_eq!(fleet.host("web-2")["connection"], "down");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
}

#[test]
fn a_policy_that_changed_counts_at_once_and_one_that_cannot_be_used_never() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    let facts = || fleet.ctl(&["host", "facts", "--on", "web-1"]);
    facts().exits(0);
    fleet.configure("web-1", "[policy]\ndeny = [\"host.*\"]");
    fleet.agent("web-1").signal(Signal::HUP);
    eventually("the policy counts", || facts().code == 4);
    let said = facts();
    let file = fleet.path("web-1.toml").display().to_string();
    assert!(said.out.contains(&file) || said.err.contains(&file), "{said:?}");
    fleet.configure("web-1", "[policy]\ndeny = [\"host.{\"]");
    fleet.agent("web-1").signal(Signal::HUP);
    eventually("it was refused", || fleet.agent("web-1").log().contains("stays as it was"));
    facts().exits(4);
}

#[test]
fn a_token_works_once_for_its_host_and_a_name_is_not_given_twice() {
    let fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "");
    fleet.configure("web-2", "");
    let token = fleet.token(&["--host", "web-1"]);
    let wrong_name = fleet.enroll("web-2", &token).expect_err("another name");
    assert!(wrong_name.contains("web-1"), "{wrong_name}");
    fleet.enroll("web-1", &token).expect("enrolled");
    fleet.enroll("web-2", &token).expect_err("used up");
    let open = fleet.token(&["--uses", "5"]);
    fs::remove_dir_all(fleet.path("state-web-1")).expect("forgotten");
    let taken = fleet.enroll("web-1", &open).expect_err("taken");
    assert!(taken.contains("web-1") && taken.contains("--replace"), "{taken}");
    let replacing = fleet.token(&["--host", "web-1", "--replace"]);
    fleet.enroll("web-1", &replacing).expect("an admin allowed it");
    let forged = format!("{}x", fleet.token(&[]));
    fleet.enroll("web-2", &forged).expect_err("no such token");
}

#[test]
fn a_controller_that_is_not_the_tokens_is_not_trusted() {
    let fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "");
    let token = fleet.token(&["--host", "web-1"]);
    let (head, authority) = token.rsplit_once('.').expect("a token has parts");
    let swapped: String = authority.chars().rev().collect();
    let refused = fleet.enroll("web-1", &format!("{head}.{swapped}")).expect_err("pinned");
    assert!(!refused.contains("panicked"), "{refused}");
    // The refusal came before the token was sent: it is still good.
    fleet.enroll("web-1", &token).expect("enrolled");
}

#[test]
fn a_revoked_host_is_cut_within_a_second_and_stays_out() {
    let fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    let args = ["host", "revoke", "web-1", "--reason", "stolen", "--yes"];
    fleet.ctl(&args).exits(0);
    within(Duration::from_secs(1), "the link is cut", || {
        let status = fleet.ctl(&["status", "-o", "json"]).json();
        status["up"] == 1
    });
    let said = fleet.ctl(&["host", "facts", "--on", "web-1"]);
    assert_ne!(said.code, 0, "{said:?}");
    fs::read_to_string(fleet.path("controller.log")).expect("a log");
    eventually("it is refused when it comes back", || {
        let log = fs::read_to_string(fleet.path("controller.log")).expect("a log");
        log.contains("revoked")
    });
    assert_eq!(fleet.ctl(&["status", "-o", "json"]).json()["up"], 1);
}

#[test]
fn a_host_that_is_gone_is_removed_and_its_name_is_free_again() {
    let mut fleet = Fleet::of(&[("web-1", "role=web")]);
    let remove = ["host", "remove", "web-1", "--reason", "sold", "--yes"];
    let linked = fleet.ctl(&remove).exits(1);
    assert!(linked.err.contains("web-1 is connected"), "{linked:?}");
    fleet.take_agent("web-1").stop();
    fleet.wait_for("web-1", "stopped");
    fleet.ctl(&remove).exits(0);
    fleet.ctl(&["host", "show", "web-1"]).exits(6);
    // Its certificate opens nothing any more.
    fleet.start_agent("web-1");
    let refused = || fleet.controller().log().contains("this host is not enrolled here");
    eventually("the removed host is refused", refused);
    fleet.take_agent("web-1").stop();
    fs::remove_dir_all(fleet.path("state-web-1")).expect("forgotten");
    fleet.join("web-1", &["role=web"], "");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
}

#[test]
fn what_cannot_be_undone_is_done_when_the_name_was_typed_and_not_otherwise() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    let revoke = ["host", "revoke", "web-1", "--reason", "stolen"];
    let refused = fleet.ctl(&revoke).exits(2);
    assert!(refused.err.contains("--yes"), "{refused:?}");
    let mut hesitant = fleet.ctl_at_terminal(&revoke);
    hesitant.shows("type the host's name to go ahead:");
    hesitant.types("yes\n");
    assert_eq!(hesitant.ended(), Some(2), "{}", hesitant.seen());
    hesitant.shows("was not confirmed; nothing was changed");
    assert_eq!(fleet.host("web-1")["connection"], "up");
    let mut scared = fleet.ctl_at_terminal(&revoke);
    scared.shows("type the host's name to go ahead:");
    scared.types("\x03");
    assert_eq!(scared.ended(), Some(2), "{}", scared.seen());
    scared.shows("was not confirmed; nothing was changed");
    let mut sure = fleet.ctl_at_terminal(&revoke);
    sure.shows("type the host's name to go ahead:");
    sure.types("web-1\n");
    assert_eq!(sure.ended(), Some(0), "{}", sure.seen());
    fleet.wait_for("web-1", "revoked");
}

#[test]
fn operators_may_do_what_their_role_and_hosts_allow_and_denials_are_audited() {
    let fleet = Fleet::of(&[("web-1", "role=web"), ("db-1", "role=db")]);
    fleet.add_operator("eve", "viewer", "all");
    fleet.add_operator("otto", "operator", "role=web");
    fleet.ctl_as("eve", &["host", "facts", "--on", "all"]).exits(0);
    let restart = |on| ["systemd", "restart", "nginx", "--on", on, "--yes"];
    fleet.ctl_as("eve", &restart("web-1")).exits(4);
    fleet.ctl_as("otto", &restart("db-1")).exits(4);
    // There is no systemd here: what counts is that it was let through.
    fleet.ctl_as("otto", &restart("web-1")).exits(1);
    fleet.ctl_as("otto", &["token", "create"]).exits(4);
    let denied = fleet.audit().into_iter().filter(|r| r["kind"] == "denied");
    let who: Vec<_> = denied.map(|r| r["principal"].as_str().expect("who").to_owned()).collect();
    assert_eq!(who.len(), 3, "{who:?}");
    assert!(who[0].contains("eve") && who[1].contains("otto") && who[2].contains("otto"));
    fleet.ctl(&["operator", "revoke", "eve", "--reason", "left", "--yes"]).exits(0);
    let refused = fleet.ctl_as("eve", &["status"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("revoked"), "{refused:?}");
}

#[test]
fn the_same_key_on_two_hosts_is_reported_as_a_clone() {
    let mut fleet = Fleet::of(&[("web-1", "role=web")]);
    let (from, to) = (fleet.path("state-web-1"), fleet.path("state-copy"));
    fs::create_dir(&to).expect("made");
    for file in fs::read_dir(&from).expect("state") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
    fleet.configure("copy", "");
    fleet.start_agent("copy");
    eventually("the clone is reported", || {
        let said = fleet.ctl(&["status", "-o", "json"]).json();
        said["problems"].to_string().contains("clone")
    });
    // The first one keeps its link.
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    // Enrolled anew it has a key that the copy lacks: nothing is left to report.
    fleet.take_agent("web-1").kill();
    fs::remove_dir_all(&from).expect("forgotten");
    fleet.enroll("web-1", &fleet.token(&["--host", "web-1", "--replace"])).expect("enrolled");
    fleet.start_agent("web-1");
    eventually("it is up and no clone", || {
        let said = fleet.ctl(&["status", "-o", "json"]).json();
        fleet.host("web-1")["connection"] == "up" && said["problems"] == Value::Array(Vec::new())
    });
}

#[test]
fn certificates_are_renewed_without_dropping_the_link() {
    let mut fleet = Fleet::new(Place::Loopback, "agent_certificate = \"9s\"");
    fleet.join("web-1", &[], "");
    let (before, since) = {
        let host = fleet.host("web-1");
        (host["certificate_until_us"].clone(), host["since_us"].clone())
    };
    eventually("it is renewed", || fleet.host("web-1")["certificate_until_us"] != before);
    assert_eq!(fleet.host("web-1")["since_us"], since, "the link stood");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    let renewals = fleet.audit().into_iter().filter(|r| r["operation"] == "host.renew");
    assert!(renewals.count() >= 1);
}

/// Waits until a host's certificate has ended so many seconds ago.
fn until_expired(fleet: &Fleet, host: &str, since_s: i64) {
    eventually("its certificate is expired", || {
        let now = fleet.ctl(&["status", "-o", "json"]).json()["now_us"].as_i64().expect("a time");
        let end = fleet.host(host)["certificate_until_us"].as_i64().expect("a time");
        end + since_s * 1_000_000 < now
    });
}

fn renewals(fleet: &Fleet, host: &str) -> usize {
    let renewed = |r: &&Value| r["operation"] == "host.renew" && r["subject"] == host;
    fleet.audit().iter().filter(renewed).count()
}

#[test]
fn an_agent_that_was_off_past_its_expiry_comes_back_with_the_same_key_and_that_is_audited() {
    let mut fleet =
        Fleet::new(Place::Loopback, "agent_certificate = \"3s\"\nrenewal_grace = \"1h\"");
    fleet.join("web-1", &[], "");
    fleet.take_agent("web-1").kill();
    until_expired(&fleet, "web-1", 0);
    let before = renewals(&fleet, "web-1");
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    assert!(renewals(&fleet, "web-1") > before);
}

#[test]
fn an_agent_that_was_off_for_longer_than_the_grace_stays_out() {
    let mut fleet =
        Fleet::new(Place::Loopback, "agent_certificate = \"3s\"\nrenewal_grace = \"1s\"");
    fleet.join("web-1", &[], "");
    fleet.take_agent("web-1").kill();
    until_expired(&fleet, "web-1", 2);
    let before = renewals(&fleet, "web-1");
    fleet.start_agent("web-1");
    let refused = || fleet.agent("web-1").log().contains("the certificate was not renewed");
    eventually("its renewal is refused", refused);
    let said_why = || fleet.controller().log().contains("certificate expired");
    eventually("the controller says why", said_why);
    assert_eq!(fleet.host("web-1")["connection"], "down");
    assert_eq!(renewals(&fleet, "web-1"), before);
}

#[test]
fn a_follow_ends_on_the_host_when_it_is_interrupted() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let log = fleet.path("app.log");
    fs::write(&log, "first\n").expect("written");
    let policy = format!("[policy]\nlogs = [\"{}\"]", fleet.path("").display());
    fleet.join("web-1", &[], &policy);
    let path = log.display().to_string();
    let args = ["logs", "tail", &path, "--follow", "--on", "web-1", "-o", "jsonl"];
    let mut follow = fleet.ctl_begins(&args, "follow.out");
    eventually("the first line", || follow.log().contains("first"));
    fs::write(&log, "first\nsecond\n").expect("written");
    eventually("the second line", || follow.log().contains("second"));
    follow.signal(Signal::INT);
    follow.ended();
    eventually("its end is in the audit", || {
        let audit = fleet.audit();
        audit.iter().any(|r| r["kind"] == "outcome" && r["operation"] == "logs.tail")
    });
    let refused = fleet.ctl(&["logs", "tail", "/etc/shadow", "--on", "web-1"]).exits(4);
    assert!(refused.out.contains("policy") || refused.err.contains("policy"), "{refused:?}");
}

#[test]
fn a_probe_ends_on_the_host_when_it_is_interrupted() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    // It takes the connection, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", silent.local_addr().expect("its address"));
    let mut check = fleet.ctl_begins(&["http", "check", &url, "--on", "web-1"], "check.out");
    let (mut asked, _) = silent.accept().expect("the agent asks");
    check.signal(Signal::INT);
    check.ended();
    eventually("its end is in the audit", || {
        let ended = |r: &Value| r["kind"] == "outcome" && r["operation"] == "http.check";
        fleet.audit().iter().any(|r| ended(r) && r["outcome"] == "cancelled")
    });
    // The agent let go of what it asked.
    let mut request = Vec::new();
    asked.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    asked.read_to_end(&mut request).expect("its end");
}

#[test]
fn colours_and_progress_are_for_terminals_and_colours_for_those_who_want_them() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    let mut plain = fleet.ctl_at_terminal(&["hosts"]);
    plain.ended();
    plain.shows("web-1  up");
    assert!(!plain.seen().contains('\x1b'), "{:?}", plain.seen());
    let mut coloured = fleet.ctl_at_colour_terminal(&["hosts"]);
    coloured.ended();
    coloured.shows("\x1b[38;5;10mup");
    let file = fleet.ctl(&["hosts"]).exits(0);
    assert!(!file.out.contains('\x1b'), "{file:?}");

    // It takes the connection, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", silent.local_addr().expect("its address"));
    let mut check = fleet.ctl_at_terminal(&["http", "check", &url, "--on", "web-1"]);
    check.shows("0 of 1 hosts");
    check.types("\x03");
    check.ended();
}

#[test]
fn what_an_agent_says_of_itself_is_shown() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &["role=web"], "[labels]\nrack = \"r7\"");
    let host = fleet.host("web-1");
    assert_eq!((&host["labels"]["rack"], &host["labels"]["role"]), (&"r7".into(), &"web".into()));
    assert_eq!(host["agent_version"], env!("CARGO_PKG_VERSION"));
    fleet.ctl(&["hosts", "--on", "rack=r7"]).exits(0);
}

#[test]
fn bad_input_ends_in_one_sentence() {
    let fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", "stpo = \"5s\"");
    let said = fleet.enroll("web-1", "hst1.x").expect_err("a slip in the configuration");
    assert!(said.contains("stpo") && said.contains("stop"), "{said}");
    fleet.configure("web-1", "");
    let said = fleet.enroll("web-1", "hst1.x").expect_err("no token");
    assert!(said.contains("token"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn what_is_said_of_very_many_hosts_stands_in_nobodys_way() {
    let fleet = Fleet::of(&[("web-1", "role=web")]);
    let many = vec!["web-1"; 10_900].join(",");
    let deep = format!("{}web-1", "not ".repeat(40));
    for on in [&many, &deep] {
        let add = ["downtime", "add", "--on", on, "--for", "1h", "--comment", "move"];
        fleet.ctl(&add).exits(0);
        fleet.add_operator(if on == &many { "many" } else { "deep" }, "viewer", on);
    }
    let status = fleet.ctl(&["status"]);
    assert!(status.code < 2, "{status:?}");
    fleet.ctl(&["operator", "list"]).exits(0);
    fleet.ctl_as("deep", &["hosts", "--on", "all"]).exits(0);
    let far = ["downtime", "add", "--on", "all", "--in", "800d", "--for", "1h", "--comment", "x"];
    let said = fleet.ctl(&far).exits(2);
    assert!(said.err.contains("within a year"), "{said:?}");
}

#[test]
fn a_fleet_whose_store_cannot_be_used_is_not_half_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("controller.toml");
    let state = dir.path().join("state");
    let init = |store: &str, context: &str| {
        let text = format!("state_dir = \"{}\"\nstore = \"{store}\"\n", state.display());
        fs::write(&config, text).expect("written");
        let output = command(built("hostler-controller"))
            .arg("--config")
            .arg(&config)
            .args(["init", "--context"])
            .arg(dir.path().join(context))
            .output()
            .expect("init runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (made, said) = init("sqlite:/no/such/directory/store.sqlite", "a.toml");
    assert!(!made && said.contains("/no/such/directory/store.sqlite"), "{said}");
    let good = format!("sqlite:{}", dir.path().join("store.sqlite").display());
    let (made, said) = init(&good, "a.toml");
    assert!(made, "{said}");
    let (again, said) = init(&good, "b.toml");
    assert!(!again && said.contains("already"), "{said}");
}

#[test]
fn a_fleet_works_the_same_on_postgresql() {
    let server = std::env::var("HOSTLER_TEST_POSTGRES")
        .expect("HOSTLER_TEST_POSTGRES names no server; run: make test");
    let database = format!("fleet_{}", std::process::id());
    let create = format!("CREATE DATABASE {database}");
    let made =
        command("/usr/bin/psql").arg(format!("{server}/postgres")).args(["-c", &create]).output();
    assert!(made.expect("psql").status.success());
    let mut fleet = Fleet::new(Place::Loopback, &format!("store = \"{server}/{database}\""));
    fleet.join("web-1", &["role=web"], "");
    fleet.join("db-1", &["role=db"], "");
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
    fleet.take_agent("db-1").kill();
    fleet.wait_for("db-1", "down");
    fleet.ctl(&["host", "label", "web-1", "env=prod"]).exits(0);
    fleet.ctl(&["host", "facts", "--on", "env=prod and state=up"]).exits(0);
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    fleet.ctl(&["audit", "verify"]).exits(0);
    assert!(fleet.audit().len() >= 10);
}
