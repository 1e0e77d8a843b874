//! The link and the operations on hosts that booted systemd: cables are pulled, units crash, disks
//! fill up, power is cut.

mod absence;
mod celery;
mod diagnose;
mod packages;
mod postgres;
mod programs;
mod redis;

use std::{fs, io::Write as _, time::Duration};

use hostler_tests::{
    fleet::{Fleet, Place},
    lab::Lab,
    process::{command, eventually, within},
};
use rustix::process::Signal;
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

/// One host's result of an operation.
fn on(fleet: &Fleet, host: &str, args: &[&str], code: i32) -> Value {
    let args = [args, &["--on", host, "-o", "json"]].concat();
    let results = fleet.ctl(&args).exits(code).json();
    let results = results.as_array().expect("a list");
    assert_eq!(results.len(), 1, "{results:?}");
    results[0].clone()
}

type Try = fn(&Fleet, &Lab);

/// What every operation of the catalogue does on a booted host, with those of [`redis`] and the
/// others beside. The catalogue's test compares this list with the catalogue.
const OPERATIONS: [(&str, Try); 19] = [
    ("host.facts", facts),
    ("host.resources", resources),
    ("host.processes", processes),
    ("host.disk-io", disk_io),
    ("host.network-io", network_io),
    ("disk.usage", usage),
    ("disk.tree", tree),
    ("net.listeners", listeners),
    ("net.port-owner", port_owner),
    ("systemd.status", status),
    ("systemd.start", start),
    ("systemd.stop", stop),
    ("systemd.restart", restart),
    ("systemd.reload", reload),
    ("journal.read", journal),
    ("logs.tail", logs),
    ("logs.errors", log_errors),
    ("http.check", http),
    ("plugin.run", plugin),
];

fn every() -> impl Iterator<Item = (&'static str, Try)> {
    OPERATIONS
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
    try_all(&OPERATIONS);
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
    let catalogue = hostler_proto::catalogue::Catalogue::embedded().expect("a catalogue");
    let mut named: Vec<_> = catalogue.iter().map(|spec| spec.name.clone()).collect();
    let mut tested: Vec<_> = every().map(|(name, _)| name.to_owned()).collect();
    named.sort();
    tested.sort();
    assert_eq!(named, tested);
}

fn disk_io(fleet: &Fleet, lab: &Lab) {
    let write =
        "dd if=/dev/zero of=/var/tmp/io bs=1M count=2000 oflag=dsync 2>/dev/null; rm /var/tmp/io";
    let mut command = hostler_tests::lab::in_host("h1", &["sh", "-c", write]);
    let writing = hostler_tests::process::Process::start(&mut command, &fleet.path("dd.log"));
    let seen = fleet.ctl(&["host", "disk-io", "--on", "h1", "-o", "json"]).json();
    let disks = seen[0]["data"]["disks"].as_array().expect("disks").clone();
    let written = disks.iter().filter_map(|d| d["write_bytes_per_s"].as_f64()).fold(0.0, f64::max);
    assert!(written > 1e6, "{seen}");
    writing.kill();
    lab.exec("h1", &["sh", "-c", "pkill dd; rm -f /var/tmp/io"]);
}

fn network_io(fleet: &Fleet, lab: &Lab) {
    let ping = ["ping", "-q", "-i", "0.01", "-s", "1000", "-w", "6", "10.77.0.1"];
    let mut command = hostler_tests::lab::in_host("h1", &ping);
    let pinging = hostler_tests::process::Process::start(&mut command, &fleet.path("ping.log"));
    let seen = on(fleet, "h1", &["host", "network-io"], 0);
    let interfaces = seen["data"]["interfaces"].as_array().expect("interfaces").clone();
    let device = lab
        .exec("h1", &["sh", "-c", "ip -o route get 10.77.0.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'"]);
    let ours = interfaces.iter().find(|i| i["interface"] == device.trim()).expect("listed");
    assert!(ours["sent_packets_per_s"].as_f64().is_some_and(|n| n > 20.0), "{seen}");
    pinging.kill();

    // A transfer of two MB a second from h2 to h1, seen at both ends.
    let send = "import socket, time\ns = socket.create_server((\"\", 8099))\nc, _ = s.accept()\n\
                for i in range(900):\n  c.sendall(b\"x\" * 200_000)\n  time.sleep(0.1)";
    lab.exec("h2", &["systemd-run", "--quiet", "--unit=sender", "python3", "-c", send]);
    eventually("the sender listens", || lab.exec("h2", &["ss", "-ltn"]).contains(":8099"));
    let take = "import socket\ns = socket.create_connection((\"10.77.0.12\", 8099))\n\
                while s.recv(65536): pass";
    let mut command = hostler_tests::lab::in_host("h1", &["python3", "-c", take]);
    let taking = hostler_tests::process::Process::start(&mut command, &fleet.path("take.log"));
    let first = |host: &str| {
        let seen = on(fleet, host, &["host", "network-io", "--interval", "3s"], 0);
        seen["data"]["connections"][0].clone()
    };
    let near = |rate: &Value| rate.as_f64().is_some_and(|r| (1.5e6..2.5e6).contains(&r));
    let mut seen = Value::Null;
    eventually("the transfer is at the top with its rate", || {
        seen = first("h1");
        seen["remote"] == "10.77.0.12:8099" && near(&seen["received_bytes_per_s"])
    });
    assert_eq!(seen["command"], "python3", "{seen}");
    let seen = first("h2");
    assert_eq!(
        (&seen["local"], &seen["unit"]),
        (&"10.77.0.12:8099".into(), &"sender.service".into())
    );
    assert!(near(&seen["sent_bytes_per_s"]), "{seen}");
    // With its sender the other end goes, too.
    lab.exec("h2", &["systemctl", "stop", "sender"]);
    drop(taking);
}

