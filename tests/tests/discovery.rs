//! What `hostler-agent discover` finds of real servers, and what it says against a stack file.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use hostler_tests::{
    process::{Process, built, command, eventually},
    servers::{Postgres, RabbitMq, Redis, named, unprivileged},
};
use rustix::process::Signal;

/// An application of Celery; its broker and where it puts results stand in its environment.
const APP: &str = r#"
import os
from celery import Celery

app = Celery(broker=os.environ["BROKER"], backend=os.environ["RESULTS"])

@app.task
def done():
    return 1
"#;

/// A program of Celery's for an application of that name, in the directory in which it is.
fn celery(at: &Path, program: &str, app: &str, broker: &str, results: &str) -> Command {
    fs::write(at.join(format!("{app}.py")), APP).expect("written");
    let program = PathBuf::from(named("HOSTLER_TEST_CELERY")).with_file_name(program);
    let (mut celery, _) = unprivileged(&program.display().to_string());
    celery.current_dir(at).env("BROKER", broker).env("RESULTS", results);
    celery.env("PYTHONDONTWRITEBYTECODE", "1");
    celery
}

#[test]
fn a_redis_that_workers_take_their_tasks_from_is_told_from_one_that_holds_their_results() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("readable");
    let (_, program) = Redis::programs().remove(0);
    let redis = Redis::start(&program, &at.join("redis"), &[]);
    let rabbit = RabbitMq::start(&at.join("rabbitmq"));
    let rabbit = format!("amqp://guest:guest@127.0.0.1:{}//", rabbit.port);
    let results = format!("redis://127.0.0.1:{}/3", redis.port);
    let config = at.join("agent.toml");
    fs::write(&config, format!("state_dir = \"{}\"\n", at.join("state").display()))
        .expect("written");
    let found = || {
        let mut agent = command(built("hostler-agent"));
        let output = agent.arg("--config").arg(&config).arg("discover").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Whether the entry of an application names this server, and says nothing beside that.
    let certain = |found: &str, app: &str| {
        ["main", &format!("127.0.0.1:{}", redis.port)].iter().any(|name| {
            found.contains(&format!("\n[[celery]]\nname = \"{app}\"\nbroker = \"{name}\"\n"))
        })
    };
    // What else runs on this machine has other names.
    let [shop, wiki] = ["shop", "wiki"].map(|app| format!("{app}{}", redis.port));
    let worker = |app: &str, broker: &str| {
        let mut worker = celery(at, "celery", app, broker, &results);
        worker.args(["-A", app, "worker", "-c", "1", "-P", "threads"]);
        Process::start(&mut worker, &at.join(format!("{app}.log")))
    };

    let _wiki = worker(&wiki, &rabbit);
    let sent = format!("import {wiki}; {wiki}.done.delay()");
    let mut send = celery(at, "python", &wiki, &rabbit, &results);
    assert!(send.args(["-c", &sent]).status().expect("python").success());
    let keys = |pattern: &str| redis.cli(&["-n", "3", "keys", pattern]);
    eventually("it is connected with the Redis of its results", || {
        keys("celery-task-meta-*").contains("celery-task-meta-")
    });
    let name = "\u{6}\u{16}\u{6}\u{16}celery@here.celery.pidbox";
    redis.cli(&["-n", "3", "sadd", "_kombu.binding.celery.pidbox", name]);
    let text = found();
    assert!(text.contains(&wiki) && !certain(&text, &wiki), "of former times: {text}");

    let mut shop_runs = worker(&shop, &results);
    eventually("the broker of the other one is certain", || certain(&found(), &shop));
    let text = found();
    assert!(!certain(&text, &wiki), "{text}");
    assert!(text.contains(&format!("url = \"{results}\"")), "{text}");
    redis.cli(&["config", "set", "requirepass", "closed"]);
    assert!(!certain(&found(), &shop), "it asks for a password");
    redis.cli(&["-a", "closed", "config", "set", "requirepass", ""]);
    assert!(certain(&found(), &shop));
    let log = shop_runs.log();
    assert!(!log.contains("hostler") && !log.contains("ERROR"), "it is not disturbed: {log}");
    shop_runs.signal(Signal::TERM);
    shop_runs.ended();
    assert!(!found().contains(&results), "nobody is subscribed there any more");
}

#[test]
fn servers_are_found_however_they_were_started_and_however_the_stack_file_names_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    // It is told of its data by a relative path.
    let postgres = Postgres::primary();
    let (_, program) = Redis::programs().remove(0);
    let redis = Redis::start(&program, &path("redis"), &["--unixsocket", "redis.sock"]);
    let (postgres, redis) = (postgres.port, redis.port);
    let (config, stack) = (path("agent.toml"), path("stack.toml"));
    let text =
        format!("state_dir = \"{}\"\nstack = \"{}\"\n", path("state").display(), stack.display());
    fs::write(&config, text).expect("written");
    let agent = |words: &[&str]| {
        let mut agent = command(built("hostler-agent"));
        let output = agent.arg("--config").arg(&config).args(words).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, found, _) = agent(&["discover"]);
    assert_eq!(code, Some(0));
    for url in [
        format!("url = \"postgres://hostler@127.0.0.1:{postgres}/postgres\""),
        format!("url = \"redis://127.0.0.1:{redis}/0\""),
    ] {
        assert!(found.contains(&url), "{url} is not in {found}");
    }

    // What else is on this machine is not this test's business.
    let lines = |stack_file: &str, about: &[&str]| {
        fs::write(&stack, stack_file).expect("written");
        let (code, said, error) = agent(&["discover", "--check"]);
        let all = said.lines().filter(|line| about.iter().any(|a| line.contains(a)));
        let all: Vec<String> = all.map(ToOwned::to_owned).collect();
        assert!(code == Some(0) || error.contains("differ in"), "{error}");
        all
    };
    let ports = [format!("port {postgres}"), format!("127.0.0.1:{redis}")];
    let about: Vec<&str> = ports.iter().map(String::as_str).collect();
    let told = lines("", &about);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("PostgreSQL") && told[1].contains("add a [[redis]] with url"));
    let named = |postgres: &str, redis: &str| {
        format!(
            "[[postgres]]\nname = \"main\"\nurl = \"{postgres}\"\n\
             [[redis]]\nname = \"main\"\nurl = \"{redis}\"\n"
        )
    };
    let about = [&about[..], &["\"main\""]].concat();
    for (first, second) in [
        (format!("postgres://u@localhost:{postgres}"), format!("redis://localhost:{redis}/1")),
        (
            format!("postgres://u@127.0.0.1/db?port={postgres}"),
            format!("redis://127.0.0.1:{redis}"),
        ),
    ] {
        assert_eq!(lines(&named(&first, &second), &about), Vec::<String>::new());
    }
    let elsewhere =
        named(&format!("postgres://u@127.9.1.1:{postgres}/db"), &format!("redis://[::1]:{redis}"));
    let elsewhere = lines(&elsewhere, &about);
    assert_eq!(elsewhere.len(), 4, "what listens at 127.0.0.1 does so there alone: {elsewhere:?}");
    assert!(
        elsewhere[0].contains("at 127.9.1.1, where nobody listens; somebody does at 127.0.0.1")
    );
    let none = lines(&named("postgres://u@127.0.0.1:1/db", "redis://127.0.0.1:2"), &about);
    assert_eq!(none.len(), 4, "{none:?}");
    assert!(none[0].contains("[[postgres]] \"main\" names port 1 of this host, where nobody"));
}
