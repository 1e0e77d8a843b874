//! The operations on Celery, against the hosts' own worker and what Celery's own tool says.

use std::collections::BTreeSet;

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};
use serde_json::Value;

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 5] = [
    ("celery.workers", workers),
    ("celery.active", active),
    ("celery.scheduled", scheduled),
    ("celery.stats", stats),
    ("celery.queues", queues),
];

fn cli(lab: &Lab, args: &[&str]) -> String {
    lab.exec("h1", &[&["redis-cli", "--no-auth-warning", "-a", "redis-pw"], args].concat())
}

/// What Celery's own tool says.
fn celery(lab: &Lab, words: &str) -> String {
    let line = format!(
        "cd /opt/omnidoc && set -a && . ./.env && exec .venv/bin/celery -A src.tasks.celery_app {words}"
    );
    lab.exec("h1", &["sh", "-c", &line])
}

/// The same, as its JSON.
fn inspect(lab: &Lab, what: &str) -> Value {
    serde_json::from_str(&celery(lab, &format!("inspect {what} --json"))).expect("json")
}

fn enqueue(lab: &Lab, task: &str) {
    lab.exec("h1", &["curl", "-fsS", "-X", "POST", &format!("http://127.0.0.1:8000/tasks/{task}")]);
}

fn worker_is(fleet: &Fleet, state: &str, code: i32) -> Value {
    let seen = on(fleet, "h1", &["celery", "workers"], code);
    assert_eq!(seen["data"]["workers"][0]["state"], state, "{seen}");
    seen
}

fn workers(fleet: &Fleet, lab: &Lab) {
    eventually("the worker is there", || {
        let said = fleet.ctl(&["celery", "workers", "--on", "h1", "-o", "json"]);
        said.code == 0 && said.json()[0]["data"]["subscribed"] == 1
    });
    let seen = worker_is(fleet, "ok", 0);
    assert_eq!(seen["data"]["workers"][0]["name"], "celery@h1");
    assert_eq!(seen["data"]["workers"][0]["queues"][0], "celery");
    let left = || -> BTreeSet<String> {
        let bound = cli(lab, &["smembers", "_kombu.binding.reply.celery.pidbox"]);
        let lists = cli(lab, &["--scan", "--pattern", "*.reply.celery.pidbox"]);
        bound.lines().chain(lists.lines()).map(ToOwned::to_owned).collect()
    };
    // Agents that were killed while they asked may have left something.
    let before = left();
    let _: Value = worker_is(fleet, "ok", 0);
    // The host's own check asks now and then, too.
    eventually("nothing of the request stays at the broker", || left().is_subset(&before));
    // One that an agent left that died long ago.
    let dead = "hostler@h1.0192f9a0-0000-7000-8000-000000000001";
    let list = format!("{dead}.reply.celery.pidbox");
    let binding = [dead, "", &list].join("\x06\x16");
    cli(lab, &["sadd", "_kombu.binding.reply.celery.pidbox", &binding]);
    cli(lab, &["rpush", &list, "a late answer"]);
    worker_is(fleet, "ok", 0);
    assert!(!left().iter().any(|left| left.contains(dead)), "{:?}", left());

    // FLUSHDB, of which Celery's own ping notices nothing.
    cli(lab, &["del", "_kombu.binding.celery"]);
    assert!(inspect(lab, "ping").to_string().contains("pong"));
    let lost = worker_is(fleet, "lost-bindings", 1);
    assert!(lost["summary"].as_str().expect("text").contains("is gone"), "{lost}");
    lab.exec("h1", &["systemctl", "restart", "omnidoc-celery"]);
    eventually("the bindings are back", || {
        fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0
    });

    let pid = lab.exec("h1", &["systemctl", "show", "omnidoc-celery", "-P", "MainPID"]);
    lab.exec("h1", &["kill", "-STOP", pid.trim()]);
    let hung = worker_is(fleet, "hung", 1);
    assert!(hung["findings"][0]["summary"].as_str().expect("text").contains("is stopped"));
    for verb in ["active", "scheduled", "stats", "queues"] {
        let part = on(fleet, "h1", &["celery", verb], 3);
        assert!(part["findings"].to_string().contains("1 of 1 workers did not answer"), "{part}");
    }
    // A container that is gone left its name there.
    let stale = "\x06\x16\x06\x16celery@0a1b2c.celery.pidbox";
    cli(lab, &["sadd", "_kombu.binding.celery.pidbox", stale]);
    assert_eq!(worker_is(fleet, "hung", 1)["data"]["workers"][0]["name"], "celery@h1");
    cli(lab, &["del", "_kombu.binding.celery.pidbox"]);
    worker_is(fleet, "hung", 1);
    lab.exec("h1", &["kill", "-CONT", pid.trim()]);
    eventually("it goes on", || fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0);

    lab.exec("h1", &["systemctl", "stop", "omnidoc-celery"]);
    eventually("the worker is gone", || {
        let said = fleet.ctl(&["celery", "workers", "--on", "h1"]);
        said.code == 1 && said.out.contains("has no worker")
    });
    lab.exec("h1", &["systemctl", "start", "omnidoc-celery"]);
    eventually("the worker is back", || fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0);
    a_worker_that_takes_from_no_queue(fleet, lab);
    a_solo_pool_that_is_busy(fleet, lab);
    a_rate_that_holds_tasks_back(fleet, lab);
}

