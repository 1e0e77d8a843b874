//! Redis and Valkey servers of several versions, with TLS, with users of few rights, with replicas.
//! `tests/run` brings the programs; HOSTLER_TEST_REDIS names them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually},
    servers::{Redis, certificates, free_port},
};
use rustix::process::Signal;
use serde_json::Value;

/// The ACL of the agent as it is documented, so that what is documented suffices.
fn documented_acl(password: &str) -> Vec<String> {
    let text = include_str!("../../docs/checks.md");
    let line = text.split("    ACL SETUSER").nth(1).expect("an ACL");
    let line = line.split("\n\n").next().expect("its end").replace('\\', " ");
    let words = line.split_whitespace().map(|w| w.replace("PASSWORD", password));
    ["acl".to_owned(), "setuser".to_owned()].into_iter().chain(words).collect()
}

/// A fleet whose one agent has this stack file.
fn fleet(stack: &dyn Fn(&Fleet) -> String) -> Fleet {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = fleet.path("stack.toml");
    fs::write(&file, stack(&fleet)).expect("written");
    fs::write(fleet.path("password"), "secret-1\n").expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    fleet
}

fn asked(fleet: &Fleet, args: &[&str], code: i32) -> Value {
    let args = [args, &["--on", "db-1", "-o", "json"]].concat();
    fleet.ctl(&args).exits(code).json()[0].clone()
}

fn server(name: &str, port: u16, more: &str) -> String {
    format!("[[redis]]\nname = \"{name}\"\nurl = \"redis://127.0.0.1:{port}/0\"\n{more}\n")
}

fn redis() -> PathBuf {
    let programs = Redis::programs();
    programs.into_iter().find(|(kind, _)| kind == "redis").expect("a Redis").1
}

fn has_finding(answer: &Value, subject: &str, status: &str) -> bool {
    let findings = answer["findings"].as_array().expect("findings");
    findings.iter().any(|f| f["subject"] == subject && f["status"] == status)
}

#[test]
fn every_operation_works_on_every_server_for_the_user_that_is_documented() {
    let directory = tempfile::tempdir().expect("a directory");
    let programs = Redis::programs();
    assert!(programs.iter().any(|(kind, _)| kind == "valkey"), "{programs:?}");
    let servers: Vec<(String, Redis)> = programs
        .iter()
        .enumerate()
        .map(|(n, (kind, program))| {
            let server = Redis::start(program, &directory.path().join(n.to_string()), &[]);
            (kind.clone(), server)
        })
        .collect();
    let fleet = fleet(&|fleet| {
        let user = format!(
            "username = \"hostler\"\npassword_file = \"{}\"",
            fleet.path("password").display()
        );
        let entries = servers.iter().enumerate();
        entries.map(|(n, (_, s))| server(&format!("s{n}"), s.port, &user)).collect()
    });
    for (n, (kind, server)) in servers.iter().enumerate() {
        let name = format!("s{n}");
        let denied = asked(&fleet, &["redis", "status", &name], 1);
        assert!(denied["summary"].as_str().expect("text").contains("does not let the agent in"));
        assert!(denied["data"].is_null(), "nothing was measured: {denied}");
        let acl = documented_acl("secret-1");
        let words: Vec<&str> = acl.iter().map(String::as_str).collect();
        assert_eq!(server.cli(&words).trim(), "OK", "{kind}");
        server.cli(&["set", "cache:1", &"x".repeat(5000)]);
        let seen = asked(&fleet, &["redis", "status", &name], 0);
        assert_eq!(
            (&seen["status"], &seen["data"]["flavour"]),
            (&"ok".into(), &kind.as_str().into())
        );
        let info = server.cli(&["info", "server"]);
        let field = format!("{kind}_version:");
        let version = info.lines().find_map(|l| l.strip_prefix(field.as_str())).expect("a version");
        assert_eq!(seen["data"]["version"], version.trim(), "{seen}");
        let data = &seen["data"];
        assert!(data["fragmentation_percent"].as_f64().is_some_and(|p| p > 1.0), "{seen}");
        assert_eq!((&data["snapshot_status"], &data["append_status"]), (&"ok".into(), &"".into()));
        let sent = seen["evidence"][0]["what"].as_str().expect("text");
        assert!(sent.contains(": PING; INFO everything; EXISTS _kombu"), "{sent}");
        assert!(sent.contains("CONFIG GET save;") && !sent.contains("CLUSTER"), "{sent}");
        assert_eq!(seen["data"]["keys"], 1);
        let keys = asked(&fleet, &["redis", "big-keys", &name], 0);
        assert_eq!(
            (&keys["status"], &keys["data"]["keys"][0]["key"]),
            (&"ok".into(), &"cache:1".into())
        );
        assert_eq!(
            (&keys["data"]["looked_at"], &keys["data"]["hidden"]),
            (&name.as_str().into(), &0.into())
        );
        server.cli(&["config", "set", "slowlog-log-slower-than", "0"]);
        server.cli(&["get", "cache:1"]);
        server.cli(&["echo", "secret-1"]);
        server.cli(&["eval", "return 'secret-1'", "0"]);
        let slow = asked(&fleet, &["redis", "slow-log", &name], 0);
        assert_eq!(slow["status"], "ok");
        let commands = slow["data"]["commands"].as_array().expect("commands");
        for shown in ["GET cache:1", "ECHO", "EVAL"] {
            assert!(commands.iter().any(|c| c["command"] == shown), "{shown}: {slow}");
        }
        assert!(!slow.to_string().contains("secret-1"), "{slow}");
        let config = asked(&fleet, &["redis", "config", "maxmemory-policy", "--server", &name], 0);
        assert_eq!(config["data"]["settings"][0]["value"], "noeviction");
        secrets_of(server, &fleet, &name);
        let monitor = asked(&fleet, &["redis", "monitor", &name, "--time", "1s"], 0);
        assert_eq!(monitor["status"], "ok", "{monitor}");
    }
    let audit = serde_json::to_string(&fleet.audit()).expect("json");
    assert!(audit.contains("redis.config"), "{audit}");
    for told in [fleet.agent("db-1").log(), fleet.controller().log(), audit] {
        assert!(!told.contains("secret-1"), "{told}");
    }
}

