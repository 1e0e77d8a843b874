//! What an agent checks on a host without a stack file, on which not all is as usual.

use std::time::Duration;

use hostler_tests::{
    fleet::Fleet,
    lab::{Lab, in_host},
    process::{Process, eventually, within},
};
use serde_json::Value;

use super::fleet;

/// The check of that name on h1, as the controller knows it; nothing where there is none.
fn state(fleet: &Fleet, check: &str) -> Value {
    let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
    let checks = health["checks"].as_array().cloned().unwrap_or_default();
    let found = checks.into_iter().find(|c| c["state"]["check"] == check);
    found.map(|c| c["state"].clone()).unwrap_or_default()
}

#[test]
fn a_unit_with_an_escaped_name_is_checked_until_it_starts_at_boot_no_more() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let (unit, check) = ("lab@my\\x2dvpn.service", "unit:lab@my/x2dvpn");
    let text = "[Service]\nExecStart=sleep 1000\n[Install]\nWantedBy=multi-user.target\n";
    lab.write("h1", "/etc/systemd/system/lab@.service", text);
    lab.exec("h1", &["systemctl", "enable", "--now", unit]);
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    eventually("it is checked", || state(&fleet, check)["hard"] == "ok");
    let agent = ["/srv/lab/hostler-agent", "--config", "/etc/hostler-agent.toml", "check-config"];
    lab.exec("h1", &agent);
    lab.exec("h1", &["systemctl", "disable", "--now", unit]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    eventually("it is not checked any more", || {
        state(&fleet, check).is_null() && !state(&fleet, "disk").is_null()
    });
    lab.exec("h1", &["rm", "/etc/systemd/system/lab@.service"]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
}

#[test]
fn an_agent_starts_and_tells_of_a_mount_whose_server_is_gone_though_a_process_names_a_file_there() {
    const DEAD: &str = "/srv/dead-at-start";
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["systemctl", "stop", "hostler-agent"]);
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    let log = std::env::temp_dir().join(format!("dead-at-start-{}", std::process::id()));
    lab.write("h1", "/root/dead-mount", include_str!("../../lab/bin/dead-mount"));
    let mut start = in_host("h1", &["python3", "/root/dead-mount", DEAD]);
    let mut dead = Process::start(&mut start, &log);
    eventually("it is mounted", || dead.log().contains("mounted"));
    let titled = format!("exec -a 'PM2 v9: God Daemon ({DEAD})' sleep 1000");
    lab.exec(
        "h1",
        &["systemd-run", "--quiet", "--collect", "--unit=titled", "bash", "-c", &titled],
    );
    lab.exec("h1", &["systemctl", "start", "hostler-agent"]);
    within(Duration::from_secs(60), "the disk's check tells it", || {
        let disk = state(&fleet, "disk");
        disk["findings"].to_string().contains(&format!("{DEAD} did not answer within 3 s"))
    });
    lab.exec("h1", &["systemctl", "stop", "titled"]);
    lab.exec("h1", &["umount", "--force", "--lazy", DEAD]);
    dead.ended();
    std::fs::remove_file(log).expect("its log");
}

