//! The main job on real processes: a controller, agents that enrolled themselves, hostlerctl.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{built, command, eventually, within},
    terminal::ROWS,
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
    let mut fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    assert_eq!(fleet.host("web-2")["reason"], "the connection was closed without a goodbye");
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
fn a_policy_that_changed_counts_at_once_and_one_that_cannot_be_used_never() {
    let fleet = fleet_of(&[("web-1", "role=web")]);
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
fn a_host_that_is_gone_is_removed_and_its_name_is_free_again() {
    let mut fleet = fleet_of(&[("web-1", "role=web")]);
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
    let fleet = fleet_of(&[("web-1", "role=web")]);
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

const CHECKED: &str = r#"
[defaults]
interval = "1s"
retry = "1s"
attempts = 2
[[plugin]]
name = "file"
command = ["/usr/bin/test", "-e", "FILE"]
[check]
disk = { off = true }
resources = { off = true }
"#;

/// Joins a host with a check that is well as long as a file exists, which is given back; whatever else
/// is with this machine does not count.
fn checked(fleet: &mut Fleet, host: &str) -> std::path::PathBuf {
    let (file, stack) = (fleet.path(&format!("{host}.file")), fleet.path(&format!("{host}.stack")));
    fs::write(&file, "").expect("written");
    fs::write(&stack, CHECKED.replace("FILE", &file.display().to_string())).expect("written");
    fleet.join(host, &["role=web"], &format!("stack = \"{}\"", stack.display()));
    file
}

fn problems(fleet: &Fleet) -> Vec<Value> {
    let list = fleet.ctl(&["problems", "-o", "json"]).json();
    let list = list.as_array().expect("a list").iter();
    // Other tests keep the processors busy.
    list.filter(|p| p["check"] != "resources").cloned().collect()
}

#[test]
fn a_problem_is_told_once_it_is_hard_and_people_can_say_that_they_know() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    fleet.ctl(&["ack", "web-1", "plugin:file", "--comment", "x"]).exits(1);
    fs::remove_file(&file).expect("removed");
    eventually("it is a problem", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    let status = fleet.ctl(&["status"]).exits(0);
    assert!(status.out.contains("plugin:file") && status.out.contains("warning"), "{status:?}");
    let counts = fleet.ctl(&["status", "-o", "json"]).json();
    assert_eq!((&counts["up"], &counts["degraded"]), (&1.into(), &1.into()));
    fleet.ctl(&["hosts", "--on", "check(plugin:*)=warning"]).exits(0);

    let acknowledge = ["ack", "web-1", "plugin:file", "--comment", "on it"];
    fleet.ctl(&acknowledge).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "acknowledged by admin: on it");
    fleet.ctl(&["ack", "web-1", "plugin:file", "--undo"]).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "");
    fs::write(&file, "").expect("written");
    eventually("it recovers", || problems(&fleet).is_empty());

    let announce = ["downtime", "add", "--on", "role=web", "--for", "1h", "--comment", "move"];
    let announced = fleet.ctl(&[&announce[..], &["-o", "json"]].concat()).exits(0).json();
    fs::remove_file(&file).expect("removed");
    let expected = format!("in downtime {}: move", announced["id"].as_str().expect("an id"));
    eventually("it was expected", || problems(&fleet).iter().any(|p| p["handled"] == expected));
    let id = announced["id"].as_str().expect("an id");
    fleet.ctl(&["downtime", "end", id]).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "");

    fleet.add_operator("eve", "viewer", "all");
    fleet.ctl_as("eve", &acknowledge).exits(4);
    fleet.ctl_as("eve", &announce).exits(4);
    let done = |operation: &str| {
        let fits = |r: &&Value| r["operation"] == operation && r["outcome"] == "ok";
        fleet.audit().iter().filter(fits).count()
    };
    assert_eq!((done("health.acknowledge"), done("downtime.add"), done("downtime.end")), (1, 1, 1));
}

#[test]
fn what_people_say_of_a_problem_ends_when_its_time_is_over() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    let flexible =
        ["downtime", "add", "--on", "web-1", "--for", "1h", "--lasting", "8s", "--comment", "move"];
    fleet.ctl(&flexible).exits(0);
    fs::remove_file(&file).expect("removed");
    let handled = |fleet: &Fleet| {
        let found = problems(fleet).into_iter().find(|p| p["check"] == "plugin:file");
        found.map(|p| p["handled"].as_str().unwrap_or_default().to_owned())
    };
    let begins = |with: &str| handled(&fleet).is_some_and(|h| h.starts_with(with));
    eventually("the downtime begins with it", || begins("in downtime"));
    eventually("and ends", || handled(&fleet).as_deref() == Some(""));
    fleet.ctl(&["ack", "web-1", "plugin:file", "--comment", "on it", "--for", "4s"]).exits(0);
    assert!(begins("acknowledged by admin: on it"));
    eventually("it expires", || handled(&fleet).as_deref() == Some(""));
}