fn log_errors(fleet: &Fleet, lab: &Lab) {
    let script = "mkdir -p /var/log/x && cd /var/log/x && \
        for i in 1 2 3; do echo \"2026-11-26 06:00:0$i ERROR request $i failed\"; done > a.log && \
        echo 'all fine, 0 errors' >> a.log && \
        (echo 'ERROR request 7 failed'; echo 'FATAL gone') | gzip > a.log.1.gz";
    lab.exec("h1", &["sh", "-c", script]);
    let look = || on(fleet, "h1", &["logs", "errors", "/var/log/x/a.log*"], 0);
    let first = look();
    assert_eq!((&first["data"]["errors"], &first["data"]["lines"]), (&5.into(), &6.into()));
    let kind = &first["data"]["kinds"][0];
    assert_eq!((&kind["template"], &kind["count"]), (&"ERROR request * failed".into(), &4.into()));
    assert_eq!(kind["last"], "2026-11-26 06:00:03");
    assert_eq!(first["status"], "ok", "{first}");
    let script = "for i in 1 2 3 4 5; do echo 'CRITICAL disk 1 is gone'; done >> /var/log/x/a.log";
    lab.exec("h1", &["sh", "-c", script]);
    let second = look();
    assert_eq!(second["status"], "warning", "{second}");
    assert_eq!(second["data"]["kinds"][0]["new"], true);
    lab.exec("h1", &["rm", "-r", "/var/log/x"]);
}

/// A real plugin of Debian's monitoring-plugins, that is well and that is not.
fn plugin(fleet: &Fleet, _: &Lab) {
    let well = on(fleet, "h1", &["plugin", "run", "procs"], 0);
    assert!(well["summary"].as_str().expect("text").starts_with("PROCS OK"), "{well}");
    assert_eq!(well["data"]["figures"][0]["label"], "procs");
    let bad = on(fleet, "h1", &["plugin", "run", "few-procs"], 1);
    assert_eq!((&bad["status"], &bad["data"]["exit_code"]), (&"critical".into(), &2.into()));
    let missing = on(fleet, "h1", &["plugin", "run", "proc"], 1);
    assert_eq!(missing["error"]["hint"], "did you mean \"procs\"?", "{missing}");
}

fn facts(fleet: &Fleet, lab: &Lab) {
    let facts = on(fleet, "h1", &["host", "facts"], 0);
    let uname = lab.exec("h1", &["uname", "-r"]);
    assert_eq!(facts["data"]["kernel"], uname.trim());
    assert!(facts["summary"].as_str().expect("text").contains("Debian"), "{facts}");
}

fn resources(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["host", "resources", "--interval", "1s"], 0);
    let meminfo = lab.exec("h1", &["grep", "MemTotal", "/proc/meminfo"]);
    let kib: u64 = meminfo.split_whitespace().nth(1).expect("a size").parse().expect("a number");
    assert_eq!(seen["data"]["memory_total_bytes"].as_u64(), Some(kib * 1024));
}

fn processes(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["host", "processes", "--by", "memory", "--top", "50"], 0);
    let list = seen["data"]["processes"].as_array().expect("a list").clone();
    let units: Vec<_> = list.iter().filter_map(|p| p["unit"].as_str()).collect();
    assert!(units.contains(&"omnidoc-backend.service"), "{units:?}");
}