/// Passwords of its own that the configuration of a server holds, under whatever name.
fn secrets_of(server: &Redis, fleet: &Fleet, name: &str) {
    assert_eq!(server.cli(&["config", "set", "masterauth", "secret-1"]).trim(), "OK");
    let told = server.cli(&["config", "get", "*auth"]);
    let told: Vec<&str> = told.lines().step_by(2).collect();
    let seen = asked(fleet, &["redis", "config", "*auth", "--server", name], 0);
    let settings = seen["data"]["settings"].as_array().expect("settings");
    assert_eq!(settings.len(), told.len(), "{seen}");
    assert!(settings.iter().all(|s| s["value"] == "***"), "{seen}");
    for setting in told {
        let seen = asked(fleet, &["redis", "config", setting, "--server", name], 0);
        assert_eq!(seen["summary"], format!("{setting} is ***"), "{seen}");
    }
    server.cli(&["config", "set", "masterauth", ""]);
}

#[test]
fn who_refuses_writes_is_critical_and_a_cache_that_evicts_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let programs = Redis::programs();
    let servers: Vec<(Redis, Redis)> = programs
        .iter()
        .enumerate()
        .map(|(n, (_, program))| {
            let at = |kind: &str| directory.path().join(format!("{kind}{n}"));
            let cluster = Redis::start(program, &at("cluster"), &["--cluster-enabled", "yes"]);
            (Redis::start(program, &at("own"), &[]), cluster)
        })
        .collect();
    let fleet = fleet(&|_| {
        let entries = servers.iter().enumerate();
        let both = |(n, (own, cluster)): (usize, &(Redis, Redis))| {
            server(&format!("own{n}"), own.port, "")
                + &server(&format!("cluster{n}"), cluster.port, "")
        };
        entries.map(both).collect()
    });
    for (n, (own, cluster)) in servers.iter().enumerate() {
        // It answers pings, and has no slot.
        assert!(cluster.cli(&["set", "a", "1"]).starts_with("CLUSTERDOWN"));
        let down = asked(&fleet, &["redis", "status", &format!("cluster{n}")], 1);
        assert!(has_finding(&down, "cluster", "critical"), "{down}");
        cluster.cli(&["cluster", "addslotsrange", "0", "16383"]);
        let name = format!("cluster{n}");
        eventually("the cluster serves", || {
            fleet.ctl(&["redis", "status", &name, "--on", "db-1"]).code == 0
        });

        let name = format!("own{n}");
        own.cli(&["config", "set", "min-replicas-to-write", "1"]);
        assert!(own.cli(&["set", "a", "1"]).starts_with("NOREPLICAS"));
        let short = asked(&fleet, &["redis", "status", &name], 1);
        assert!(has_finding(&short, "replicas", "critical"), "{short}");
        own.cli(&["config", "set", "min-replicas-to-write", "0"]);

        own.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]);
        own.cli(&["config", "set", "maxmemory", "3mb"]);
        let fill = "for i=1,9000 do redis.call('set', 'cache:'..i, string.rep('x', 1000)) end";
        own.cli(&["eval", fill, "0"]);
        let evicts = asked(&fleet, &["redis", "status", &name], 0);
        assert_eq!(evicts["status"], "ok", "{evicts}");
        assert!(evicts["data"]["evicted_keys"].as_u64().is_some_and(|n| n > 0), "{evicts}");
        own.cli(&["config", "set", "maxmemory-policy", "noeviction"]);
        let full = asked(&fleet, &["redis", "status", &name], 1);
        assert!(has_finding(&full, "memory", "critical"), "{full}");
    }
}

