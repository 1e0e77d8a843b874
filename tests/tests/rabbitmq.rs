//! Celery over RabbitMQ, asked by Celery's own tool. `tests/run` brings both;
//! HOSTLER_TEST_RABBITMQ and HOSTLER_TEST_CELERY name them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, eventually},
    servers::{RabbitMq, named, unprivileged},
};
use rustix::process::Signal;
use serde_json::Value;

const APP: &str = r#"
import os, time
from celery import Celery

if os.getuid() == 0:
    raise SystemExit("imported as root")
print("a line of the application's own")
app = Celery("shop", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True

@app.task
def slow(seconds, secret):
    time.sleep(seconds)
"#;

fn asked(fleet: &Fleet, args: &[&str], code: i32) -> Value {
    let args = [args, &["--on", "web-1", "-o", "json"]].concat();
    fleet.ctl(&args).exits(code).json()[0].clone()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}"))
}

fn send(directory: &Path, broker: &str, script: &str) {
    let python = Path::new(&named("HOSTLER_TEST_CELERY")).with_file_name("python");
    let (mut python, _) = unprivileged(&python.display().to_string());
    let script = format!("import shop_app; {script}");
    let python = python.args(["-c", &script]).current_dir(directory).env("BROKER", broker);
    let said = python.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn workers_over_rabbitmq_are_seen_by_celerys_own_tool() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("readable");
    let rabbit = RabbitMq::start(&at.join("rabbitmq"));
    let broker = format!("amqp://guest:guest@127.0.0.1:{}//", rabbit.port);
    fs::write(at.join("shop_app.py"), APP).expect("written");
    fs::write(at.join("env"), format!("# of the application\nBROKER='{broker}'\n"))
        .expect("written");
    let tool = named("HOSTLER_TEST_CELERY");
    let (mut worker, user) = unprivileged(&tool);
    let entry = |name: &str, user: &str, app: &str| {
        let at = at.display();
        format!(
            "[[celery]]\nname = \"{name}\"\ncommand = \"{tool}\"\napp = \"{app}\"\ndirectory = \"{at}\"\n\
             environment_file = \"{at}/env\"\nuser = \"{user}\"\n[check.\"celery:{name}\"]\noff = true\n"
        )
    };
    let mut fleet = Fleet::new(Place::Loopback, "");
    let stack = entry("shop", &user, "shop_app") + &entry("none", &user, "no_such_app");
    fs::write(fleet.path("stack.toml"), stack).expect("written");
    fleet.join("web-1", &[], &format!("stack = \"{}\"", fleet.path("stack.toml").display()));
    let quick = ["--timeout-ms", "600"];
    let ask = |verb: &str, code: i32| {
        asked(&fleet, &[&["celery", verb, "shop"], &quick[..]].concat(), code)
    };

    let none = ask("workers", 1);
    assert!(text(&none, "summary").contains("no worker of celery \"shop\" answered"), "{none}");
    assert!(text(&none["findings"][0], "why").contains("cannot be told apart"), "{none}");
    assert_eq!(ask("active", 3)["status"], "unknown");

    worker.args(["-A", "shop_app", "worker", "-c", "1", "-n", "w1@%h", "-P", "threads"]);
    worker.current_dir(at).env("BROKER", &broker).env("PYTHONDONTWRITEBYTECODE", "1");
    let worker = Process::start(&mut worker, &at.join("worker.log"));
    eventually("the worker answers", || {
        let said =
            fleet.ctl(&["celery", "workers", "shop", "--on", "web-1", "--timeout-ms", "600"]);
        said.code == 0
    });
    let well = ask("workers", 0);
    let seen = &well["data"]["workers"][0];
    assert_eq!((text(seen, "state"), &seen["queues"][0]), ("ok", &"celery".into()), "{well}");
    assert!(text(seen, "name").starts_with("w1@"));

    send(at, &broker, "shop_app.slow.delay(30, secret='hidden-value')");
    send(at, &broker, "shop_app.slow.apply_async((1,), {'secret': 'hidden-value'}, countdown=90)");
    let active = ask("active", 0);
    assert_eq!(active["data"]["tasks"][0]["name"], "shop_app.slow", "{active}");
    assert!(active["data"]["tasks"][0]["running_s"].as_f64().is_some_and(|s| s < 20.0), "{active}");
    let scheduled = ask("scheduled", 0);
    assert!(!text(&scheduled["data"]["tasks"][0], "eta").is_empty(), "{scheduled}");
    let stats = ask("stats", 0);
    assert_eq!(stats["data"]["workers"][0]["tasks"][0]["name"], "shop_app.slow", "{stats}");
    let queues = asked(&fleet, &["celery", "queues", "shop"], 3);
    assert_eq!(queues["status"], "unknown");
    assert!(text(&queues, "summary").contains("take tasks from celery"), "{queues}");
    // The arguments of tasks, which the tool is sent, go no further.
    let log = fs::read_to_string(fleet.path("web-1.log")).expect("the agent's log");
    for said in [active.to_string(), scheduled.to_string(), stats.to_string(), log] {
        assert!(!said.contains("hidden-value") && !said.contains("guest:guest"), "{said}");
    }

    let missing = asked(&fleet, &["celery", "stats", "none"], 3);
    assert!(text(&missing, "summary").contains("no_such_app"), "{missing}");
    let asked = text(&missing["evidence"][0], "what");
    assert!(asked.ends_with("celery -A no_such_app inspect --json stats"), "{missing}");

    // Its process shows what the tool cannot.
    worker.signal(Signal::STOP);
    let hung = ask("workers", 1);
    assert_eq!(hung["data"]["workers"][0]["state"], "hung", "{hung}");
    assert!(text(&hung, "summary").contains("is stopped"), "{hung}");
    drop(worker);

    rabbit.kill();
    let dead = ask("workers", 3);
    assert!(text(&dead, "summary").contains("broker does not answer"), "{dead}");
    assert!(!dead.to_string().contains("guest:guest"), "{dead}");
}