fn usage(fleet: &Fleet, lab: &Lab) {
    assert_eq!(on(fleet, "h1", &["disk", "usage", "/"], 0)["status"], "ok");
    lab.script(&["fill", "h1", "20"]);
    let full = on(fleet, "h1", &["disk", "usage", "/"], 1);
    assert_eq!(full["status"], "critical");
    lab.script(&["unfill", "h1"]);
    assert_eq!(on(fleet, "h1", &["disk", "usage", "/"], 0)["status"], "ok");
    on(fleet, "h1", &["disk", "usage", "/nowhere"], 1);
}

fn tree(fleet: &Fleet, lab: &Lab) {
    let make = "mkdir -p /srv/big/a/b && head -c 30M /dev/zero > /srv/big/a/b/file && \
                ln /srv/big/a/b/file /srv/big/again";
    lab.exec("h1", &["sh", "-c", make]);
    let seen = on(fleet, "h1", &["disk", "tree", "/srv/big"], 0);
    let du = lab.exec("h1", &["du", "-s", "-B1", "/srv/big"]);
    let bytes = du.split_whitespace().next().expect("a size").parse().expect("a number");
    assert_eq!(seen["data"]["total_bytes"].as_u64(), Some(bytes));
    assert_eq!(seen["data"]["directories"][0]["path"], "/srv/big/a");
    // What the policy does not allow is refused in the same words whether it exists or not.
    for path in ["/etc", "/etc/nosuch"] {
        let said = fleet.ctl(&["disk", "tree", path, "--on", "h1"]).exits(4);
        assert!(format!("{}{}", said.out, said.err).contains("policy.paths"), "{said:?}");
    }
}

fn listeners(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["net", "listeners"], 0);
    let list = seen["data"]["listeners"].as_array().expect("a list").clone();
    for (port, unit) in [(80, "nginx.service"), (6379, "redis-server.service")] {
        let found = list.iter().find(|l| l["port"] == port).expect("listed");
        assert_eq!(found["unit"], unit);
    }
}

fn port_owner(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["net", "port-owner", "5432"], 0);
    assert_eq!(seen["data"]["listeners"][0]["unit"], "postgresql@15-main.service");
    let none = on(fleet, "h1", &["net", "port-owner", "59999"], 0);
    assert!(none["summary"].as_str().expect("text").contains("nobody"), "{none}");
}

fn active(lab: &Lab, unit: &str) -> bool {
    lab.succeeds("h1", &["systemctl", "is-active", "--quiet", unit])
}

fn status(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["systemd", "status", "nginx"], 0);
    let pid = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    let unit = &seen["data"]["units"][0];
    assert_eq!(unit["main_pid"].to_string(), pid.trim(), "{seen}");
    lab.write("h1", "/run/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n");
    lab.exec("h1", &["sh", "-c", "systemctl daemon-reload; systemctl start broken; true"]);
    eventually("it has failed", || !active(lab, "broken"));
    let seen = on(fleet, "h1", &["systemd", "status"], 1);
    assert!(seen["findings"].to_string().contains("broken.service"), "{seen}");
    lab.exec("h1", &["systemctl", "reset-failed", "broken"]);
    on(fleet, "h1", &["systemd", "status"], 0);
}

fn stop(fleet: &Fleet, lab: &Lab) {
    let plan = on(fleet, "h1", &["systemd", "stop", "nginx", "--plan"], 0);
    assert_eq!(plan["plan"].as_array().map(Vec::len), Some(1), "{plan}");
    assert!(active(lab, "nginx"), "a plan changes nothing");
    on(fleet, "h1", &["systemd", "stop", "nginx", "--yes"], 0);
    assert!(!active(lab, "nginx"));
    let again = on(fleet, "h1", &["systemd", "stop", "nginx", "--yes"], 0);
    assert_eq!(again["unchanged"], true, "{again}");
    lab.exec("h1", &["systemctl", "start", "nginx"]);
}

fn start(fleet: &Fleet, lab: &Lab) {
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    on(fleet, "h1", &["systemd", "start", "nginx", "--yes"], 0);
    assert!(active(lab, "nginx"));
    let missing = on(fleet, "h1", &["systemd", "start", "ngnix", "--yes"], 1);
    assert!(missing.to_string().contains("nginx.service"), "the nearest is named: {missing}");
}