#[test]
fn keys_are_looked_at_no_faster_than_is_allowed() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), directory.path(), &[]);
    own.cli(&["eval", "for i=1,3000 do redis.call('set', 'session:'..i, 'x') end", "0"]);
    let fleet = fleet(&|_| server("main", own.port, ""));
    let began = std::time::Instant::now();
    let seen = asked(&fleet, &["redis", "big-keys", "main", "--rate", "1000"], 0);
    let took = began.elapsed();
    assert_eq!(seen["data"]["scanned"], 3000, "{seen}");
    assert!(took >= std::time::Duration::from_secs(2), "{took:?}");
}

/// A Celery application over this server, without its checks.
fn celery(more: &str) -> String {
    format!(
        "[[celery]]\nname = \"app\"\nbroker = \"main\"\n{more}\n[check.\"celery:app\"]\noff = true\n\
         [check.\"celery-queues:app\"]\noff = true\n"
    )
}

#[test]
fn a_celery_probe_that_ends_in_the_middle_leaves_nothing_at_the_broker() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), directory.path(), &[]);
    // A worker that is subscribed, and says nothing.
    let port = own.port.to_string();
    let mut silent = command("/usr/bin/redis-cli");
    silent.args(["-p", &port, "subscribe", "/0.celery.pidbox"]);
    let _silent = Process::start(&mut silent, &directory.path().join("silent.log"));
    eventually("somebody is subscribed", || own.cli(&["pubsub", "channels"]).contains("pidbox"));
    let mut fleet = fleet(&|_| server("main", own.port, "") + &celery(""));
    let bindings = || own.cli(&["smembers", "_kombu.binding.reply.celery.pidbox"]);
    let args = ["celery", "workers", "app", "--timeout-ms", "10000", "--on", "db-1"];

    let mut asking = fleet.ctl_begins(&args, "interrupted");
    eventually("it asks", || !bindings().trim().is_empty());
    asking.signal(Signal::INT);
    asking.ended();
    eventually("its binding is gone", || bindings().trim().is_empty());

    let late = fleet.ctl(&[&args[..], &["--timeout", "1s"]].concat());
    assert!(late.code != 0 && late.code != 1, "it was not measured: {late:?}");
    eventually("its binding is gone", || bindings().trim().is_empty());

    let _asking = fleet.ctl_begins(&args, "stopped");
    eventually("it asks", || !bindings().trim().is_empty());
    fleet.take_agent("db-1").stop();
    eventually("its binding is gone", || bindings().trim().is_empty());
    assert_eq!(own.cli(&["keys", "*reply.celery.pidbox"]).trim(), "", "nor a list of answers");
}

