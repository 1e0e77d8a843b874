//! Each chapter of a runbook's troubleshooting: a host is broken in that way, and the cause is named with
//! what would mend it.

use hostler_tests::{
    fleet::Fleet,
    lab::{Lab, in_host},
    process::{Process, eventually},
};
use serde_json::Value;

use super::{Try, fleet, postgres};

mod applications;
mod disks;
mod servers;

pub(crate) const OPERATIONS: [(&str, Try); 1] = [("host.diagnose", healthy)];

/// A host on which nothing is wrong.
fn healthy(fleet: &Fleet, _: &Lab) {
    well(fleet, &[]);
    let seen = fleet.ctl(&["host", "diagnose", "--on", "h1", "-o", "json"]).json();
    let steps = seen[0]["data"]["steps"].as_array().expect("steps").clone();
    let looked = |what: &str| steps.iter().any(|s| s["looked_at"] == what && s["status"] == "ok");
    assert!(looked("disk usage /") && looked("postgres ping main"), "{seen}");
    assert!(looked("redis status main") && looked("celery workers omnidoc"), "{seen}");
}

#[test]
fn on_a_healthy_host_nothing_is_wrong() {
    let lab = Lab::take();
    healthy(&fleet(&lab), &lab);
}

/// Whether a finding is about the processors: other tests run at the same time, and keep them busy.
fn busy(finding: &Value) -> bool {
    finding["subject"] == "cpu" || finding["subject"] == "steal"
}

/// Waits until the diagnosis is one that says this, and gives it, without what the processors add.
fn until(fleet: &Fleet, service: &[&str], words: &str) -> Value {
    let mut last = Value::Null;
    let args = [&["diagnose", "h1"], service, &["-o", "json"]].concat();
    eventually(&format!("the diagnosis says \"{words}\""), || {
        last = fleet.ctl(&args).json()[0].take();
        if let Some(findings) = last["findings"].as_array_mut() {
            findings.retain(|finding| !busy(finding));
        }
        if let Some(first) = last["findings"].get(0) {
            last["summary"] = first["summary"].clone();
        }
        let found = last["summary"].as_str().is_some_and(|s| s.contains(words));
        if !found {
            eprintln!("{}", last["summary"]);
        }
        found
    });
    last
}

fn next(diagnosis: &Value) -> &str {
    diagnosis["findings"][0]["next"].as_str().expect("a command")
}

/// Waits until nothing is wrong, but for the processors: other tests run at the same time.
fn well(fleet: &Fleet, service: &[&str]) {
    let args = [&["diagnose", "h1"], service, &["-o", "json"]].concat();
    eventually("nothing is wrong", || {
        let said = fleet.ctl(&args).json();
        let findings = said[0]["findings"].as_array().cloned().unwrap_or_default();
        said[0]["status"] != "failed" && findings.iter().all(busy)
    });
}

fn restart(lab: &Lab, unit: &str) {
    lab.exec(
        "h1",
        &["sh", "-c", &format!("systemctl reset-failed {unit}; systemctl restart {unit}")],
    );
}

#[test]
fn a_service_that_does_not_start_because_its_port_is_taken_names_who_has_it() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["systemctl", "stop", "omnidoc-backend"]);
    let thief =
        "systemd-run --quiet --unit=thief /usr/bin/python3 -m http.server 8000 --bind 127.0.0.1";
    lab.exec("h1", &["sh", "-c", thief]);
    eventually("the port is taken", || {
        lab.succeeds("h1", &["sh", "-c", "ss -ltn | grep -q 127.0.0.1:8000"])
    });
    lab.exec("h1", &["sh", "-c", "systemctl start --no-block omnidoc-backend"]);
    let found =
        until(&fleet, &["omnidoc-backend"], "port 8000 of omnidoc-backend.service is taken");
    let steps = found["data"]["steps"].as_array().expect("steps").clone();
    let journal = steps.iter().find(|s| s["looked_at"].to_string().contains("journal read"));
    let said = journal.expect("a look at the journal")["said"].to_string();
    assert!(!said.contains("systemd["), "the program's own words: {said}");
    assert!(found["summary"].as_str().expect("text").contains("of thief.service"), "{found}");
    assert_eq!(next(&found), "systemd stop thief.service");
    lab.exec("h1", &["systemctl", "stop", "thief"]);
    restart(&lab, "omnidoc-backend");
    well(&fleet, &[]);
}