fn restart(fleet: &Fleet, lab: &Lab) {
    let before = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    let seen = on(fleet, "h1", &["systemd", "restart", "nginx", "--yes"], 0);
    let after = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    assert_ne!(before, after);
    assert_eq!(seen["data"]["after"]["main_pid"].to_string(), after.trim());
    // One that dies soon after its start has not been restarted well.
    let unit = "[Service]\nExecStart=/bin/sh -c 'echo giving up; sleep 1; exit 3'\n";
    lab.write("h1", "/run/systemd/system/frail.service", unit);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    let seen = on(fleet, "h1", &["systemd", "restart", "frail", "--yes"], 1);
    assert_eq!(seen["status"], "critical");
    assert!(seen.to_string().contains("giving up"), "its last lines are evidence: {seen}");
    lab.exec("h1", &["systemctl", "reset-failed", "frail"]);
}

fn reload(fleet: &Fleet, lab: &Lab) {
    let before = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    on(fleet, "h1", &["systemd", "reload", "nginx", "--yes"], 0);
    assert_eq!(before, lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]));
    let said = fleet.ctl(&["systemd", "reload", "redis-server", "--on", "h1", "--yes"]).exits(1);
    assert!(said.out.contains("restart"), "{said:?}");
}

fn journal(fleet: &Fleet, lab: &Lab) {
    let mark = format!("mark{}x", std::process::id());
    for i in 0..5 {
        lab.exec("h1", &["logger", "-t", "probe", &format!("{mark} line {i} 'quoted' ü")]);
    }
    let read = |more: &[&str]| {
        let base = ["journal", "read", "--match", &mark, "--on", "h1", "-o", "json"];
        let args = [&base[..], more].concat();
        let said = fleet.ctl(&args).exits(0);
        said.json()[0].clone()
    };
    eventually("the journal has them", || read(&[])["data"]["lines"].as_u64() == Some(5));
    let some = read(&["--lines", "2"]);
    let texts = some["lines"].to_string();
    assert!(texts.contains("line 3") && texts.contains("line 4 'quoted' ü"), "{some}");
    assert!(!texts.contains("line 2"), "{some}");
    assert_eq!(some["data"]["more"], true);
    let follow = ["journal", "read", "--follow", "--match", &mark, "--on", "h1", "-o", "jsonl"];
    let mut following = fleet.ctl_begins(&follow, "journal.out");
    eventually("old lines come", || following.log().contains("line 4"));
    lab.exec("h1", &["logger", "-t", "probe", &format!("{mark} afterwards")]);
    eventually("new lines come", || following.log().contains("afterwards"));
    let readers = || lab.succeeds("h1", &["pgrep", "-f", "journalctl.*--follow"]);
    assert!(readers());
    following.signal(Signal::INT);
    following.ended();
    eventually("nothing is left on the host", || !readers());
}

fn logs(fleet: &Fleet, lab: &Lab) {
    lab.exec("h1", &["sh", "-c", "mkdir -p /var/log/try; echo one > /var/log/try/a.log"]);
    let follow = ["logs", "tail", "/var/log/try/*.log", "--follow", "--on", "h1", "-o", "jsonl"];
    let mut following = fleet.ctl_begins(&follow, "logs.out");
    eventually("the old line comes", || following.log().contains("one"));
    let rotate = "cd /var/log/try; echo two >> a.log; mv a.log a.log.1; echo three > a.log; \
                  echo four > b.log";
    lab.exec("h1", &["sh", "-c", rotate]);
    for word in ["two", "three", "four"] {
        eventually(word, || following.log().contains(word));
    }
    following.signal(Signal::INT);
    following.ended();
    lab.exec("h1", &["rm", "-r", "/var/log/try"]);
}

fn http(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["http", "check", "http://127.0.0.1/health"], 0);
    assert_eq!(seen["data"]["status"], 200);
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    let seen = on(fleet, "h1", &["http", "check", "http://127.0.0.1/health"], 1);
    assert_eq!(seen["status"], "critical");
    lab.exec("h1", &["systemctl", "start", "nginx"]);
}

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
fn a_dead_unit_is_one_problem_with_what_follows_from_it_and_the_next_command_to_type() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    // Other tests keep the processors busy.
    let problems = || {
        let list = fleet.ctl(&["problems", "--on", "h1", "-o", "json"]).json();
        let list = list.as_array().cloned().unwrap_or_default();
        Value::Array(list.into_iter().filter(|p| p["check"] != "resources").collect())
    };
    eventually("all is well", || problems().as_array().is_some_and(Vec::is_empty));
    let standing = |check: &str| {
        let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
        let checks = health["checks"].as_array().expect("checks").clone();
        let found = checks.into_iter().find(|c| c["state"]["check"] == check);
        found.map(|c| c["state"]["hard"].clone())
    };
    eventually("the endpoint was asked", || standing("http:nginx") == Some("ok".into()));
    lab.exec("h1", &["sh", "-c", "systemctl kill --signal=KILL nginx; systemctl stop nginx"]);
    eventually("the root and what follows are told", || {
        let list = problems();
        list.as_array().is_some_and(|l| l.len() == 1)
            && list[0]["check"] == "unit:nginx"
            && list[0]["follows"][0] == "http:nginx"
    });
    let next = problems()[0]["next"].as_str().expect("a command").to_owned();
    let words: Vec<_> = next.split(' ').skip(1).collect();
    fleet.ctl(&words).exits(0);
    let status = fleet.ctl(&["status"]);
    assert!(status.out.contains("unit:nginx") && status.code == 1, "{status:?}");
    fleet.ctl(&["hosts", "--on", "check(unit:nginx)!=ok"]).exits(0);
    lab.exec("h1", &["systemctl", "start", "nginx"]);
    eventually("it is well again", || problems().as_array().is_some_and(Vec::is_empty));
    let history = fleet.ctl(&["history", "h1", "unit:nginx", "-o", "json"]).json();
    assert_eq!(history["turns"].as_array().map(Vec::len), Some(2), "{history}");
    assert_eq!(history["turns"][0]["became"], "ok", "{history}");
}