#[test]
fn a_server_that_has_no_room_is_told_from_one_that_asks_for_another_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = |name: &str| Redis::start(&redis(), &directory.path().join(name), &[]);
    let (open, locked) = (start("open"), start("locked"));
    locked.cli(&["config", "set", "requirepass", "secret-1"]);
    let fleet = fleet(&|fleet| {
        let password = format!("password_file = \"{}\"", fleet.path("password").display());
        let wrong = format!("password_file = \"{}\"", fleet.path("stack.toml").display());
        server("main", locked.port, "")
            + &server("open", open.port, "")
            + &server("locked", locked.port, &password)
            + &server("wrong", locked.port, &wrong)
            + &celery("")
    });
    let said = |args: &[&str], code| {
        asked(&fleet, args, code)["summary"].as_str().expect("a summary").to_owned()
    };
    asked(&fleet, &["redis", "status", "locked"], 0);
    let wrong = said(&["redis", "status", "wrong"], 1);
    assert!(wrong.contains("does not let the agent in: "), "{wrong}");
    // What it asks the broker first goes in one piece.
    let workers = said(&["celery", "workers", "app"], 3);
    let denied = "does not let the agent in: NOAUTH Authentication required.";
    assert!(workers.contains(denied), "{workers}");

    locked.cli(&["-a", "secret-1", "--no-auth-warning", "config", "set", "maxclients", "1"]);
    open.cli(&["config", "set", "maxclients", "1"]);
    let held = [&open, &locked].map(|server| {
        let mut held = None;
        eventually("the one place is taken", || {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
            let mut answer = [0; 64];
            stream.write_all(b"PING\r\n").expect("asked");
            let taken = stream.read(&mut answer).is_ok_and(|n| {
                let answer = String::from_utf8_lossy(&answer[..n]);
                !answer.contains("max number of clients") && n > 0
            });
            held = taken.then_some(stream);
            taken
        });
        held
    });
    for name in ["open", "locked"] {
        let full = said(&["redis", "status", name], 1);
        let no_room = "has no free connection: ERR max number of clients reached";
        assert_eq!(full, format!("redis \"{name}\" {no_room}"));
    }
    drop(held);
}

#[test]
fn a_large_message_in_a_queue_is_counted_and_never_fetched() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), directory.path(), &[]);
    let acl = documented_acl("secret-1");
    let words: Vec<&str> = acl.iter().map(String::as_str).collect();
    assert_eq!(own.cli(&words).trim(), "OK");
    let fleet = fleet(&|fleet| {
        let file = fleet.path("password").display().to_string();
        let user = format!("username = \"hostler\"\npassword_file = \"{file}\"");
        server("main", own.port, &user) + &celery("")
    });
    let queue = |fetches: bool| {
        let seen = asked(&fleet, &["celery", "queues", "app"], 0);
        // What is told as evidence was sent, and nothing else.
        let sent = seen["evidence"][0]["what"].as_str().expect("text");
        assert!(sent.contains("PUBLISH /0.celery.pidbox active_queues"), "{sent}");
        assert_eq!(sent.contains("LINDEX celery -1"), fetches, "{sent}");
        seen["data"]["queues"][0].clone()
    };
    let message = r#"{"headers": {"task": "shop.mail"}, "body": ""}"#;
    own.cli(&["lpush", "celery", message]);
    let small = queue(true);
    assert_eq!((&small["next"], &small["waiting"]), (&"shop.mail".into(), &1.into()), "{small}");
    let fetched = || own.cli(&["info", "commandstats"]).matches("cmdstat_lindex").count();
    assert_eq!(fetched(), 1);
    own.cli(&["config", "resetstat"]);
    // Behind all others, where a sample would not meet it.
    let large = "redis.call('rpush', 'celery', string.rep('x', 33554432)) \
                 for i=1,50 do redis.call('lpush', 'celery', 'x') end";
    own.cli(&["eval", large, "0"]);
    let large = queue(false);
    assert_eq!((&large["next"], &large["waiting"]), (&"".into(), &52.into()), "{large}");
    assert_eq!(fetched(), 0, "it was not even asked for");
}

