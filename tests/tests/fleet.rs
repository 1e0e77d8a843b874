//! The main job on real processes: a controller, agents that enrolled themselves, hostlerctl.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{built, command, eventually, within},
};
use rustix::process::Signal;
use serde_json::Value;

fn fleet_of(hosts: &[(&str, &str)]) -> Fleet {
    let mut fleet = Fleet::new(Place::Loopback, "");
    for (host, label) in hosts {
        fleet.join(host, &[label], "");
    }
    fleet
}

fn hosts_of(results: &Value) -> Vec<&str> {
    results.as_array().expect("a list").iter().filter_map(|r| r["host"].as_str()).collect()
}

#[test]
fn an_operation_runs_on_one_host_on_some_and_on_all_and_every_request_is_in_the_audit() {
    let fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web"), ("db-1", "role=db")]);
    let status = fleet.ctl(&["status", "-o", "json"]).exits(0).json();
    assert_eq!((&status["hosts"], &status["up"]), (&3.into(), &3.into()));
    for (on, expected) in [
        ("db-1", vec!["db-1"]),
        ("web-*", vec!["web-1", "web-2"]),
        ("role=web and not web-1", vec!["web-2"]),
        ("all", vec!["db-1", "web-1", "web-2"]),
    ] {
        let results = fleet.ctl(&["host", "facts", "--on", on, "-o", "json"]).exits(0).json();
        let mut hosts = hosts_of(&results);
        hosts.sort_unstable();
        assert_eq!(hosts, expected, "{on}");
        assert!(results.as_array().expect("a list").iter().all(|r| r["status"] == "ok"));
    }
    let of = |kind: &str| {
        let fits = |r: &&Value| r["kind"] == kind && r["operation"] == "host.facts";
        fleet.audit().iter().filter(fits).count()
    };
    assert_eq!((of("intent"), of("outcome")), (7, 7));
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn a_mistake_of_the_caller_is_told_before_anything_is_sent() {
    let fleet = fleet_of(&[("web-1", "role=web")]);
    for (args, code, words) in [
        (vec!["host", "facts", "--on", "nope"], 6, "there is no host nope"),
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
    let mut fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    let said = fleet.ctl(&["host", "facts", "--on", "all", "-o", "json"]).exits(3);
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
    let mut fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_controller().kill();
    fleet.ctl(&["status"]).exits(5);
    fleet.take_agent("web-2").kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    assert_eq!(fleet.host("web-2")["connection"], "down");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
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
    let fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
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
fn operators_may_do_what_their_role_and_hosts_allow_and_denials_are_audited() {
    let fleet = fleet_of(&[("web-1", "role=web"), ("db-1", "role=db")]);
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
    let mut fleet = fleet_of(&[("web-1", "role=web")]);
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

#[test]
fn an_agent_that_was_off_past_its_expiry_comes_back_with_the_same_key() {
    let mut fleet =
        Fleet::new(Place::Loopback, "agent_certificate = \"3s\"\nrenewal_grace = \"1h\"");
    fleet.join("web-1", &[], "");
    fleet.take_agent("web-1").kill();
    eventually("its certificate is expired", || {
        let said = fleet.ctl(&["host", "show", "web-1", "-o", "json"]).json();
        let now = fleet.ctl(&["status", "-o", "json"]).json()["now_us"].as_i64();
        said["certificate_until_us"].as_i64() < now
    });
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
}

#[test]
fn a_follow_ends_on_the_host_when_it_is_interrupted() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let log = fleet.path("app.log");
    fs::write(&log, "first\n").expect("written");
    let policy = format!("[policy]\npaths = [\"{}\"]", fleet.path("").display());
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
fn a_monitoring_system_sees_hosts_certificates_and_what_was_done() {
    let address = format!("127.9.255.{}:9443", std::process::id() % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("metrics = \"{address}\""));
    fleet.join("web-1", &[], "");
    fleet.join("web-2", &[], "");
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("asked");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    let text = get("/metrics");
    for line in [
        "hostler_hosts{connection=\"up\"} 1",
        "hostler_hosts{connection=\"down\"} 1",
        "hostler_links 1",
        "hostler_operations_total{operation=\"host.facts\",outcome=\"ok\"} 1",
        "hostler_certificate_end_timestamp_seconds{kind=\"host\",name=\"web-1\"}",
        "hostler_certificate_end_timestamp_seconds{kind=\"authority\"",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
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

#[test]
fn a_listening_agent_is_dialled_by_its_controller_alone_and_again_when_it_is_back() {
    let pid = std::process::id();
    let at = format!("127.8.{}.{}:7444", pid / 250 % 250, pid % 250 + 1);
    let dialled = format!("[dial]\n\"db-1\" = \"{at}\"");
    let mut fleet = Fleet::new(Place::Loopback, &dialled);
    fleet.join("db-1", &["role=db"], &format!("dial = false\nlisten = \"{at}\""));
    fleet.ctl(&["host", "facts", "--on", "db-1"]).exits(0);

    fleet.take_agent("db-1").stop();
    fleet.wait_for("db-1", "down");
    fleet.start_agent("db-1");
    fleet.wait_for("db-1", "up");
    assert!(
        fleet.host("db-1")["address"].as_str().is_some_and(|a| a == at),
        "{}",
        fleet.host("db-1")
    );
}

#[test]
fn a_controller_does_not_link_an_agent_that_answers_at_the_address_of_another() {
    let pid = std::process::id();
    let at = format!("127.8.{}.{}:7444", pid / 250 % 250, pid % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("[dial]\n\"db-1\" = \"{at}\""));
    let listening = format!("dial = false\nlisten = \"{at}\"");
    fleet.configure("web-1", &listening);
    fleet.enroll("web-1", &fleet.token(&["--host", "web-1"])).expect("enrolled");
    fleet.start_agent("web-1");
    let refused = || fleet.controller().log().contains("an agent cannot be dialled");
    eventually("the controller refuses", refused);
    assert_ne!(fleet.host("web-1")["connection"], "up");
}