#[test]
fn an_agent_finds_the_whole_stack_and_checks_it_with_nothing_written_by_hand() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let agent = ["/srv/lab/hostler-agent", "--config", "/etc/hostler-agent.toml"];
    lab.exec("h1", &["su", "omnidoc", "-c", "/opt/omnidoc/scripts/backup_db.sh"]);
    let said = lab.exec("h1", &[&agent[..], &["discover"]].concat());
    for part in [
        "[[unit]]\nname = \"omnidoc-backend.service\"",
        "[[unit]]\nname = \"postgresql@15-main.service\"",
        "url = \"postgres://hostler@127.0.0.1:5432/postgres\"",
        "[[redis]]\nname = \"main\"\nurl = \"redis://127.0.0.1:6379/0\"",
        "after = [\"unit:redis-server\"]",
        "[[celery]]",
        "[pm2]",
        "[nginx]",
        "[[virtualenv]]\nname = \"omnidoc\"\npath = \"/opt/omnidoc/.venv\"",
        "[[backups]]\nname = \"omnidoc\"\ndirectory = \"/opt/omnidoc/backups\"",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    lab.write("h1", "/etc/hostler/stack.toml", &said);
    lab.exec("h1", &[&agent[..], &["check-config"]].concat());
    lab.exec("h1", &[&agent[..], &["discover", "--check"]].concat());
    lab.write("h1", "/etc/hostler/stack.toml", "");
    assert!(!lab.succeeds("h1", &[&agent[..], &["discover", "--check"]].concat()));

    // Without the file the agent checks what it finds.
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    eventually("its checks are those of what it found", || {
        let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let has = |name: &str| checks.iter().any(|c| c["state"]["check"] == name);
        ["unit:omnidoc-backend", "unit:redis-server", "pm2", "disk"].iter().all(|n| has(n))
    });
}

/// A disk of four MiB that goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mount = command("/usr/bin/mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mount.expect("mount").success());
        Self(dir)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.path().join("filler")).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = command("/usr/bin/umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_under_the_store_lets_nothing_run_that_cannot_be_audited() {
    let disk = SmallDisk::new();
    let store = disk.0.path().join("store.sqlite");
    let mut fleet = Fleet::new(Place::Loopback, &format!("store = \"sqlite:{}\"", store.display()));
    fleet.join("web-1", &[], "");
    fleet.ctl(&["host", "facts", "--on", "all"]).exits(0);
    let before = fleet.audit().len();
    disk.fill();
    // The log has some room left in its last page; then nothing fits any more.
    let mut refused = None;
    eventually("operations are refused", || {
        let said = fleet.ctl(&["host", "facts", "--on", "all"]);
        let full = said.code != 0;
        refused = full.then_some(said);
        full
    });
    let refused = refused.expect("refused");
    assert!(refused.err.contains("full"), "{refused:?}");
    fleet.ctl(&["hosts"]).exits(0);
    disk.free();
    eventually("operations run again", || fleet.ctl(&["host", "facts", "--on", "all"]).code == 0);
    fleet.ctl(&["audit", "verify"]).exits(0);
    let audit = fleet.audit();
    assert!(audit.len() > before);
    let count = |kind: &str| audit.iter().filter(|r| r["kind"] == kind).count();
    assert_eq!(count("intent"), count("outcome") + count("recovered"), "{audit:?}");
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.ctl(&["audit", "verify"]).exits(0);
}