#[test]
fn what_a_user_of_few_rights_may_not_see_is_unknown_and_the_rest_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Redis::start(&redis(), directory.path(), &[]);
    for (user, rights) in [
        ("pings", "+ping"),
        ("half", "+ping +info +exists +slowlog|get +slowlog|len ~*"),
        ("selects", "+ping +select +info"),
        ("scans", "+dbsize +scan +type +memory|usage +info ~cache:*"),
    ] {
        let words: Vec<&str> = rights.split(' ').collect();
        let acl = [&["acl", "setuser", user, "on", ">secret-1"], &words[..]].concat();
        assert_eq!(own.cli(&acl).trim(), "OK");
    }
    own.cli(&["set", "cache:1", "x"]);
    own.cli(&["set", "session:1", "x"]);
    let fleet = fleet(&|fleet| {
        let file = fleet.path("password").display().to_string();
        let user = |user: &str| format!("username = \"{user}\"\npassword_file = \"{file}\"");
        let entries = ["pings", "half", "scans"].map(|name| server(name, own.port, &user(name)));
        let other = |name: &str, user_name: &str, db: &str| {
            server(name, own.port, &user(user_name)).replace("/0\"", db)
        };
        entries.concat()
            + &server("gone", free_port(), "")
            + &other("unselected", "half", "/1\"")
            + &other("beyond", "selects", "/99\"")
    });
    for (name, said) in
        [("unselected", "has no permissions"), ("beyond", "DB index is out of range")]
    {
        let seen = asked(&fleet, &["redis", "status", name], 3);
        assert!(seen["summary"].as_str().expect("text").contains(said), "{seen}");
        assert!(!seen["findings"][0]["why"].as_str().expect("text").is_empty(), "{seen}");
    }
    // The server answers: that much is known.
    let pings = asked(&fleet, &["redis", "status", "pings"], 3);
    assert_eq!(pings["status"], "unknown", "{pings}");
    for command in ["INFO", "EXISTS", "CONFIG GET"] {
        assert!(has_finding(&pings, command, "unknown"), "{command}: {pings}");
    }
    assert!(pings["data"]["ping_s"].as_f64().is_some_and(|s| s > 0.0), "{pings}");
    for field in ["used_memory_bytes", "max_clients", "keys", "uptime_s", "celery_broker"] {
        assert!(pings["data"][field].is_null(), "{field} was not measured: {pings}");
    }
    let half = asked(&fleet, &["redis", "status", "half"], 3);
    let findings = half["findings"].as_array().cloned().unwrap_or_default();
    let bad = findings.iter().filter(|f| f["status"] != "ok").count();
    assert_eq!((&half["data"]["keys"], bad), (&2.into(), 1), "{half}");
    assert!(has_finding(&half, "CONFIG GET", "unknown"), "{half}");
    let slow = asked(&fleet, &["redis", "slow-log", "half"], 3);
    assert!(has_finding(&slow, "LATENCY LATEST", "unknown"), "{slow}");
    assert!(slow["summary"].as_str().expect("text").contains("does not allow LATENCY"), "{slow}");
    let keys = asked(&fleet, &["redis", "big-keys", "scans"], 3);
    assert_eq!((&keys["data"]["scanned"], &keys["data"]["hidden"]), (&1.into(), &1.into()));
    assert!(keys["findings"][0]["summary"].as_str().expect("text").contains("1 of 2 keys"));
    // Where there is nothing but what is forbidden, that is all that is said.
    let alone: [&[&str]; 3] = [
        &["monitor", "half", "--time", "1s"],
        &["config", "maxmemory", "--server", "half"],
        &["big-keys", "pings"],
    ];
    for words in alone {
        let seen = asked(&fleet, &[&["redis"], words].concat(), 3);
        assert_eq!((&seen["status"], &seen["data"]), (&"unknown".into(), &Value::Null), "{seen}");
        assert!(seen["findings"][0]["why"].as_str().expect("text").contains("ACL"), "{seen}");
        assert!(seen["summary"].as_str().expect("text").contains("NOPERM"), "{seen}");
    }
    let away: [&[&str]; 5] = [
        &["status", "gone"],
        &["monitor", "gone", "--time", "1s"],
        &["config", "maxmemory", "--server", "gone"],
        &["big-keys", "gone"],
        &["slow-log", "gone"],
    ];
    for words in away {
        let seen = asked(&fleet, &[&["redis"], words].concat(), 1);
        assert_eq!((&seen["status"], &seen["data"]), (&"critical".into(), &Value::Null), "{seen}");
        assert!(has_finding(&seen, "gone", "critical"), "{seen}");
        assert!(
            seen["evidence"][0]["what"].as_str().expect("text").contains("127.0.0.1"),
            "{seen}"
        );
    }
}

