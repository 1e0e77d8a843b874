//! The checks of a whole stack: what one sees of a dead unit, and what an agent finds by itself.

use std::time::Duration;

use hostler_tests::{
    lab::Lab,
    process::{eventually, within},
};
use serde_json::Value;

use super::{fleet, omnidoc};

#[test]
fn a_dead_unit_is_one_problem_with_what_follows_from_it_and_the_next_command_to_type() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    // Other tests keep the processors busy, and what is built beside them fills the disk.
    let busy = |check: &Value| check == "resources" || check == "disk";
    let problems = || {
        let list = fleet.ctl(&["problems", "--on", "h1", "-o", "json"]).json();
        let list = list.as_array().cloned().unwrap_or_default();
        Value::Array(list.into_iter().filter(|p| !busy(&p["check"])).collect())
    };
    eventually("all is well", || problems().as_array().is_some_and(Vec::is_empty));
    let standing = |check: &str| {
        let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
        let checks = health["checks"].as_array().expect("checks").clone();
        let found = checks.into_iter().find(|c| c["state"]["check"] == check);
        found.map(|c| c["state"]["hard"].clone())
    };
    eventually("the endpoint was asked", || standing("http:nginx") == Some("ok".into()));
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
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
fn the_stack_of_omnidoc_is_checked_whole_on_a_host_that_is_one() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.exec("h1", &["su", "omnidoc", "-c", "/opt/omnidoc/scripts/backup_db.sh"]);
    omnidoc(&lab, "");
    let expected = [
        "unit:postgresql@15-main",
        "unit:redis-server",
        "unit:omnidoc-backend",
        "unit:omnidoc-celery",
        "unit:nginx",
        "postgres:main",
        "postgres-connections:main",
        "postgres-locks:main",
        "postgres-sizes:main",
        "postgres-bloat:main",
        "redis:main",
        "celery:omnidoc",
        "celery-queues:omnidoc",
        "http:backend",
        "http:site",
        "pm2",
        "nginx-config",
        "nginx-requests",
        "logs:omnidoc",
        "logs:nginx",
        "git:omnidoc",
        "pip:omnidoc",
        "pnpm:omnidoc",
        "backups:omnidoc",
        "packages",
        "disk",
        "units",
        "resources",
        "host",
    ];
    let checks = || {
        let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
        health["checks"].as_array().cloned().unwrap_or_default()
    };
    let of = |checks: &[Value], name: &str| {
        checks.iter().find(|c| c["state"]["check"] == name).map(|c| c["state"].clone())
    };
    // First runs are spread over fifteen seconds, and some take their time.
    within(Duration::from_secs(90), "every check has run", || {
        let checks = checks();
        expected.iter().all(|name| {
            of(&checks, name).is_some_and(|state| state["checked_us"].as_i64() > Some(0))
        })
    });
    // What the lab itself makes: other tests keep processors and disks busy, and one backup is not seven.
    let made = ["resources", "disk", "host", "units", "backups:omnidoc"];
    // What no lab has: an index of packages that answers, and lines of old logs with more than a day.
    let without = ["pip:omnidoc", "pnpm:omnidoc", "packages", "logs:omnidoc"];
    let fits = |check: &Value| {
        let (name, hard) = (&check["state"]["check"], &check["state"]["hard"]);
        match hard.as_str() {
            Some("critical") => made.iter().any(|n| name == n),
            Some("unknown") => without.iter().any(|n| name == n),
            _ => true,
        }
    };
    eventually("nothing is critical or unknown", || checks().iter().all(fits));

    // Of what needs the database nothing is a problem of its own.
    let problems = || {
        let list = fleet.ctl(&["problems", "--on", "h1", "-o", "json"]).json();
        let list = list.as_array().cloned().unwrap_or_default();
        let noise = |p: &Value| made.iter().chain(&without).any(|name| p["check"] == *name);
        let bad = |p: &Value| p["status"] == "critical" && !noise(p);
        list.into_iter().filter(bad).collect::<Vec<_>>()
    };
    eventually("nothing is critical", || problems().is_empty());
    lab.exec("h1", &["systemctl", "stop", "postgresql@15-main"]);
    let followers = ["postgres:main", "postgres-connections:main", "postgres-locks:main"];
    eventually("the server is the one root, and what needs it follows", || {
        let list = problems();
        let follows = list.first().and_then(|p| p["follows"].as_array()).cloned();
        let follows = follows.unwrap_or_default();
        list.len() == 1
            && list[0]["check"] == "unit:postgresql@15-main"
            && followers.iter().all(|name| follows.iter().any(|check| check == name))
    });
    let status = fleet.ctl(&["status"]);
    assert!(status.out.contains("unit:postgresql@15-main"), "{status:?}");
    let next = problems()[0]["next"].as_str().expect("a command").to_owned();
    assert!(next.contains("postgresql@15-main.service"), "{next}");
    lab.exec("h1", &["systemctl", "start", "postgresql@15-main"]);
    eventually("it is well again", || problems().is_empty());
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
        "# [[http]]\n# name = \"omnidoc-backend\"\n# url = \"http://127.0.0.1:8000/\"\n",
        "[[git]]\nname = \"omnidoc\"\npath = \"/opt/omnidoc\"",
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
    // Of what listens somebody has to say that it speaks HTTP.
    assert!(!lab.succeeds("h1", &[&agent[..], &["discover", "--check"]].concat()));
    let entry = |line: &&str| {
        let keys = ["# [[http]]", "# name = ", "# url = ", "# after = "];
        keys.iter().any(|key| line.starts_with(key))
    };
    let decided = said.lines().map(|line| Some(line).filter(entry).map_or(line, |line| &line[2..]));
    lab.write("h1", "/etc/hostler/stack.toml", &decided.collect::<Vec<_>>().join("\n"));
    lab.exec("h1", &[&agent[..], &["discover", "--check"]].concat());
    lab.write("h1", "/etc/hostler/stack.toml", "");
    assert!(!lab.succeeds("h1", &[&agent[..], &["discover", "--check"]].concat()));

    // Without the file the agent checks what it finds.
    let log = "/var/log/postgresql/postgresql-15-main.log";
    let count = format!("grep -c 'FATAL.*\"hostler\"' {log} || true");
    let refused = || lab.exec("h1", &["sh", "-c", &count]);
    let before = refused();
    lab.exec("h1", &["rm", "/etc/hostler/stack.toml"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    let standing = |check: &str| {
        let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let found = checks.into_iter().find(|c| c["state"]["check"] == check);
        found.and_then(|c| c["state"]["hard"].as_str().map(ToOwned::to_owned))
    };
    let found = [
        "unit:omnidoc-backend",
        "unit:redis-server",
        "redis:main",
        "postgres:main",
        "nginx-config",
        "pm2",
        "disk",
    ];
    eventually("its checks are those of what it found", || {
        found.iter().all(|name| standing(name).is_some())
    });
    let says = |text: &str| fleet.ctl(&["health", "h1", "-o", "json"]).out.contains(text);
    eventually("a password is asked for", || says("does not let the agent in"));
    eventually("a login is missing", || standing("postgres:main").as_deref() == Some("unknown"));
    assert!(says("GRANT pg_monitor") && standing("postgres-locks:main").is_none());
    assert_eq!(refused(), before, "nobody tried to log in");
    // What did not come up is missed all the same.
    lab.exec("h1", &["systemctl", "stop", "omnidoc-backend"]);
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    eventually("it is missed", || says("omnidoc-backend.service is stopped"));
    lab.exec("h1", &["systemctl", "start", "omnidoc-backend"]);
}