#[test]
fn a_watched_status_shows_what_changes_and_goes_on_when_its_controller_is_back() {
    let mut fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    let lines = fleet.ctl_begins(&["status", "--watch", "-o", "jsonl"], "watch.out");
    let mut watch = fleet.ctl_at_terminal(&["status", "--watch"]);
    watch.shows("2 hosts, 2 up");
    fleet.take_agent("web-2").stop();
    watch.shows("its agent was stopped on purpose");
    fleet.take_controller().kill();
    watch.shows("no answer since ");
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    let before = watch.seen().len();
    eventually("it goes on", || {
        let page = watch.seen().split_off(before);
        page.contains("2 hosts, 1 up") && !page.ends_with("no answer since")
    });
    let pages = watch.seen();
    let highest = pages.split("\x1b[2J").map(|page| page.matches('\n').count()).max();
    assert!(highest < Some(usize::from(ROWS)), "{pages}");
    watch.types("\x03");
    watch.ended();
    let reports = |log: &str| {
        log.lines()
            .filter(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| v["hosts"] == 2))
            .count()
    };
    let so_far = reports(&lines.log());
    assert!(so_far > 0);
    eventually("lines come again", || reports(&lines.log()) > so_far);
}

#[test]
fn what_happened_while_the_controller_was_away_is_told_afterwards() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    eventually("the check ran", || {
        let health = fleet.ctl(&["health", "web-1", "-o", "json"]).json();
        let of = |c: &Value| c["state"]["check"] == "plugin:file" && c["state"]["checked_us"] != 0;
        health["checks"].as_array().is_some_and(|checks| checks.iter().any(of))
    });
    fleet.take_controller().kill();
    // Two results make a hard state, and two more that it has passed.
    fs::remove_file(&file).expect("removed");
    let memory = fleet.path("state-web-1/checks.json");
    let remembered =
        |text: &str| fs::read_to_string(&memory).is_ok_and(|memory| memory.contains(text));
    eventually("it is hard", || remembered(r#""hard":"warning""#));
    fs::write(&file, "").expect("written");
    eventually("it has recovered", || !remembered(r#""hard":"warning""#));
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    let turns = |fleet: &Fleet| {
        let history = fleet.ctl(&["history", "web-1", "plugin:file", "-o", "json"]).json();
        history["turns"].as_array().map_or(0, Vec::len)
    };
    eventually("both changes are told", || turns(&fleet) == 2);
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    assert_eq!(turns(&fleet), 2, "nothing is told twice");
}

#[test]
fn a_host_that_is_enrolled_anew_tells_nothing_twice() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    let health = |fleet: &Fleet| fleet.ctl(&["health", "web-1", "-o", "json"]).json();
    let ran = |fleet: &Fleet| {
        let of = |c: &Value| c["state"]["check"] == "plugin:file" && c["state"]["hard"] == "ok";
        health(fleet)["checks"].as_array().is_some_and(|checks| checks.iter().any(of))
    };
    eventually("the check is well", || ran(&fleet));
    fs::remove_file(&file).expect("removed");
    eventually("it is a problem", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    let turns = |fleet: &Fleet| {
        let history = fleet.ctl(&["history", "web-1", "plugin:file", "-o", "json"]).json();
        history["turns"].as_array().map_or(0, Vec::len)
    };
    eventually("it is written down", || turns(&fleet) == 1);
    fleet.take_agent("web-1").stop();
    let token = fleet.token(&["--host", "web-1", "--replace"]);
    fleet.enroll_by_force("web-1", &token).expect("enrolled");
    let before = health(&fleet)["heard_us"].as_i64();
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    eventually("it is heard of", || health(&fleet)["heard_us"].as_i64() > before);
    eventually("it stands", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    assert_eq!(turns(&fleet), 1);
}

#[test]
fn an_agent_that_is_stopped_on_purpose_is_no_emergency_and_one_that_dies_is() {
    let mut fleet = fleet_of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_agent("web-1").stop();
    fleet.take_agent("web-2").kill();
    let of = |fleet: &Fleet, host: &str| problems(fleet).into_iter().find(|p| p["subject"] == host);
    let both = ["web-1", "web-2"];
    eventually("both are problems", || both.iter().all(|host| of(&fleet, host).is_some()));
    let [stopped, dead] = both.map(|host| of(&fleet, host).expect("listed"));
    assert_eq!(stopped["summary"], "its agent was stopped on purpose");
    // Selectors know the words of the column LINK, and "down" is both.
    let names = |on: &str| fleet.ctl(&["hosts", "--on", on, "-o", "name"]).exits(0).out;
    assert_eq!(names("state=stopped"), "web-1\n");
    assert_eq!(names("state=down"), "web-1\nweb-2\n");
    assert_eq!((&stopped["status"], &dead["status"]), (&"warning".into(), &"critical".into()));
    let became = |host: &str| {
        let history = fleet.ctl(&["history", host, "-o", "json"]).exits(0).json();
        let turns = history["turns"].as_array().expect("turns").clone();
        turns.iter().find(|t| t["check"] == "").expect("of its link")["became"].clone()
    };
    assert_eq!(both.map(became), ["warning", "critical"], "and so it stays in their history");
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    eventually("it is well", || of(&fleet, "web-1").is_none());
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
    let fleet = fleet_of(&[("web-1", "role=web")]);
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
    let fleet = fleet_of(&[("web-1", "role=web")]);
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

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    text
}

#[test]
fn a_monitoring_system_sees_the_checks_of_hosts_that_are_there() {
    let address = format!("127.9.254.{}:9443", std::process::id() % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("metrics = \"{address}\""));
    for host in ["web-1", "web-2", "web-3"] {
        checked(&mut fleet, host);
    }
    let counted = || {
        let text = get(&address, "/metrics");
        let counts =
            text.lines().filter_map(|l| l.strip_prefix("hostler_checks{")?.split(' ').nth(1));
        counts.map(|count| count.parse::<usize>().expect("a number")).sum::<usize>()
    };
    let of = |fleet: &Fleet, host: &str| {
        let health = fleet.ctl(&["health", host, "-o", "json"]).json();
        health["checks"].as_array().map_or(0, Vec::len)
    };
    eventually("all are counted", || {
        let all = ["web-1", "web-2", "web-3"].map(|host| of(&fleet, host));
        all.iter().all(|checks| *checks > 0) && counted() == all.iter().sum::<usize>()
    });
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    fleet.ctl(&["host", "revoke", "web-3", "--reason", "x", "--yes"]).exits(0);
    eventually("those of one are", || counted() == of(&fleet, "web-1"));
}

#[test]
fn what_is_said_of_very_many_hosts_stands_in_nobodys_way() {
    let fleet = fleet_of(&[("web-1", "role=web")]);
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
fn a_monitoring_system_sees_hosts_certificates_and_what_was_done() {
    let address = format!("127.9.255.{}:9443", std::process::id() % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("metrics = \"{address}\""));
    let stack = fleet.path("web-1.stack");
    let plugin = "[defaults]\ninterval = \"1s\"\n[[plugin]]\nname = \"load\"\n\
                  command = [\"/bin/echo\", \"OK | load=3\"]\n";
    fs::write(&stack, plugin).expect("written");
    fleet.join("web-1", &[], &format!("stack = \"{}\"", stack.display()));
    fleet.join("web-2", &[], "");
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    fleet.ctl(&["host", "facts", "--on", "web-1"]).exits(0);
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    let figure = "hostler_check_figure{host=\"web-1\",check=\"plugin:load\",figure=\"load\"";
    eventually("a figure is there", || get(&address, "/metrics").contains(figure));
    let text = get(&address, "/metrics");
    for line in [
        "hostler_hosts{connection=\"up\"} 1",
        "hostler_hosts{connection=\"down\"} 1",
        "hostler_links 1",
        "hostler_operations_total{operation=\"host.facts\",outcome=\"ok\"} 1",
        "hostler_operation_seconds_count{operation=\"host.facts\"} 1",
        "hostler_request_seconds_count 1",
        "hostler_link_setup_seconds_count 2",
        "hostler_link_life_seconds_count{lost=\"closed\"} 1",
        "hostler_certificate_end_timestamp_seconds{kind=\"host\",name=\"web-1\"}",
        "hostler_certificate_end_timestamp_seconds{kind=\"authority\"",
        "hostler_checks{status=\"unknown\"} ",
        "hostler_checks{status=\"pending\"} ",
        "hostler_check_figures_omitted 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let mut hide = command("/usr/bin/sqlite3");
    hide.args(["-cmd", ".timeout 10000"]).arg(fleet.path("controller/store.sqlite"));
    let hidden = hide.arg("ALTER TABLE audit RENAME TO hidden").status().expect("sqlite3");
    assert!(hidden.success());
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 503"), "nothing can be recorded");
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
