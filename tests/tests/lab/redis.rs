//! The operations on Redis, against the hosts' own server.

use hostler_tests::{fleet::Fleet, lab::Lab};

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 5] = [
    ("redis.status", status),
    ("redis.big-keys", big_keys),
    ("redis.slow-log", slow_log),
    ("redis.config", config),
    ("redis.monitor", monitor),
];

fn cli(lab: &Lab, args: &[&str]) -> String {
    lab.exec("h1", &[&["redis-cli", "--no-auth-warning", "-a", "redis-pw"], args].concat())
}

fn status(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["redis", "status", "main"], 0);
    let info = cli(lab, &["info", "server"]);
    let version = info.lines().find_map(|l| l.strip_prefix("redis_version:")).expect("a version");
    assert_eq!(seen["data"]["version"], version.trim());
    assert_eq!(seen["data"]["celery_broker"], true, "{seen}");
    // The runbook's `redis-cli ping` calls this healthy.
    let wrong = on(fleet, "h1", &["redis", "status", "wrong"], 1);
    assert_eq!(wrong["status"], "critical");
    assert!(wrong["summary"].as_str().expect("text").contains("does not let the agent in"));
    assert!(!wrong.to_string().contains("redis-pw"), "{wrong}");
    // Neither does its exit status tell that writes are refused.
    lab.exec("h1", &["chmod", "500", "/var/lib/redis"]);
    cli(lab, &["bgsave"]);
    hostler_tests::process::eventually("the snapshot has failed", || {
        cli(lab, &["info", "persistence"]).contains("rdb_last_bgsave_status:err")
    });
    let refused = on(fleet, "h1", &["redis", "status", "main"], 1);
    let why = refused["findings"][0]["why"].as_str().expect("text");
    assert!(why.contains("every write is refused"), "{refused}");
    lab.exec("h1", &["chmod", "750", "/var/lib/redis"]);
    cli(lab, &["bgsave"]);
    hostler_tests::process::eventually("a snapshot is good again", || {
        cli(lab, &["info", "persistence"]).contains("rdb_last_bgsave_status:ok")
    });
    lab.exec("h1", &["systemctl", "stop", "redis-server"]);
    let dead = on(fleet, "h1", &["redis", "status", "main"], 1);
    assert!(dead["summary"].as_str().expect("text").contains("does not answer"), "{dead}");
    lab.exec("h1", &["systemctl", "start", "redis-server"]);
}

fn big_keys(fleet: &Fleet, lab: &Lab) {
    cli(lab, &["eval", "for i=1,3000 do redis.call('set', 'session:'..i, 'x') end", "0"]);
    cli(lab, &["eval", "redis.call('set', 'report', string.rep('x', 300000))", "0"]);
    let seen = on(fleet, "h1", &["redis", "big-keys", "main", "--top", "3"], 0);
    assert_eq!(seen["data"]["keys"][0]["key"], "report", "{seen}");
    assert_eq!(seen["data"]["keys"][0]["type"], "string");
    let kinds = seen["data"]["kinds"].as_array().expect("kinds").clone();
    let sessions = kinds.iter().find(|k| k["kind"] == "session:*").expect("one kind");
    assert_eq!(sessions["keys"], 3000);
    let usage: u64 = cli(lab, &["memory", "usage", "report"]).trim().parse().expect("bytes");
    assert_eq!(seen["data"]["keys"][0]["bytes"], usage);
    let some = on(fleet, "h1", &["redis", "big-keys", "main", "--match", "rep*"], 0);
    assert_eq!(some["data"]["scanned"], 1);
    cli(lab, &["eval", "for i=1,3000 do redis.call('unlink', 'session:'..i) end", "0"]);
    cli(lab, &["unlink", "report"]);
}

fn slow_log(fleet: &Fleet, lab: &Lab) {
    cli(lab, &["config", "set", "slowlog-log-slower-than", "0"]);
    cli(lab, &["set", "slow:1", "hidden-value"]);
    cli(lab, &["config", "set", "slowlog-log-slower-than", "10000"]);
    let seen = on(fleet, "h1", &["redis", "slow-log", "main"], 0);
    let commands = seen["data"]["commands"].as_array().expect("commands").clone();
    assert!(commands.iter().any(|c| c["command"] == "SET slow:1"), "{seen}");
    assert!(!seen.to_string().contains("hidden-value"));
    cli(lab, &["slowlog", "reset"]);
    cli(lab, &["unlink", "slow:1"]);
}

fn config(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["redis", "config", "requirepass", "--server", "main"], 0);
    assert_eq!(seen["data"]["settings"][0]["value"], "***", "{seen}");
    let policy = cli(lab, &["config", "get", "maxmemory-policy"]);
    let seen = on(fleet, "h1", &["redis", "config", "maxmemory-p*", "--server", "main"], 0);
    let shown = seen["data"]["settings"][0]["value"].as_str().expect("a value");
    assert_eq!(policy.lines().nth(1), Some(shown));
}

fn monitor(fleet: &Fleet, lab: &Lab) {
    let args = ["redis", "monitor", "main", "--time", "3s", "--on", "h1", "-o", "json"];
    let mut watching = fleet.ctl_begins(&args, "monitor.json");
    hostler_tests::process::eventually("it watches", || {
        cli(lab, &["set", "user:17", "hidden-value"]);
        cli(lab, &["client", "list"]).contains("cmd=monitor")
    });
    // Often enough to be told among all that Celery and checks do meanwhile.
    cli(lab, &["eval", "for i=1,500 do redis.call('set', 'user:'..i, 'hidden-value') end", "0"]);
    assert_eq!(watching.ended(), Some(0), "{}", watching.log());
    let seen: serde_json::Value = serde_json::from_str(&watching.log()).expect("json");
    let commands = seen[0]["data"]["commands"].as_array().expect("commands").clone();
    assert!(commands.iter().any(|c| c["command"] == "SET" && c["kind"] == "user:*"), "{seen}");
    assert!(!watching.log().contains("hidden-value"));
    cli(lab, &["eval", "for i=1,500 do redis.call('unlink', 'user:'..i) end", "0"]);
}