#[test]
fn a_server_with_tls_is_trusted_by_its_authority_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path());
    fs::create_dir(directory.path().join("other")).expect("a directory");
    certificates(&directory.path().join("other"));
    let port = free_port();
    let tls = ["--tls-cert-file", "own.pem", "--tls-key-file", "own.key", "--tls-ca-cert-file"];
    let tls = [&tls[..], &["ca.pem", "--tls-auth-clients", "no", "--tls-port"]].concat();
    let asking: Vec<&str> =
        tls.iter().map(|word| if *word == "no" { "yes" } else { *word }).collect();
    let asking_port = free_port().to_string();
    let asking = Redis::start(&redis(), directory.path(), &[&asking[..], &[&asking_port]].concat());
    asking.cli(&["acl", "setuser", "hostler", "on", ">secret-1", "~*", "+@all"]);
    let tls_port = port.to_string();
    let own = Redis::start(&redis(), directory.path(), &[&tls[..], &[&tls_port]].concat());
    own.cli(&["acl", "setuser", "hostler", "on", ">secret-1", "~*", "+@all"]);
    let fleet = fleet(&|fleet| {
        let entry = |name: &str, host: &str, ca: &str| {
            let ca = directory.path().join(ca).display().to_string();
            let password = fleet.path("password").display().to_string();
            format!(
                "[[redis]]\nname = \"{name}\"\nurl = \"rediss://{host}:{port}/0\"\nca_file = \"{ca}\"\n\
                 username = \"hostler\"\npassword_file = \"{password}\"\n"
            )
        };
        let system = entry("system", "127.0.0.1", "ca.pem").replace("ca_file", "# ca_file");
        let others =
            entry("other", "127.0.0.1", "other/ca.pem") + &entry("none", "127.0.0.1", "none.pem");
        let stranger =
            entry("stranger", "127.0.0.1", "ca.pem").replace(&port.to_string(), &asking_port);
        let own = |file: &str| directory.path().join(file).display().to_string();
        let (certificate, key) = (own("own.pem"), own("own.key"));
        let known = stranger.replace("stranger", "known")
            + &format!("cert_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
        entry("main", "127.0.0.1", "ca.pem")
            + &stranger
            + &known
            + &entry("name", "localhost", "ca.pem")
            + &others
            + &system
            + &server("plain", port, "")
    });
    for name in ["main", "known"] {
        assert_eq!(asked(&fleet, &["redis", "status", name], 0)["status"], "ok");
    }
    asked(&fleet, &["redis", "monitor", "main", "--time", "1s"], 0);
    for (name, code, words) in [
        ("other", 1, "is not trusted: invalid peer certificate"),
        ("name", 1, "is not trusted: invalid peer certificate"),
        ("system", 1, "is not trusted: invalid peer certificate"),
        ("none", 3, "none.pem"),
        ("stranger", 3, "it asks its clients for a certificate"),
        ("plain", 1, "takes connections and ends them"),
    ] {
        let refused = asked(&fleet, &["redis", "status", name], code);
        let summary = refused["summary"].as_str().expect("text");
        assert!(summary.contains(words), "{name}: {refused}");
        assert!(!refused.to_string().contains("secret-1"));
        // Whoever checks certificates refuses it, or the stack file is wrong: that is said of both.
        let why = refused["findings"][0]["why"].as_str().expect("text");
        let advice = match name {
            "plain" => "rediss://",
            "none" | "stranger" => "[[redis]] in the stack file",
            _ => "ca_file",
        };
        assert!(why.contains(advice), "{name}: {refused}");
    }
}