/// Tasks wait, none runs, and the worker is well.
fn a_rate_that_holds_tasks_back(fleet: &Fleet, lab: &Lab) {
    let task = "src.tasks.celery_app.short_task";
    celery(lab, &format!("control rate_limit {task} 6/m"));
    for _ in 0..12 {
        enqueue(lab, "short_task");
    }
    eventually("the first has run, and the others are held back", || {
        let seen = worker_is(fleet, "ok", 0);
        assert_eq!(seen["status"], "ok", "{seen}");
        seen["summary"].as_str().expect("text").contains("rate limit")
    });
    for _ in 0..4 {
        let seen = worker_is(fleet, "ok", 0);
        assert_eq!(seen["status"], "ok", "{seen}");
    }
    celery(lab, &format!("control rate_limit {task} 0"));
    cli(lab, &["del", "celery"]);
    lab.exec("h1", &["systemctl", "restart", "omnidoc-celery"]);
    eventually("the worker is back", || fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0);
    cli(lab, &["del", "celery"]);
}

/// It answers pings, is subscribed, and will never run a task.
fn a_worker_that_takes_from_no_queue(fleet: &Fleet, lab: &Lab) {
    celery(lab, "control cancel_consumer celery");
    eventually("it consumes nothing", || {
        inspect(lab, "active_queues")["celery@h1"] == Value::Array(Vec::new())
    });
    assert!(inspect(lab, "ping").to_string().contains("pong"));
    let deaf = worker_is(fleet, "not-consuming", 1);
    let summary = deaf["findings"][0]["summary"].as_str().expect("text").to_owned();
    assert!(summary.contains("takes tasks from no queue"), "{deaf}");
    celery(lab, "control add_consumer celery");
    eventually("it consumes again", || fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0);
}

/// A solo pool answers nobody while its task runs, and is no emergency.
fn a_solo_pool_that_is_busy(fleet: &Fleet, lab: &Lab) {
    let start = "systemd-run --quiet --unit=solo --uid=omnidoc --working-directory=/opt/omnidoc \
                 --property=EnvironmentFile=/opt/omnidoc/.env /opt/omnidoc/.venv/bin/celery \
                 -A src.tasks.celery_app worker -n solo@h1 -P solo -Q slow";
    lab.exec("h1", &start.split_whitespace().collect::<Vec<_>>());
    let of = |seen: &Value| {
        let workers = seen["data"]["workers"].as_array().cloned().unwrap_or_default();
        workers.into_iter().find(|w| w["name"] == "solo@h1").unwrap_or_default()
    };
    let seen = || fleet.ctl(&["celery", "workers", "--on", "h1", "-o", "json"]).json()[0].clone();
    eventually("the second worker is there", || of(&seen())["state"] == "ok");
    assert_eq!(of(&seen())["pool"], "solo");
    celery(lab, "call src.tasks.celery_app.long_task --args '[20]' --queue slow");
    eventually("its task keeps it busy", || of(&seen())["state"] == "busy");
    let busy = on(fleet, "h1", &["celery", "workers"], 0);
    assert_eq!(busy["status"], "warning", "{busy}");
    eventually("the task has ended", || of(&seen())["state"] == "ok");
    lab.exec("h1", &["systemctl", "stop", "solo"]);
    let again = || fleet.ctl(&["celery", "workers", "--on", "h1"]).code == 0;
    eventually("the other one is well", again);
}