#[test]
fn a_service_that_is_active_and_serves_nobody_is_critical_though_nothing_is_known_of_it() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let program =
        "import socket, time\nsocket.create_server(('127.0.0.1', 8099))\ntime.sleep(1000)\n";
    // What nobody holds is closed at once.
    lab.write("h1", "/srv/deaf.py", &program.replace("socket.create", "s = socket.create"));
    let unit = "[Service]\nExecStart=python3 /srv/deaf.py\n[Install]\nWantedBy=multi-user.target\n";
    lab.write("h1", "/etc/systemd/system/deaf.service", unit);
    lab.exec("h1", &["systemctl", "enable", "--now", "deaf"]);
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    // What was found begins to be checked within some seconds of the agent's start.
    let restarted = || lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    restarted();
    eventually("nobody has called", || state(&fleet, "unit:deaf")["hard"] == "ok");
    let call =
        "import socket, time; s = socket.create_connection(('127.0.0.1', 8099)); time.sleep(1000)";
    lab.exec("h1", &["systemd-run", "--quiet", "--unit=caller", "python3", "-c", call]);
    lab.exec("h1", &["systemctl", "kill", "--signal=STOP", "nginx"]);
    restarted();
    let told =
        "deaf.service is active and takes no connections at 127.0.0.1:8099: one has waited for 2 s";
    let says = |check: &str, words: &str| {
        let state = state(&fleet, check);
        state["status"] == "critical" && state["findings"].to_string().contains(words)
    };
    eventually("both are told", || {
        says("unit:deaf", told) && says("unit:nginx", "nginx.service is hung: its process")
    });
    // Also where nobody named its unit.
    let all = fleet.ctl(&["systemd", "status", "--on", "h1", "-o", "json"]).exits(1).json();
    assert!(all[0]["findings"].to_string().contains("nginx.service is hung: its process"), "{all}");
    lab.exec("h1", &["systemctl", "kill", "--signal=CONT", "nginx"]);
    let found = fleet.ctl(&["diagnose", "h1", "deaf", "-o", "json"]).json();
    assert!(found[0]["summary"].as_str().is_some_and(|s| s.starts_with(told)), "{found}");
    assert_eq!(found[0]["findings"][0]["next"], "systemd restart deaf.service", "{found}");
    lab.exec("h1", &["systemctl", "restart", "deaf"]);
    fleet.ctl(&["systemd", "status", "deaf", "nginx", "--on", "h1"]).exits(0);
    for unit in ["caller", "deaf"] {
        lab.exec("h1", &["sh", "-c", &format!("systemctl stop {unit} || true")]);
    }
    lab.exec("h1", &["systemctl", "disable", "--quiet", "deaf"]);
    lab.exec("h1", &["rm", "/etc/systemd/system/deaf.service"]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
}

/// h1 with a Redis that lets everybody in, for as long as a scene needs it.
struct Unlocked<'l>(&'l Lab);

const REDIS: &str = "/etc/redis/redis.conf";
const APPLICATION: &str = "/opt/omnidoc/.env";

impl<'l> Unlocked<'l> {
    fn new(lab: &'l Lab) -> Self {
        for file in [REDIS, APPLICATION] {
            lab.exec("h1", &["cp", "--preserve", file, &format!("{file}.locked")]);
        }
        let this = Self(lab);
        lab.exec("h1", &["sed", "-i", "/^requirepass /d", REDIS]);
        lab.exec("h1", &["sed", "-i", "s/:redis-pw@//", APPLICATION]);
        this.again();
        this
    }

    fn again(&self) {
        self.0.exec("h1", &["systemctl", "restart", "redis-server", "omnidoc-celery"]);
    }
}

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        for file in [REDIS, APPLICATION] {
            self.0.exec("h1", &["mv", &format!("{file}.locked"), file]);
        }
        self.0.exec("h1", &["systemctl", "enable", "--quiet", "omnidoc-celery"]);
        self.again();
    }
}

#[test]
fn workers_whose_broker_is_certain_and_requests_that_can_be_read_are_checked_without_a_stack_file()
{
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let unlocked = Unlocked::new(&lab);
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    eventually("the worker is subscribed", || {
        lab.exec("h1", &["redis-cli", "client", "list", "type", "pubsub"]).contains("psub=1")
    });
    lab.exec("h1", &["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1/"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    for check in ["celery:app", "celery-queues:app", "redis:main", "nginx-requests"] {
        within(Duration::from_secs(60), check, || state(&fleet, check)["hard"] == "ok");
    }

    // As after a boot at which the worker did not come up.
    lab.exec("h1", &["systemctl", "stop", "omnidoc-celery", "hostler-agent"]);
    lab.exec("h1", &["systemctl", "start", "hostler-agent"]);
    within(Duration::from_secs(180), "it is missed", || {
        let workers = state(&fleet, "celery:app");
        workers["hard"] == "critical" && workers.to_string().contains("has no worker")
    });
    lab.exec("h1", &["systemctl", "disable", "--quiet", "omnidoc-celery"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    within(Duration::from_secs(60), "it is missed no more", || {
        state(&fleet, "celery:app").is_null() && !state(&fleet, "redis:main").is_null()
    });
    drop(unlocked);
}
