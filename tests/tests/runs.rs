//! Runs on many hosts where somebody is slow, silent, gone, or cannot write.

use std::{
    fs,
    io::Read as _,
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually, within},
};
use rustix::process::Signal;
use serde_json::Value;

/// A fleet whose agents may read its directory, and a log there.
fn fleet_with_log(hosts: &[&str], text: &str) -> (Fleet, PathBuf) {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let log = fleet.path("app.log");
    fs::write(&log, text).expect("written");
    let policy = format!("[policy]\nlogs = [\"{}\"]", fleet.path("").display());
    hosts.iter().for_each(|host| fleet.join(host, &[], &policy));
    (fleet, log)
}

fn lines_of(text: &str, host: &str) -> usize {
    let of = |line: &&str| {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        value["host"] == host && value["line"].is_string()
    };
    text.lines().filter(of).count()
}

#[test]
fn a_follow_reaches_every_host_however_few_are_to_run_at_a_time() {
    let hosts = ["db-1", "web-1", "web-2"];
    let (fleet, log) = fleet_with_log(&hosts, "first\n");
    let path = log.display().to_string();
    let args = ["logs", "tail", &path, "--follow", "--on", "all", "--parallel", "1", "-o", "jsonl"];
    let mut follow = fleet.ctl_begins(&args, "follow.out");
    eventually("every host follows", || hosts.iter().all(|h| lines_of(&follow.log(), h) == 1));
    follow.signal(Signal::INT);
    assert_eq!(follow.ended(), Some(0));
    // Nobody waited for their end, and so nothing is said of it.
    assert!(!follow.log().contains("outcome-unknown"), "{}", follow.log());
}

#[test]
fn a_follow_that_has_a_timeout_says_why_it_ends() {
    let (fleet, log) = fleet_with_log(&["web-1"], "first\n");
    let path = log.display().to_string();
    let args = ["logs", "tail", &path, "--follow", "--timeout", "1s", "--on", "web-1"];
    let said = fleet.ctl(&args).exits(0);
    assert!(said.out.contains("first"), "{said:?}");
    assert!(said.err.contains("it was followed for 1 s, as --timeout says"), "{said:?}");
}

#[test]
fn a_host_that_hangs_does_not_hold_up_what_the_others_say() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    ["web-1", "web-2"].iter().for_each(|host| fleet.join(host, &[], ""));
    fleet.agent("web-2").signal(Signal::STOP);
    let args = ["host", "facts", "--on", "all", "-o", "jsonl"];
    let mut run = fleet.ctl_begins(&args, "facts.out");
    let told = |run: &Process, host: &str| run.log().contains(&format!("\"host\":\"{host}\""));
    eventually("the one that is well has answered", || told(&run, "web-1"));
    assert!(run.has_ended().is_none() && !told(&run, "web-2"), "{}", run.log());
    fleet.agent("web-2").signal(Signal::CONT);
    assert_eq!(run.ended(), Some(0), "{}", run.log());
    assert!(told(&run, "web-2"), "{}", run.log());
}

#[test]
fn a_reader_that_stops_for_a_while_makes_no_host_late() {
    let text = format!("{}\n", "x".repeat(250)).repeat(10_000);
    let (fleet, log) = fleet_with_log(&["web-1", "web-2", "web-3"], &text);
    fleet.agent("web-3").signal(Signal::STOP);
    let path = log.display().to_string();
    let both = "web-1,web-2";
    let args = ["logs", "tail", &path, "--lines", "10000", "--timeout", "1s", "--on", both];
    let mut tail = fleet.ctl_piped(&[&args[..], &["-o", "jsonl"]].concat());
    // A host that says nothing at all has used up the same timeout, and what it gets beyond it.
    let silent = ["host", "facts", "--timeout", "1s", "--on", "web-3"];
    fleet.ctl(&silent).exits(3);
    fleet.agent("web-3").signal(Signal::CONT);
    let mut text = String::new();
    tail.stdout.take().expect("a pipe").read_to_string(&mut text).expect("read");
    assert_eq!(tail.wait().expect("ended").code(), Some(0), "{}", &text[text.len() - 600..]);
    assert_eq!((lines_of(&text, "web-1"), lines_of(&text, "web-2")), (10_000, 10_000));
}

#[test]
fn connections_that_say_nothing_keep_nobody_waiting() {
    let fleet = Fleet::new(Place::Loopback, "");
    let idle: Vec<_> =
        (0..700).map(|_| TcpStream::connect(fleet.address()).expect("connected")).collect();
    let began = Instant::now();
    fleet.ctl(&["status"]).exits(0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(idle);
}

fn sql(store: &Path, statement: &str) {
    let done = command("/usr/bin/sqlite3").arg(store).arg(statement).output().expect("sqlite3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn outcomes_that_cannot_be_written_are_kept_and_no_further_host_is_begun_meanwhile() {
    let hosts = ["web-1", "web-2", "web-3"];
    let (mut fleet, _) = fleet_with_log(&hosts, "");
    let store = fleet.path("controller/store.sqlite");
    sql(
        &store,
        "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.kind = 'outcome' \
         AND NEW.operation = 'host.facts' BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    let args = ["host", "facts", "--on", "all", "--parallel", "1", "-o", "json"];
    let mut run = fleet.ctl_begins(&args, "facts.json");
    eventually("the audit fails", || fleet.controller().log().contains("could not be audited"));
    eventually("it is tried again", || {
        fleet.controller().log().matches("could not be audited").count() > 1
    });
    sql(&store, "DROP TRIGGER full");
    assert_eq!(run.ended(), Some(0), "{}", run.log());
    let of = |fleet: &Fleet, kind: &str| {
        let records = fleet.audit();
        let fits = records.iter().filter(|r| r["kind"] == kind && r["operation"] == "host.facts");
        let mut hosts: Vec<_> = fits.map(|r| r["subject"].to_string()).collect();
        hosts.sort_unstable();
        hosts
    };
    let intents = of(&fleet, "intent");
    assert_eq!((intents.len(), of(&fleet, "outcome")), (3, intents));
    fleet.take_controller().stop();
    fleet.start_controller();
    assert!(of(&fleet, "recovered").is_empty(), "nothing was left open");
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn an_operator_that_is_revoked_loses_what_it_follows_within_a_second() {
    let (fleet, log) = fleet_with_log(&["web-1"], "first\n");
    fleet.add_operator("eve", "viewer", "all");
    let path = log.display().to_string();
    let args = ["logs", "tail", &path, "--follow", "--on", "all", "-o", "jsonl"];
    let mut follow = fleet.ctl_begins_as("eve", &args, "follow.out");
    eventually("it follows", || follow.log().contains("first"));
    fleet.ctl(&["operator", "revoke", "eve", "--reason", "left", "--yes"]).exits(0);
    let mut code = None;
    within(Duration::from_secs(1), "the follow is cut", || {
        code = follow.has_ended();
        code.is_some()
    });
    assert_eq!(code, Some(5), "{}", follow.log());
}