#[test]
fn a_service_that_misses_a_module_or_may_not_use_a_file_says_which() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let script = "import no_such_module_at_all";
    lab.exec("h1", &["sh", "-c", &format!("printf '{script}\\n' > /opt/broken.py")]);
    let unit = "[Service]\nExecStart=/usr/bin/python3 /opt/broken.py\nUser=omnidoc\n";
    lab.write("h1", "/etc/systemd/system/broken.service", unit);
    lab.exec("h1", &["sh", "-c", "systemctl daemon-reload; systemctl start --no-block broken"]);
    let found = until(&fleet, &["broken"], "misses a program, module or file");
    assert!(found["findings"][0]["why"].as_str().expect("text").contains("no_such_module_at_all"));

    lab.exec("h1", &["sh", "-c", "printf \"open('/etc/shadow')\\n\" > /opt/broken.py"]);
    restart(&lab, "broken");
    let found = until(&fleet, &["broken"], "may not use a file that it needs");
    assert!(found["findings"][0]["why"].as_str().expect("text").contains("/etc/shadow"), "{found}");
    lab.exec(
        "h1",
        &[
            "sh",
            "-c",
            "systemctl stop broken; systemctl reset-failed broken; \
        rm /etc/systemd/system/broken.service /opt/broken.py; systemctl daemon-reload",
        ],
    );
    well(&fleet, &[]);
}

#[test]
fn a_database_that_is_stopped_is_the_cause_of_what_needs_it() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["systemctl", "stop", "postgresql@15-main"]);
    for service in [&["postgres"][..], &[]] {
        let found = until(&fleet, service, "postgresql@15-main.service is stopped");
        assert_eq!(next(&found), "systemd start postgresql@15-main.service", "{found}");
    }
    lab.exec("h1", &["systemctl", "start", "postgresql@15-main"]);
    well(&fleet, &["postgres"]);
}

#[test]
fn a_database_that_is_slow_names_the_session_that_holds_up_the_others() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    postgres::psql(
        &lab,
        "CREATE TABLE IF NOT EXISTS held (id int); ALTER TABLE held OWNER TO omnidoc",
    );
    let session = |name: &str, sql: &str| {
        let line = format!(
            "(echo \"{sql}\"; sleep 60) | PGAPPNAME={name} psql -q -d \
             postgresql://omnidoc:omnidoc-pw@127.0.0.1/omnidoc"
        );
        Process::start(
            &mut in_host("h1", &["sh", "-c", &line]),
            &fleet.path(&format!("{name}.log")),
        )
    };
    let culprit = session("culprit", "BEGIN; LOCK TABLE held;");
    eventually("the lock is held", || {
        postgres::psql(&lab, "SELECT count(*) FROM pg_locks WHERE relation = 'held'::regclass")
            == "1"
    });
    let victim = session("victim", "SELECT * FROM held;");
    let found = until(&fleet, &["postgres"], "of culprit, idle in transaction holds up 1 sessions");
    assert_eq!(next(&found), "postgres activity main");
    victim.kill();
    culprit.kill();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name IN ('culprit', 'victim')";
    postgres::psql(&lab, end);
    eventually("nobody waits", || {
        postgres::psql(&lab, "SELECT count(*) FROM pg_locks WHERE NOT granted") == "0"
    });
    postgres::psql(&lab, "DROP TABLE held");
    well(&fleet, &["postgres"]);
}

#[test]
fn a_database_that_hangs_or_has_no_connection_left_is_told_apart_from_one_that_is_stopped() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    // Stopped while it starts, its unit would never have a process.
    well(&fleet, &["postgres"]);
    lab.exec("h1", &["systemctl", "kill", "--signal=STOP", "postgresql@15-main"]);
    let found = until(&fleet, &["postgres"], "postgresql@15-main.service is hung: its process");
    assert_eq!(next(&found), "systemd restart postgresql@15-main.service", "{found}");
    lab.exec("h1", &["systemctl", "kill", "--signal=CONT", "postgresql@15-main"]);
    well(&fleet, &["postgres"]);

    // Where all slots but one are kept for superusers, one session of anybody else takes the last.
    let slots: u32 = postgres::psql(&lab, "SHOW max_connections").parse().expect("a number");
    let reserve = format!("ALTER SYSTEM SET superuser_reserved_connections = {}", slots - 1);
    postgres::psql(&lab, &reserve);
    restart(&lab, "postgresql@15-main");
    let hold =
        "PGPASSWORD=hostler-pw psql -h 127.0.0.1 -U hostler -d omnidoc -c 'SELECT pg_sleep(300)'";
    let hold = format!("until {hold}; do sleep 0.1; done");
    lab.exec("h1", &["systemd-run", "--quiet", "--unit=holder", "sh", "-c", &hold]);
    until(&fleet, &["postgres"], "has no free connection");
    lab.exec("h1", &["systemctl", "stop", "holder"]);
    postgres::psql(&lab, "ALTER SYSTEM RESET superuser_reserved_connections");
    restart(&lab, "postgresql@15-main");
    well(&fleet, &["postgres"]);

    // A limit of the agent's own role says nothing of the server: it could not be looked at.
    postgres::psql(&lab, "ALTER ROLE hostler CONNECTION LIMIT 0");
    let found = until(&fleet, &["postgres"], "gives the agent no further connection");
    assert_eq!(found["findings"][0]["status"], "unknown", "{found}");
    postgres::psql(&lab, "ALTER ROLE hostler CONNECTION LIMIT -1");
    well(&fleet, &["postgres"]);
}

