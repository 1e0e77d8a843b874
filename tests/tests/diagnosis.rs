//! What is wrong with servers and workers on one machine: a Redis that is slow or hangs, a worker that is
//! stopped among others of its name. `tests/run` brings the servers.

use std::{fs, path::PathBuf};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually},
    servers::Redis,
};
use rustix::process::Signal;
use serde_json::Value;

/// A fleet whose one agent has this stack file.
fn fleet(stack: &str) -> Fleet {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    fleet
}

fn asked(fleet: &Fleet, args: &[&str], code: i32) -> Value {
    let args = [args, &["--on", "db-1", "-o", "json"]].concat();
    fleet.ctl(&args).exits(code).json()[0].clone()
}

fn server(name: &str, port: u16) -> String {
    format!("[[redis]]\nname = \"{name}\"\nurl = \"redis://127.0.0.1:{port}/0\"\n")
}

fn redis() -> PathBuf {
    let programs = Redis::programs();
    programs.into_iter().find(|(kind, _)| kind == "redis").expect("a Redis").1
}

fn has_finding(answer: &Value, subject: &str, status: &str) -> bool {
    let findings = answer["findings"].as_array().expect("findings");
    findings.iter().any(|f| f["subject"] == subject && f["status"] == status)
}

/// What is wrong with a server, or with an application; without what the disks add, which other tests fill
/// at the same time.
fn diagnosed(fleet: &Fleet, service: &str) -> Value {
    let mut found = fleet.ctl(&["diagnose", "db-1", service, "-o", "json"]).json()[0].take();
    let findings = found["findings"].as_array_mut().expect("findings");
    let before = findings.len();
    findings.retain(|finding| !finding["next"].to_string().contains("disk tree"));
    if findings.len() < before {
        found["summary"] =
            findings.first().map(|first| first["summary"].clone()).unwrap_or_default();
    }
    found
}

#[test]
fn a_server_that_is_slow_or_hangs_is_told_from_one_to_which_packets_are_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), &directory.path().join("main"), &[]);
    let other = Redis::start(&redis(), &directory.path().join("other"), &[]);
    let fleet = fleet(&(server("main", own.port) + &server("other", other.port)));
    let well = diagnosed(&fleet, "redis:main");
    assert!(!well["findings"].to_string().contains("redis"), "{well}");
    let slow = "local s = redis.call('TIME'); local e = s; repeat e = redis.call('TIME') until \
                (e[1] - s[1]) * 1000000 + (e[2] - s[2]) > 150000";
    own.cli(&["eval", slow, "0"]);
    let told = asked(&fleet, &["redis", "slow-log", "main"], 0);
    assert_eq!(told["status"], "warning", "{told}");
    assert!(has_finding(&told, "main", "warning"), "{told}");
    let bounded = asked(&fleet, &["redis", "slow-log", "main", "--slow-ms", "60000"], 0);
    assert_eq!(bounded["status"], "ok", "{bounded}");
    let found = diagnosed(&fleet, "redis:main");
    let findings = found["findings"].as_array().expect("findings");
    let slow = findings.iter().find(|f| f["subject"] == "main").expect("that it is slow");
    assert!(
        slow["summary"].to_string().contains("redis \\\"main\\\" is slow: 1 command of"),
        "{found}"
    );
    assert_eq!(slow["next"], "redis slow-log main", "{found}");
    assert!(!found.to_string().contains("redis status other"), "nobody asked for it: {found}");

    own.process.signal(Signal::STOP);
    let hung = asked(&fleet, &["redis", "status", "main"], 1);
    assert!(hung["summary"].to_string().contains("takes connections, and "), "{hung}");
    let port = format!("net port-owner {}", own.port);
    assert_eq!(hung["findings"][0]["next"], port, "{hung}");
    let found = diagnosed(&fleet, "redis:main");
    let said = format!("redis \"main\" is hung: its process {} is stopped", own.process.id());
    assert_eq!((&found["summary"], &found["findings"][0]["next"]), (&said.into(), &port.into()));
    own.process.signal(Signal::CONT);
}

