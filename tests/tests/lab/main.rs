//! Hosts that booted systemd: every operation beside their own tools, and what survives when cables are
//! pulled, units crash, disks fill up and power is cut.

mod absence;
mod celery;
mod checks;
mod diagnose;
mod discovery;
mod faults;
mod machine;
mod mounts;
mod packages;
mod postgres;
mod programs;
mod redis;
mod vital;

use hostler_tests::{
    fleet::{Fleet, Place},
    lab::Lab,
};
use serde_json::Value;

/// A link that notices within seconds.
const QUICK: &str = "keepalive = \"2s\"\nkeepalive_timeout = \"2s\"";
const AGENT: &str = "state_dir = \"/var/lib/hostler-agent\"\n[link]\nkeepalive = \"2s\"\n\
                     keepalive_timeout = \"2s\"\nreconnect_longest = \"1s\"\n";

const STACK: &str = r#"
[defaults]
interval = "2s"
retry = "1s"
attempts = 2

# What is built beside the hosts fills the disk that they share their files on.
[check.disk]
parameters = { mount = ["/"] }

[[unit]]
name = "nginx"

[[http]]
name = "nginx"
url = "http://127.0.0.1/"
after = ["unit:nginx"]

[[postgres]]
name = "main"
url = "postgres://hostler@127.0.0.1:5432/omnidoc"
password_file = "/etc/hostler/postgres.password"

[[redis]]
name = "main"
url = "redis://127.0.0.1:6379/0"
password_file = "/etc/hostler/redis.password"

[[celery]]
name = "omnidoc"
broker = "main"

[[plugin]]
name = "procs"
command = ["/usr/lib/nagios/plugins/check_procs", "-w", "5000", "-c", "9000"]

[[plugin]]
name = "few-procs"
command = ["/usr/lib/nagios/plugins/check_procs", "-w", "0:1", "-c", "0:1"]
[check."plugin:few-procs"]
off = true
"#;

/// Servers whose password is another; nothing checks them.
const WRONG: &str = r#"
[[postgres]]
name = "wrong"
url = "postgres://hostler@127.0.0.1:5432/omnidoc"
password_file = "/etc/hostname"

[[redis]]
name = "wrong"
url = "redis://127.0.0.1:6379/0"
password_file = "/etc/hostname"

[check]
"postgres:wrong" = { off = true }
"postgres-connections:wrong" = { off = true }
"postgres-locks:wrong" = { off = true }
"postgres-sizes:wrong" = { off = true }
"redis:wrong" = { off = true }
"#;

fn fleet(lab: &Lab) -> Fleet {
    fleet_with(lab, "")
}

fn fleet_with(lab: &Lab, more: &str) -> Fleet {
    let fleet = Fleet::new(Place::Lab, QUICK);
    for host in ["h1", "h2"] {
        postgres::role(lab, host);
        lab.exec(host, &["mkdir", "--parents", "/etc/hostler"]);
        lab.write(host, "/etc/hostler/stack.toml", &format!("{STACK}{more}"));
        lab.write(host, "/etc/hostler/redis.password", "redis-pw\n");
        lab.write(host, "/etc/hostler/postgres.password", "hostler-pw\n");
        lab.join(&fleet, host, AGENT);
    }
    fleet
}

/// Gives h1 the stack file of an OmniDoc host with quick checks, and more.
fn omnidoc(lab: &Lab, more: &str) {
    let stack = include_str!("../../../deploy/stacks/omnidoc.toml");
    let quick = [
        (
            "interval = \"1m\"\nretry = \"20s\"\nattempts = 3",
            "interval = \"2s\"\nretry = \"1s\"\nattempts = 2",
        ),
        ("interval = \"6h\"", "interval = \"2s\""),
    ];
    let stack = quick.iter().fold(stack.to_owned(), |stack, (slow, quick)| {
        assert!(stack.contains(slow), "{slow}");
        stack.replace(slow, quick)
    });
    let own = "\n[check.disk]\nparameters = { mount = [\"/\"] }\n";
    lab.write("h1", "/etc/hostler/stack.toml", &format!("{stack}{own}{more}"));
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
}

/// One host's result of an operation.
fn on(fleet: &Fleet, host: &str, args: &[&str], code: i32) -> Value {
    let args = [args, &["--on", host, "-o", "json"]].concat();
    let results = fleet.ctl(&args).exits(code).json();
    let results = results.as_array().expect("a list");
    assert_eq!(results.len(), 1, "{results:?}");
    whole(&results[0]);
    results[0].clone()
}

/// That an answer tells what was asked; and each finding why it matters, what to do next, and of what was measured
/// the unit, the bounds and where these come from.
fn whole(answer: &Value) {
    // What could not be done at all has no findings.
    let Some(findings) = answer["findings"].as_array() else { return };
    // A plan that is not carried out tells its steps.
    let evidence = answer["evidence"].as_array().is_some_and(|e| !e.is_empty());
    assert!(evidence || answer["unchanged"] == true, "{answer}");
    for finding in findings {
        let has = |key: &str| finding[key].as_str().is_some_and(|text| !text.is_empty());
        let why = finding["why"].as_str().unwrap_or_default();
        assert!(finding["status"] == "ok" || has("why"), "{finding}");
        // What to do next is an operation, or stands with what it means.
        let told = [": ", "; ", "`", "look at ", "see "].iter().any(|words| why.contains(words));
        let bad = finding["status"] == "warning" || finding["status"] == "critical";
        assert!(!bad || has("next") || told, "what next? {finding}");
        if !finding["value"].is_null() {
            let bounds = !finding["warning"].is_null() || !finding["critical"].is_null();
            assert!(has("unit") && has("source") && bounds, "{finding}");
        }
    }
}

type Try = fn(&Fleet, &Lab);

/// What is tried of every operation; the catalogue's test compares this list with the catalogue.
fn every() -> impl Iterator<Item = (&'static str, Try)> {
    machine::OPERATIONS
        .into_iter()
        .chain(redis::OPERATIONS)
        .chain(celery::OPERATIONS)
        .chain(postgres::OPERATIONS)
        .chain(programs::OPERATIONS)
        .chain(packages::OPERATIONS)
        .chain(diagnose::OPERATIONS)
}

fn try_all(operations: &[(&str, Try)]) {
    let lab = Lab::take();
    let fleet = fleet_with(&lab, &[WRONG, packages::STACK].concat());
    for (name, test) in operations {
        eprintln!("{name}");
        test(&fleet, &lab);
    }
    fleet.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn operations_on_the_machine_say_what_its_own_tools_say() {
    try_all(&machine::OPERATIONS);
}

#[test]
fn operations_on_redis_say_what_its_own_tools_say() {
    try_all(&redis::OPERATIONS);
}

#[test]
fn operations_on_celery_say_what_its_own_tools_say() {
    try_all(&celery::OPERATIONS);
}

#[test]
fn operations_on_postgresql_say_what_its_own_tools_say() {
    try_all(&postgres::OPERATIONS);
}

#[test]
fn operations_on_programs_say_what_their_own_tools_say() {
    try_all(&programs::OPERATIONS);
}

#[test]
fn operations_on_packages_and_backups_say_what_their_own_tools_say() {
    try_all(&packages::OPERATIONS);
}

#[test]
fn every_operation_of_the_catalogue_is_tested_on_a_booted_host() {
    let named: Vec<_> = hostler_proto::catalogue::Catalogue::names().collect();
    let mut tested: Vec<_> = every().map(|(name, _)| name).collect();
    tested.sort();
    assert_eq!(named, tested);
}