#[test]
fn a_worker_that_is_hung_is_named() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    well(&fleet, &[]);
    lab.exec("h1", &["systemctl", "kill", "--signal=STOP", "omnidoc-celery"]);
    let found = until(&fleet, &[], "celery@h1 is hung: its process");
    assert!(found["findings"].to_string().contains("SIGCONT lets it go on"), "{found}");
    lab.exec("h1", &["systemctl", "kill", "--signal=CONT", "omnidoc-celery"]);
    well(&fleet, &[]);
}

#[test]
fn a_redis_whose_password_is_unknown_is_not_called_well() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["sed", "-i", "/^password_file.*redis.password/d", "/etc/hostler/stack.toml"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    let found = until(&fleet, &["redis"], "does not let the agent in");
    let finding = &found["findings"][0];
    assert_eq!(finding["status"], "unknown", "{found}");
    assert!(finding["why"].as_str().expect("text").contains("password_file"), "{found}");
}

#[test]
fn a_redis_that_is_stopped_or_refuses_writes_is_named_with_the_reason() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["systemctl", "stop", "redis-server"]);
    let found = until(&fleet, &["redis"], "redis-server.service is stopped");
    assert_eq!(next(&found), "systemd start redis-server.service");
    lab.exec("h1", &["systemctl", "start", "redis-server"]);
    well(&fleet, &["redis"]);

    redis_cli(&lab, &["config", "set", "maxmemory", "1mb"]);
    let found = until(&fleet, &["redis"], "of the memory of redis \"main\" are used");
    assert_eq!(next(&found), "redis big-keys main");
    redis_cli(&lab, &["config", "set", "maxmemory", "0"]);
    restart(&lab, "omnidoc-celery");
    well(&fleet, &["redis"]);
}

#[test]
fn a_redis_that_is_slow_names_the_command_that_keeps_all_others_waiting() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    well(&fleet, &["redis"]);
    let slow = "local s = redis.call('TIME'); local e = s; repeat e = redis.call('TIME') until \
                (e[1] - s[1]) * 1000000 + (e[2] - s[2]) > 400000";
    redis_cli(&lab, &["eval", slow, "0"]);
    let found = until(&fleet, &["redis"], "redis \"main\" is slow: 1 command of 100 ms or more");
    assert_eq!(next(&found), "redis slow-log main", "{found}");
    assert!(found["findings"][0]["summary"].to_string().contains(": EVAL"), "{found}");
    redis_cli(&lab, &["slowlog", "reset"]);
    redis_cli(&lab, &["latency", "reset"]);
    well(&fleet, &["redis"]);
}

fn redis_cli(lab: &Lab, args: &[&str]) {
    lab.exec("h1", &[&["redis-cli", "--no-auth-warning", "-a", "redis-pw"], args].concat());
}

#[test]
fn a_disk_that_is_full_comes_before_everything_that_it_breaks() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.script(&["fill", "h1", "0"]);
    let found = until(&fleet, &[], "full");
    assert!(next(&found).starts_with("disk tree /"), "{found}");
    lab.script(&["unfill", "h1"]);
    well(&fleet, &["postgres"]);
}

/// Writes a unit and has systemd start it, whatever comes of it.
fn unit(lab: &Lab, name: &str, text: &str) {
    lab.write("h1", &format!("/etc/systemd/system/{name}.service"), text);
    let start = format!(
        "systemctl daemon-reload; systemctl reset-failed {name}; systemctl start --no-block {name}"
    );
    lab.exec("h1", &["sh", "-c", &start]);
}

