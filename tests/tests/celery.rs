//! What waits in the queues of Celery on a real Redis, without a worker that takes it. Messages are sent in
//! the form of kombu; those of Celery itself come on booted hosts.

use std::fs;

use hostler_tests::{
    fleet::{Fleet, Place},
    process::eventually,
    servers::Redis,
};
use serde_json::{Value, json};

/// Puts a message into a queue, as kombu does: from the left.
fn send(redis: &Redis, list: &str, task: &str, tag: &str) {
    let message = json!({
        "body": "W10=", "content-type": "application/json", "content-encoding": "utf-8",
        "headers": { "task": task, "id": "the-same-task" },
        "properties": { "delivery_tag": tag, "body_encoding": "base64" },
    });
    let length = redis.cli(&["lpush", list, &message.to_string()]);
    assert!(length.trim().parse::<u64>().is_ok(), "{length}");
}

#[test]
fn how_long_the_next_message_has_waited_is_told_as_the_least_that_was_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, program) = Redis::programs().remove(0);
    let redis = Redis::start(&program, &directory.path().join("redis"), &[]);
    let mut fleet = Fleet::new(Place::Loopback, "");
    let stack = format!(
        "[[redis]]\nname = \"main\"\nurl = \"redis://127.0.0.1:{}/0\"\n\
         [[celery]]\nname = \"shop\"\nbroker = \"main\"\nqueues = [\"mail\"]\n\
         [check.\"celery:shop\"]\noff = true\n[check.\"celery-queues:shop\"]\noff = true\n",
        redis.port
    );
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    fleet.join("web-1", &[], &format!("stack = \"{}\"", file.display()));
    let mail_of = |fleet: &Fleet| -> Value {
        let said = fleet.ctl(&["celery", "queues", "shop", "--on", "web-1", "-o", "json"]).json();
        let queues = said[0]["data"]["queues"].as_array().cloned().unwrap_or_default();
        let found = queues.into_iter().find(|q| q["name"] == "mail");
        found.unwrap_or_else(|| panic!("no queue: {said}"))
    };
    let waited_of = |fleet: &Fleet| mail_of(fleet)["waited_at_least_s"].as_f64();
    let (mail, waited) = (|| mail_of(&fleet), || waited_of(&fleet));
    assert_eq!((waited(), &mail()["waiting"]), (None, &0.into()), "nothing waits");

    send(&redis, "mail", "a.first", "tag-1");
    send(&redis, "mail", "a.second", "tag-2");
    let first = mail();
    assert_eq!((&first["waiting"], &first["next"]), (&2.into(), &"a.first".into()), "{first}");
    assert!(first["oldest_s"].is_null(), "no sender told a time: {first}");
    assert_eq!(waited().map(|s| s < 20.0), Some(true));
    eventually("it waits", || waited().is_some_and(|s| s > 2.0));
    // A restart of the agent does not begin anew.
    assert_eq!(fleet.take_agent("web-1").stop(), Some(0));
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    let (mail, waited) = (|| mail_of(&fleet), || waited_of(&fleet));
    assert!(waited().is_some_and(|s| s > 2.0), "{}", mail());

    // The next one was not the next before, also where it is the same task that is tried again.
    redis.cli(&["rpop", "mail"]);
    let second = mail();
    assert_eq!((&second["next"], &second["waited_at_least_s"]), (&"a.second".into(), &0.0.into()));

    // What has less priority is taken last, and waits for what comes meanwhile.
    redis.cli(&["rpop", "mail"]);
    send(&redis, "mail\u{6}\u{16}3", "a.third", "tag-3");
    assert_eq!(mail()["next"], "a.third");
    eventually("it waits, too", || waited().is_some_and(|s| s > 1.0));
    send(&redis, "mail", "a.fourth", "tag-4");
    let both = mail();
    assert_eq!((&both["next"], &both["waiting"]), (&"a.fourth".into(), &2.into()));
    assert!(both["waited_at_least_s"].as_f64().is_some_and(|s| s > 1.0), "of both: {both}");
    redis.cli(&["del", "mail", "mail\u{6}\u{16}3"]);
    assert_eq!(waited(), None);
}