#[test]
fn a_server_that_hangs_at_its_socket_is_told_by_its_own_process_and_by_no_port() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("redis.sock").display().to_string();
    let own = Redis::start(&redis(), &directory.path().join("own"), &["--unixsocket", &socket]);
    let fleet = fleet(&format!("[[redis]]\nname = \"main\"\nurl = \"unix://{socket}\"\n"));
    asked(&fleet, &["redis", "status", "main"], 0);
    own.process.signal(Signal::STOP);
    let hung = asked(&fleet, &["redis", "status", "main"], 1);
    assert!(hung["summary"].to_string().contains("takes connections, and "), "{hung}");
    let found = diagnosed(&fleet, "redis:main");
    let said = format!("redis \"main\" is hung: its process {} is stopped", own.process.id());
    assert_eq!(found["summary"], said.as_str(), "{found}");
    for answer in [hung, found] {
        assert!(!answer.to_string().contains("net port-owner"), "{answer}");
    }
    own.process.signal(Signal::CONT);
}

/// A process that looks like the main one of a worker, and is none.
fn worker(fleet: &Fleet, name: &str, contained: bool) -> Process {
    let script =
        "exec /usr/bin/python3 -c 'import time; time.sleep(600)' celery -A app worker -n hung@%h";
    let file = fleet.path(&format!("{name}.sh"));
    fs::write(&file, script).expect("written");
    let mut start = match contained {
        true => {
            let mut start = command("/usr/bin/unshare");
            start.args(["--pid", "--fork", "--kill-child", "/bin/sh"]);
            start
        }
        false => command("/bin/sh"),
    };
    Process::start(start.arg(&file), &fleet.path(&format!("{name}.log")))
}

#[test]
fn a_worker_that_hangs_is_blamed_on_its_own_process_and_on_none_of_a_container() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), directory.path(), &[]);
    let port = own.port.to_string();
    let mut silent = command("/usr/bin/redis-cli");
    silent.args(["-p", &port, "subscribe", "/0.celery.pidbox"]);
    let _silent = Process::start(&mut silent, &directory.path().join("silent.log"));
    eventually("somebody is subscribed", || own.cli(&["pubsub", "channels"]).contains("pidbox"));
    let celery = "[[celery]]\nname = \"app\"\nbroker = \"main\"\n[check.\"celery:app\"]\noff = true\n\
                  [check.\"celery-queues:app\"]\noff = true\n";
    let fleet = fleet(&(server("main", own.port) + celery));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let binding = format!("\x06\x16\x06\x16hung@{}.celery.pidbox", host.trim());
    own.cli(&["sadd", "_kombu.binding.celery.pidbox", &binding]);
    // Only root makes a namespace.
    let root = rustix::process::geteuid().is_root();
    let _contained = root.then(|| worker(&fleet, "contained", true));
    let hung = worker(&fleet, "hung", false);
    let runs = || {
        let line = fs::read(format!("/proc/{}/cmdline", hung.id())).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("celery")
    };
    eventually("it looks like a worker", runs);
    hung.signal(Signal::STOP);
    let summary = |seen: &Value| seen["summary"].as_str().expect("text").to_owned();
    let said = format!("is hung: its process {} is stopped", hung.id());
    let seen = asked(&fleet, &["celery", "workers", "app"], 1);
    assert!(summary(&seen).contains(&said), "{seen}");
    let found = diagnosed(&fleet, "celery:app");
    assert!(summary(&found).contains(&said), "{found}");
    assert_eq!(summary(&diagnosed(&fleet, "app")), summary(&found));

    // Of another application, under the same name.
    let other = worker(&fleet, "other", false);
    eventually("it looks like a worker", || {
        let line = fs::read(format!("/proc/{}/cmdline", other.id())).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("celery")
    });
    let seen = asked(&fleet, &["celery", "workers", "app"], 1);
    assert!(summary(&seen).contains(&said), "{seen}");
    hung.signal(Signal::CONT);
    eventually("nobody is stopped, and nobody is blamed", || {
        let seen = asked(&fleet, &["celery", "workers", "app"], 1);
        let finding = &seen["findings"][0];
        let both = [hung.id(), other.id()]
            .map(|pid| finding["why"].to_string().contains(&pid.to_string()));
        both == [true, true] && finding["next"] == "host processes --by cpu"
    });
}