/// What tasks are called with may be anybody's secret.
fn arguments_are_shown_nowhere(fleet: &Fleet, lab: &Lab) {
    celery(
        lab,
        "call src.tasks.celery_app.short_task --args '[\"hidden-1\", \"x\"]' --countdown 20",
    );
    // As a number, so that the task can run with it.
    celery(lab, "call src.tasks.celery_app.long_task --kwargs '{\"seconds\": 12.734519}'");
    eventually("Celery itself shows both", || {
        inspect(lab, "active").to_string().contains("12.734519")
            && inspect(lab, "scheduled").to_string().contains("hidden-1")
    });
    let mut told = String::new();
    for verb in ["active", "scheduled", "stats", "queues", "workers"] {
        for form in ["json", "wide"] {
            let said = fleet.ctl(&["celery", verb, "--on", "h1", "-o", form]).exits(0);
            told += &format!("{said:?}\n");
        }
    }
    assert!(told.contains("long_task") && told.contains("short_task"), "{told}");
    told += &fleet.ctl(&["audit", "list", "--limit", "1000", "-o", "json"]).exits(0).out;
    told += &lab.exec("h1", &["journalctl", "--unit", "hostler-agent", "--output", "cat"]);
    assert!(!told.contains("12.734519") && !told.contains("hidden-1"), "{told}");
    eventually("the task has ended", || {
        on(fleet, "h1", &["celery", "active"], 0)["data"]["tasks"] == Value::Array(vec![])
    });
}

fn active(fleet: &Fleet, lab: &Lab) {
    enqueue(lab, "long_task?seconds=8");
    eventually("the task runs", || {
        let seen = on(fleet, "h1", &["celery", "active"], 0);
        let tasks = seen["data"]["tasks"].as_array().expect("tasks").clone();
        tasks
            .iter()
            .any(|t| t["name"] == "src.tasks.celery_app.long_task" && t["queue"] == "celery")
    });
    let theirs = inspect(lab, "active");
    let ours = on(fleet, "h1", &["celery", "active"], 0);
    assert_eq!(theirs["celery@h1"][0]["id"], ours["data"]["tasks"][0]["id"]);
    eventually("the task has ended", || {
        on(fleet, "h1", &["celery", "active"], 0)["data"]["tasks"] == Value::Array(vec![])
    });
    arguments_are_shown_nowhere(fleet, lab);
}

fn scheduled(fleet: &Fleet, lab: &Lab) {
    enqueue(lab, "short_task?countdown=5");
    eventually("the task waits for its time", || {
        let seen = on(fleet, "h1", &["celery", "scheduled"], 0);
        let tasks = seen["data"]["tasks"].as_array().expect("tasks").clone();
        tasks.iter().any(|t| t["state"] == "scheduled" && t["eta"] != "")
    });
}

fn stats(fleet: &Fleet, lab: &Lab) {
    let ours = on(fleet, "h1", &["celery", "stats"], 0);
    let worker = &ours["data"]["workers"][0];
    let theirs = inspect(lab, "stats");
    assert_eq!(worker["pid"], theirs["celery@h1"]["pid"], "{ours}");
    assert_eq!(worker["concurrency"], 2);
    assert!(worker["tasks"].as_array().is_some_and(|t| !t.is_empty()));
}

fn queues(fleet: &Fleet, lab: &Lab) {
    lab.exec("h1", &["systemctl", "stop", "omnidoc-celery"]);
    for _ in 0..3 {
        enqueue(lab, "short_task");
    }
    let seen = on(fleet, "h1", &["celery", "queues", "--warning", "3"], 0);
    assert_eq!(seen["status"], "warning", "{seen}");
    let queue = &seen["data"]["queues"][0];
    let length: u64 = cli(lab, &["llen", "celery"]).trim().parse().expect("a number");
    assert_eq!((&queue["name"], &queue["waiting"]), (&"celery".into(), &length.into()));
    assert!(length >= 3 && queue["next"].as_str().is_some_and(|t| t.starts_with("src.tasks.")));
    // Celery sends no time: what the agent sees itself tells.
    assert!(queue["oldest_s"].is_null(), "{queue}");
    eventually("the next one waits", || {
        let seen = fleet.ctl(&["celery", "queues", "--on", "h1", "-o", "json"]).json();
        let waited = &seen[0]["data"]["queues"][0]["waited_at_least_s"];
        waited.as_f64().is_some_and(|s| s > 2.0)
    });
    lab.exec("h1", &["systemctl", "start", "omnidoc-celery"]);
    eventually("the queue is empty", || {
        on(fleet, "h1", &["celery", "queues"], 0)["data"]["queues"][0]["waiting"] == 0
    });
}