#[test]
fn a_unit_whose_file_names_what_is_not_there_is_told_what_and_not_what_was_mended() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let service = |lines: &str| format!("[Service]\nExecStart=/bin/sleep 1000\n{lines}\n");
    // Each fault comes after the one before: what that one said no longer counts.
    for (lines, said) in [
        ("WorkingDirectory=/opt/nowhere", "cannot use its WorkingDirectory /opt/nowhere"),
        ("User=nosuch", "cannot run as User nosuch"),
        ("EnvironmentFile=/etc/nosuch.env", "cannot be read: /etc/nosuch.env"),
        ("ExecStartPre=/usr/bin/nosuchprog", "cannot run "),
    ] {
        unit(&lab, "broken", &service(lines));
        until(&fleet, &["broken"], said);
    }
    let hungry = "[Service]\nExecStart=/usr/bin/python3 -c \"b' ' * 90000000; print('fits')\"\n\
                  MemoryMax=12M\nMemorySwapMax=0\n";
    unit(&lab, "broken", hungry);
    until(&fleet, &["broken"], "broken.service was killed");
    unit(&lab, "broken", &service(""));
    well(&fleet, &["broken"]);

    lab.exec("h1", &["systemctl", "kill", "--signal=STOP", "broken"]);
    let found = until(&fleet, &["broken"], "broken.service is hung: its process");
    let findings = found["findings"].as_array().expect("findings");
    let of_it = findings.iter().filter(|f| f["subject"] == "broken.service").count();
    assert_eq!(of_it, 1, "what it said before its last start is no cause: {found}");
    lab.exec("h1", &["systemctl", "kill", "--signal=CONT", "broken"]);
    lab.exec("h1", &["systemctl", "stop", "broken"]);

    unit(&lab, "migr", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    unit(
        &lab,
        "broken",
        "[Unit]\nRequires=migr.service\nAfter=migr.service\n[Service]\nExecStart=/bin/sleep 1000\n",
    );
    let found = until(&fleet, &["broken"], "migr.service has failed");
    let said = found["findings"].to_string();
    assert!(said.contains("broken.service does not run: it requires migr.service"), "{found}");
    lab.exec(
        "h1",
        &["sh", "-c", "systemctl reset-failed; rm /etc/systemd/system/broken.service /etc/systemd/system/migr.service; systemctl daemon-reload"],
    );
    well(&fleet, &[]);
}

#[test]
fn a_server_that_does_not_start_says_what_it_does_not_like() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let settings = "/etc/postgresql/15/main/conf.d/wrong.conf";
    lab.write("h1", settings, "shared_buffers = lots\n");
    lab.exec("h1", &["sh", "-c", "systemctl restart postgresql@15-main || true"]);
    let found = until(
        &fleet,
        &["postgres"],
        "the configuration of postgresql@15-main.service has a mistake",
    );
    assert!(found["findings"][0]["why"].to_string().contains("shared_buffers"), "{found}");
    let wide = format!(
        "rm {settings}; chmod 777 /var/lib/postgresql/15/main; \
                        systemctl reset-failed; systemctl restart postgresql@15-main || true"
    );
    lab.exec("h1", &["sh", "-c", &wide]);
    until(&fleet, &["postgres"], "refuses the owner or the permissions of its files");
    lab.exec("h1", &["chmod", "700", "/var/lib/postgresql/15/main"]);
    restart(&lab, "postgresql@15-main");
    well(&fleet, &["postgres"]);

    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    let thief = "systemd-run --quiet --unit=thief /usr/bin/python3 -m http.server 80";
    lab.exec("h1", &["sh", "-c", thief]);
    eventually("the port is taken", || {
        lab.succeeds("h1", &["sh", "-c", "ss -ltn | grep -q 0.0.0.0:80"])
    });
    lab.exec("h1", &["sh", "-c", "systemctl start nginx || true"]);
    until(&fleet, &["nginx"], "port 80 of nginx.service is taken");
    lab.exec("h1", &["systemctl", "stop", "thief"]);
    restart(&lab, "nginx");
    well(&fleet, &[]);
    lab.exec("h1", &["systemctl", "kill", "--signal=STOP", "nginx"]);
    until(&fleet, &[], "nginx.service is hung: its process");
    lab.exec("h1", &["systemctl", "kill", "--signal=CONT", "nginx"]);
    well(&fleet, &[]);
}