#[test]
fn a_replica_is_watched_and_takes_the_reading_of_every_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = redis();
    let main = Redis::start(&program, &directory.path().join("main"), &[]);
    let of = ["--replicaof", &format!("127.0.0.1 {}", main.port)].map(ToOwned::to_owned);
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    let standby = Redis::start(&program, &directory.path().join("standby"), &of);
    let fleet = fleet(&|_| {
        server("main", main.port, "replica = \"standby\"")
            + &server("standby", standby.port, "")
            + &server("plain", main.port, "")
    });
    main.cli(&["set", "cache:1", "x"]);
    eventually("the replica follows", || standby.cli(&["dbsize"]).trim() == "1");

    let status = asked(&fleet, &["redis", "status", "standby"], 0);
    let master = &status["data"]["replication"][0];
    assert_eq!((&master["role"], &master["state"]), (&"master".into(), &"up".into()), "{status}");
    assert_eq!(master["peer"], format!("127.0.0.1:{}", main.port));
    eventually("the primary knows that it does", || {
        let status = asked(&fleet, &["redis", "status", "main"], 0);
        status["data"]["replication"][0]["state"] == "up"
    });
    let status = asked(&fleet, &["redis", "status", "main"], 0);
    assert!(status["data"]["replication"][0]["behind_bytes"].is_u64(), "{status}");

    let keys = asked(&fleet, &["redis", "big-keys", "main"], 0);
    assert_eq!((&keys["status"], &keys["data"]["looked_at"]), (&"ok".into(), &"standby".into()));
    assert!(!main.cli(&["info", "commandstats"]).contains("cmdstat_scan"), "not on the primary");
    assert!(standby.cli(&["info", "commandstats"]).contains("cmdstat_scan"));
    // That there is one is told where the stack file does not name it.
    let keys = asked(&fleet, &["redis", "big-keys", "plain"], 0);
    assert_eq!(keys["data"]["looked_at"], "plain");
    assert!(keys["findings"][0]["summary"].as_str().expect("text").contains("has a replica"));

    standby.process.signal(Signal::STOP);
    eventually("the primary misses the replica", || {
        let status = fleet.ctl(&["redis", "status", "main", "--lag-warning", "2s", "--on", "db-1"]);
        status.out.contains("has not heard from its replica")
    });
    standby.process.signal(Signal::CONT);
    eventually("it is back", || {
        let status = fleet.ctl(&["redis", "status", "main", "--lag-warning", "2s", "--on", "db-1"]);
        !status.out.contains("has not heard")
    });
    main.process.signal(Signal::STOP);
    eventually("the replica misses the primary", || {
        let status =
            fleet.ctl(&["redis", "status", "standby", "--lag-warning", "2s", "--on", "db-1"]);
        status.out.contains("has not heard from its master")
    });
    main.process.signal(Signal::CONT);
    drop(main);
    eventually("the replica has lost its master", || {
        let status = fleet.ctl(&["redis", "status", "standby", "--on", "db-1", "-o", "json"]);
        status.code == 1 && status.json()[0]["summary"].to_string().contains("has lost its master")
    });
    let alone = Redis::start(&program, &directory.path().join("alone"), &[]);
    drop(standby);
    // A replica that is away is told, and the reading goes on where it can.
    fs::write(
        fleet.path("stack.toml"),
        server("main", alone.port, "replica = \"standby\"") + &server("standby", free_port(), ""),
    )
    .expect("written");
    let mut fleet = fleet;
    fleet.take_agent("db-1").stop();
    fleet.start_agent("db-1");
    fleet.wait_for("db-1", "up");
    let keys = asked(&fleet, &["redis", "big-keys", "main"], 0);
    assert_eq!((&keys["status"], &keys["data"]["looked_at"]), (&"warning".into(), &"main".into()));
    assert!(
        keys["findings"][0]["why"].as_str().expect("text").contains("does not answer"),
        "{keys}"
    );
}
