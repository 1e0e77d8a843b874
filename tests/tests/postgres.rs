//! Every operation on PostgreSQL against every major version that it is made for. `tests/run` brings
//! the servers and starts them; HOSTLER_TEST_SERVERS names them.

use std::fs;

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{command, eventually},
    servers::{Postgres, certificates},
};
use serde_json::Value;

/// `MAJOR=PORT` of each server, with pg_stat_statements loaded.
fn servers() -> Vec<(u32, u16)> {
    let named = std::env::var("HOSTLER_TEST_SERVERS")
        .expect("HOSTLER_TEST_SERVERS names no servers; run: make test");
    let server = |pair: &str| {
        let (major, port) = pair.split_once('=').expect("MAJOR=PORT");
        (major.parse().expect("a version"), port.parse().expect("a port"))
    };
    named.split_whitespace().map(server).collect()
}

fn psql(port: u16, sql: &str) -> String {
    let url = format!("postgres://hostler@127.0.0.1:{port}/postgres");
    let output = command("/usr/bin/psql").args(["-qAt", &url, "-c", sql]).output().expect("psql");
    assert!(output.status.success(), "{port}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn every_operation_works_on_every_major_version_from_13_to_18() {
    let servers = servers();
    let majors: Vec<u32> = servers.iter().map(|(major, _)| *major).collect();
    assert_eq!(majors, [13, 14, 15, 16, 17, 18]);
    let mut fleet = Fleet::new(Place::Loopback, "");
    let stack: String = servers
        .iter()
        .map(|(major, port)| {
            format!(
                "[[postgres]]\nname = \"v{major}\"\nurl = \"postgres://probe@127.0.0.1:{port}/postgres\"\n\
                 [[postgres]]\nname = \"blind{major}\"\nurl = \"postgres://blind@127.0.0.1:{port}/postgres\"\n\
                 [[postgres]]\nname = \"barred{major}\"\nurl = \"postgres://probe@127.0.0.1:{port}/secret\"\n"
            )
        })
        .collect();
    let gone = "[[postgres]]\nname = \"gone\"\nurl = \"postgres://probe@127.0.0.1:1/postgres\"\n";
    let file = fleet.path("stack.toml");
    fs::write(&file, stack + gone).expect("written");
    for (_, port) in &servers {
        psql(*port, "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pgstattuple");
        psql(*port, "CREATE ROLE probe LOGIN; GRANT pg_monitor TO probe; CREATE ROLE blind LOGIN");
        psql(*port, "CREATE DATABASE secret");
        psql(*port, "REVOKE CONNECT ON DATABASE secret FROM PUBLIC");
        psql(*port, "CREATE TABLE t AS SELECT n FROM generate_series(1, 20000) n; ANALYZE t");
        psql(*port, "SELECT count(*) FROM t");
    }
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    for (major, port) in &servers {
        let server = format!("v{major}");
        for (verb, more) in [
            ("ping", vec![]),
            ("connections", vec![]),
            ("activity", vec![]),
            ("locks", vec![]),
            ("sizes", vec![]),
            ("bloat", vec!["--exact"]),
            ("slow-queries", vec!["--top", "200"]),
            ("indexes", vec![]),
        ] {
            let args = ["postgres", verb, &server, "--on", "db-1", "-o", "json"];
            // Statistics of a server that was just made say nothing of what is unused.
            let (code, status) = if verb == "indexes" { (3, "unknown") } else { (0, "ok") };
            let said = fleet.ctl(&[&args[..], &more].concat()).exits(code).json();
            assert_eq!(said[0]["status"], status, "{major} {verb}: {said}");
            explained(*port, &said[0]);
            let data = &said[0]["data"];
            match verb {
                "ping" => {
                    let version = data["version"].as_str().expect("a version");
                    assert!(version.starts_with(&format!("{major}.")), "{version}");
                }
                "sizes" => assert_eq!(data["tables"][0]["table"], "public.t", "{said}"),
                "bloat" => assert_eq!(data["tables"][0]["method"], "exact", "{said}"),
                "slow-queries" => {
                    let counted = data["statements"].as_array().expect("statements");
                    let ours = |s: &serde_json::Value| s["statement"] == "SELECT count(*) FROM t";
                    assert!(counted.iter().any(ours), "{major}: {said}");
                }
                _ => {}
            }
        }
    }
    gone_servers(&fleet);
    for (major, port) in servers {
        barred_roles(&fleet, major, port);
        growth(&fleet, major, port);
        unestimated(&fleet, major, port);
        hidden_databases(&fleet, major);
        blind_roles(&fleet, major);
        limits(&fleet, major, port);
        old_extensions(&fleet, major, port);
        needed_indexes(&fleet, major, port);
        locked_tables(&fleet, major, port);
        prepared_transactions(&fleet, major, port);
        lost_counters(&fleet, major, port);
    }
}

/// The answer of an operation on a server.
fn ask(fleet: &Fleet, words: &[&str], code: i32) -> Value {
    let args = [&["postgres"], words, &["--on", "db-1", "-o", "json"]].concat();
    fleet.ctl(&args).exits(code).json()[0].clone()
}

/// What is told as evidence was really asked: the server takes it as it stands.
fn explained(port: u16, seen: &Value) {
    let evidence = seen["evidence"].as_array().expect("evidence");
    let statements: Vec<_> = evidence.iter().filter(|e| e["kind"] == "sql").collect();
    assert!(!statements.is_empty(), "{seen}");
    for statement in statements {
        psql(port, &format!("EXPLAIN {}", statement["what"].as_str().expect("a statement")));
    }
}

/// What grew since an earlier look is told by table and database, with since when.
fn growth(fleet: &Fleet, major: u32, port: u16) {
    psql(port, "INSERT INTO t SELECT n FROM generate_series(1, 200000) n");
    let seen = ask(fleet, &["sizes", &format!("v{major}"), "--top", "1"], 0);
    let (tables, said) = (seen["data"]["tables"].as_array(), seen["summary"].as_str());
    let table = tables.and_then(|tables| tables.first()).expect("a table");
    let (total, grown) = (table["total_bytes"].as_i64(), table["grown_bytes"].as_i64());
    let (total, grown) = (total.expect("a size"), grown.expect("it was seen before"));
    assert!(grown > 5_000_000 && grown < total, "{major}: {seen}");
    let database = seen["data"]["databases"].as_array().expect("databases");
    let database = database.iter().find(|d| d["name"] == "postgres").expect("its database");
    assert!(database["grown_bytes"].as_i64().expect("it was seen before") >= grown, "{seen}");
    assert!(seen["data"]["since_s"].as_f64().is_some(), "{seen}");
    let said = said.expect("a summary");
    assert!(said.contains("; public.t grew most, by ") && said.ends_with(" s"), "{said}");
}

/// Of a table that nobody looked at yet there is no number of rows.
fn unestimated(fleet: &Fleet, major: u32, port: u16) {
    psql(port, "CREATE TABLE fresh (n int)");
    let seen = ask(fleet, &["sizes", &format!("v{major}"), "--top", "200"], 0);
    let tables = seen["data"]["tables"].as_array().expect("tables");
    let rows = |name: &str| &tables.iter().find(|t| t["table"] == name).expect(name)["rows"];
    // Before version 14 such a table is told like an empty one.
    assert_eq!(rows("public.fresh").is_null(), major > 13, "{major}: {seen}");
    assert!(rows("public.t").as_u64().is_some_and(|n| n > 0), "{major}: {seen}");
    psql(port, "DROP TABLE fresh");
}

/// A role without pg_monitor is told what it cannot see, and fails nowhere.
fn blind_roles(fleet: &Fleet, major: u32) {
    let server = format!("blind{major}");
    ask(fleet, &["ping", &server], 0);
    for verb in ["connections", "activity", "locks", "sizes", "bloat", "slow-queries", "indexes"] {
        let seen = ask(fleet, &[verb, &server], 3);
        assert_eq!(seen["status"], "unknown", "{major} {verb}: {seen}");
        let why = seen["findings"][0]["why"].as_str().unwrap_or_default();
        assert!(!why.is_empty(), "{major} {verb}: {seen}");
        let (said, found) = (&seen["summary"], &seen["findings"]);
        let said = said.as_str().expect("text").split(", and ").next().unwrap_or_default();
        assert!(found.to_string().contains(&said.replace('"', "\\\"")), "{major} {verb}: {seen}");
    }
    let seen = ask(fleet, &["connections", &server], 3);
    let (idle, oldest) = (&seen["data"]["idle_in_transaction"], &seen["data"]["oldest_idle_s"]);
    assert!(idle.is_null() && oldest.is_null(), "what others do is not seen: {seen}");
    let seen = ask(fleet, &["connections", &format!("v{major}")], 0);
    assert_eq!(seen["data"]["idle_in_transaction"], 0, "none idles: {seen}");
    let seen = ask(fleet, &["indexes", &server, "--scans", "0"], 3);
    assert!(seen["evidence"].to_string().contains("idx_scan <= 0 "), "{major}: {seen}");
}

const VERBS: [&str; 8] =
    ["ping", "connections", "activity", "locks", "sizes", "bloat", "slow-queries", "indexes"];

/// That a server is not there is one answer, with where it would be, whatever it is asked; what changes slowly
/// is not known then.
fn gone_servers(fleet: &Fleet) {
    for (n, verb) in VERBS.iter().enumerate() {
        let (code, status) = if n < 4 { (1, "critical") } else { (3, "unknown") };
        let seen = ask(fleet, &[verb, "gone"], code);
        assert_eq!((&seen["status"], &seen["data"]), (&status.into(), &Value::Null), "{seen}");
        assert_eq!(seen["findings"][0]["next"], "systemd status postgresql", "{verb}: {seen}");
        assert_eq!(seen["evidence"][0]["what"], "127.0.0.1:1, database postgres", "{seen}");
    }
}

/// What the role may not do is UNKNOWN, with what to grant.
fn barred_roles(fleet: &Fleet, major: u32, port: u16) {
    for verb in VERBS {
        let seen = ask(fleet, &[verb, &format!("barred{major}")], 3);
        assert_eq!((&seen["status"], &seen["data"]), (&"unknown".into(), &Value::Null), "{seen}");
        let why = seen["findings"][0]["why"].as_str().expect("text");
        assert!(why.contains("GRANT CONNECT") && !why.contains("pg_monitor"), "{seen}");
    }
    psql(port, "REVOKE SELECT ON pg_catalog.pg_locks FROM PUBLIC");
    for verb in ["locks", "sizes"] {
        let seen = ask(fleet, &[verb, &format!("v{major}")], 3);
        assert!(
            seen["findings"][0]["why"].as_str().expect("text").contains("pg_monitor"),
            "{seen}"
        );
        assert!(seen["evidence"].to_string().contains("pg_locks"), "it was asked: {seen}");
    }
    psql(port, "GRANT SELECT ON pg_catalog.pg_locks TO PUBLIC");
}

/// A limit of a role or of a database is none of the server.
fn limits(fleet: &Fleet, major: u32, port: u16) {
    for what in ["ROLE probe", "DATABASE postgres"] {
        psql(port, &format!("ALTER {what} CONNECTION LIMIT 0"));
        let seen = ask(fleet, &["ping", &format!("v{major}")], 3);
        psql(port, &format!("ALTER {what} CONNECTION LIMIT -1"));
        let summary = seen["summary"].as_str().expect("a summary");
        assert!(summary.contains("gives the agent no further connection"), "{major}: {seen}");
        assert!(seen["findings"][0]["why"].to_string().contains("CONNECTION LIMIT"), "{seen}");
        assert!(seen["data"].is_null(), "nothing was measured: {seen}");
    }
}

fn hidden_databases(fleet: &Fleet, major: u32) {
    let seen = ask(fleet, &["sizes", &format!("blind{major}")], 3);
    assert!(seen["findings"].to_string().contains("is not seen: secret"), "{seen}");
    let names = ask(fleet, &["sizes", &format!("v{major}")], 0)["data"]["databases"].to_string();
    assert!(names.contains("secret") && !names.contains("template0"), "{names}");
}

/// After pg_upgrade an extension is as old as before.
fn old_extensions(fleet: &Fleet, major: u32, port: u16) {
    let offered = psql(
        port,
        "SELECT version FROM pg_available_extension_versions WHERE name = 'pg_stat_statements' \
         AND version IN ('1.4', '1.7', '1.8', '1.9') ORDER BY 1",
    );
    assert!(offered.contains("1.7") && offered.contains("1.8"), "{major}: {offered}");
    for version in offered.lines() {
        psql(port, "DROP EXTENSION pg_stat_statements");
        psql(port, &format!("CREATE EXTENSION pg_stat_statements VERSION '{version}'"));
        psql(port, "SELECT count(*) FROM t");
        for by in ["mean", "max"] {
            let seen = ask(fleet, &["slow-queries", &format!("v{major}"), "--by", by], 0);
            let counted = seen["data"]["statements"].as_array().is_some_and(|s| !s.is_empty());
            assert!(counted, "{major}, {version}, {by}: {seen}");
        }
        let seen = ask(fleet, &["slow-queries", &format!("v{major}")], 0);
        let since = seen["summary"].as_str().expect("text").contains("since when is not known");
        assert_eq!(since, seen["data"]["since_s"].is_null(), "{major}, {version}: {seen}");
        assert_eq!(since, version != "1.9", "{major}, {version}: {seen}");
        assert_eq!(since, seen["data"]["forgotten"].is_null(), "no zero for it: {seen}");
        let seen = seen.to_string();
        let told = seen.contains("ALTER EXTENSION pg_stat_statements UPDATE");
        // On 13 the last one is 1.8, and there is nothing to update to.
        let old = ["1.4", "1.7"].contains(&version) || version == "1.8" && major > 13;
        assert_eq!(told, old, "{major}, {version}: {seen}");
    }
}

/// An index that nobody reads may be needed all the same: it keeps rows apart, or whoever deletes what others
/// refer to would read the whole table.
fn needed_indexes(fleet: &Fleet, major: u32, port: u16) {
    psql(port, "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1)");
    psql(
        port,
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, code int UNIQUE, \
         alone int, free int, EXCLUDE (alone WITH =))",
    );
    psql(port, "INSERT INTO child SELECT n, 1, n, n, n FROM generate_series(1, 100000) n");
    psql(port, "CREATE INDEX child_parent ON child (parent, free)");
    psql(port, "CREATE INDEX child_free ON child (free)");
    psql(port, "CREATE UNIQUE INDEX child_apart ON child (free, id)");
    psql(port, "ANALYZE child");
    let seen = ask(fleet, &["indexes", &format!("v{major}"), "--scans", "1000000"], 3);
    let of = |list: &str| -> Vec<String> {
        let indexes = seen["data"][list].as_array().expect("a list").clone();
        let names = indexes.iter().filter(|i| i["table"] == "public.child");
        names.map(|i| i["index"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(of("unused"), ["public.child_free"], "{major}: {seen}");
    assert_eq!(of("duplicate"), ["public.child_free"], "{major}: {seen}");
    psql(port, "DROP TABLE child, parent");
}

fn locked_tables(fleet: &Fleet, major: u32, port: u16) {
    psql(port, "CREATE TABLE locked AS SELECT n, n AS m FROM generate_series(1, 300000) n");
    psql(port, "CREATE INDEX ON locked (n)");
    psql(port, "CREATE INDEX ON locked (n, m)");
    psql(port, "ANALYZE locked");
    let url = format!("postgres://hostler@127.0.0.1:{port}/postgres");
    let mut session = command("/usr/bin/psql")
        .args(["-q", &url, "-c", "BEGIN", "-c", "TRUNCATE locked", "-c", "SELECT pg_sleep(600)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("psql");
    eventually("the table is locked", || {
        psql(port, "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'") != "0"
    });
    for verb in ["sizes", "bloat"] {
        let seen = ask(fleet, &[verb, &format!("v{major}")], 3);
        assert!(seen["data"]["tables"].to_string().contains("public.t"), "{major} {verb}: {seen}");
        let said = "locked and not looked at: public.locked";
        assert!(seen["findings"].to_string().contains(said), "{major} {verb}: {seen}");
        // Of two things that are not known the summary names the first.
        assert!(verb == "bloat" || seen["summary"] == said, "{major} {verb}: {seen}");
    }
    let seen = ask(fleet, &["indexes", &format!("v{major}")], 3);
    assert!(seen["findings"].to_string().contains("public.locked"), "{major}: {seen}");
    session.kill().and_then(|()| session.wait()).expect("it ended");
    psql(
        port,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' \
         AND pid <> pg_backend_pid()",
    );
}

fn prepared_transactions(fleet: &Fleet, major: u32, port: u16) {
    psql(port, "CREATE TABLE held (n int)");
    let url = format!("postgres://hostler@127.0.0.1:{port}/postgres");
    let prepare = "LOCK TABLE held; PREPARE TRANSACTION 'order-17'";
    psql(port, &format!("BEGIN; {prepare}"));
    let mut waiting = command("/usr/bin/psql")
        .args(["-q", &url, "-c", "SELECT * FROM held"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("psql");
    let server = format!("v{major}");
    let args = ["postgres", "locks", &server, "--wait", "1s", "--on", "db-1", "-o", "json"];
    let seen = || fleet.ctl(&args).json()[0].clone();
    eventually("somebody waits for a second", || seen()["status"] != "ok");
    let seen = seen();
    let said = seen["findings"][0]["summary"].as_str().expect("a summary");
    let (named, held) = ("prepared transaction \"order-17\" of hostler", "holds up 1 sessions");
    assert!(said.starts_with(named) && said.ends_with(held), "{major}: {seen}");
    explained(port, &seen);
    psql(port, "ROLLBACK PREPARED 'order-17'");
    assert!(waiting.wait().expect("it ended").success());
}

/// A server that has lost its counters sees no dead row: that is UNKNOWN until they are counted again.
fn lost_counters(fleet: &Fleet, major: u32, port: u16) {
    // Only what is lost here is to be told.
    psql(port, "DROP TABLE locked");
    psql(
        port,
        "CREATE TABLE lost (n int, t text) WITH (autovacuum_enabled = off); \
         INSERT INTO lost SELECT n, repeat('x', 40) FROM generate_series(1, 60000) n; \
         CREATE TABLE fresh (n int); CREATE TABLE empty (n int); INSERT INTO fresh VALUES (1)",
    );
    psql(port, "ANALYZE lost");
    psql(port, "DELETE FROM lost WHERE n > 600");
    let server = format!("v{major}");
    let args = ["postgres", "bloat", &server, "--on", "db-1", "-o", "json"];
    let seen = || fleet.ctl(&args).json()[0].clone();
    // Below 15 a process of its own counts, a moment later.
    let dead = "59400 rows of public.lost are dead";
    eventually("dead rows are counted", || seen()["findings"].to_string().contains(dead));
    psql(port, "SELECT pg_stat_reset()");
    psql(port, "ANALYZE t");
    let lost = "dead rows of public.lost are not known: their counters were lost";
    eventually("the counters are lost", || seen()["findings"].to_string().contains(lost));
    let blind = seen();
    assert_eq!(blind["status"], "unknown", "{major}: {blind}");
    for other in ["public.fresh", "public.empty"] {
        assert!(!blind["findings"].to_string().contains(other), "{major}: {blind}");
    }
    explained(port, &blind);
    // It goes on, and what is counted now is not all.
    psql(port, "INSERT INTO lost SELECT n, 'y' FROM generate_series(1, 100) n");
    assert!(seen()["findings"].to_string().contains(lost), "{major}");
    psql(port, "ANALYZE lost");
    eventually("they are counted again", || seen()["findings"].to_string().contains("are dead"));
    psql(port, "DROP TABLE lost, fresh, empty; ANALYZE");
}

#[test]
fn a_standby_says_how_far_it_is_behind_and_a_primary_who_does_not_follow() {
    let primary = Postgres::primary();
    let standby = primary.standby("s1");
    primary.psql("CREATE ROLE probe LOGIN");
    primary.psql("GRANT pg_monitor TO probe");
    let mut fleet = Fleet::new(Place::Loopback, "");
    let entry = |name: &str, server: &Postgres| {
        let port = server.port;
        format!(
            "[[postgres]]\nname = \"{name}\"\nurl = \"postgres://probe@127.0.0.1:{port}/postgres\"\n"
        )
    };
    let file = fleet.path("stack.toml");
    fs::write(&file, entry("one", &primary) + &entry("two", &standby)).expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    eventually("the role is there", || {
        standby.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'probe'") == "1"
    });

    let well = ask(&fleet, &["ping", "two"], 0);
    assert_eq!(well["data"]["source"], "streaming", "{well}");
    assert_eq!(well["data"]["lag_s"], 0.0, "an idle primary is no lag: {well}");
    explained(standby.port, &well);
    let one = ask(&fleet, &["ping", "one"], 0);
    assert_eq!(one["data"]["standbys"][0]["state"], "streaming", "{one}");
    assert_eq!(one["data"]["slots"][0]["name"], "s1", "{one}");

    // What a standby knows of dead rows is nothing.
    let blind = ask(&fleet, &["bloat", "two"], 3);
    assert!(blind["summary"].as_str().is_some_and(|s| s.contains("is a standby")), "{blind}");
    ask(&fleet, &["bloat", "one"], 0);

    standby.psql("SELECT pg_wal_replay_pause()");
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
    eventually("it is behind", || {
        let args = ["postgres", "ping", "two", "--lag", "1s", "--on", "db-1", "-o", "json"];
        let seen = fleet.ctl(&args).json()[0].clone();
        seen["findings"].to_string().contains("behind its primary")
    });
    standby.psql("SELECT pg_wal_replay_resume()");
    eventually("it has caught up", || {
        fleet.ctl(&["postgres", "ping", "two", "--on", "db-1"]).code == 0
    });

    primary.stop();
    eventually("its receiver is gone", || {
        standby.psql("SELECT count(*) FROM pg_stat_wal_receiver") == "0"
    });
    let alone = ask(&fleet, &["ping", "two"], 1);
    assert_eq!(alone["data"]["source"], "stopped", "{alone}");
    assert!(alone["findings"].to_string().contains("receives nothing from its primary"), "{alone}");
}

#[test]
fn a_certificate_that_is_not_trusted_is_told_from_a_server_that_does_not_answer() {
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path());
    let server = Postgres::with_tls();
    let other = directory.path().join("ca.pem").display().to_string();
    let own = server.authority().display().to_string();
    let entry = |(name, mode, ca): (&str, &str, &str)| {
        let at = format!("postgres://hostler@127.0.0.1:{}/postgres", server.port);
        format!(
            "[[postgres]]\nname = \"{name}\"\n\
             url = \"{at}?sslmode={mode}&sslrootcert={ca}&connect_timeout=hunter2\"\n"
        )
    };
    let mut fleet = Fleet::new(Place::Loopback, "");
    let entries = [
        ("main", "verify-full", own.as_str()),
        ("other", "verify-ca", &other),
        ("none", "verify-ca", "/nonexistent/ca.pem"),
    ];
    fs::write(fleet.path("stack.toml"), entries.map(entry).concat()).expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", fleet.path("stack.toml").display()));
    let well = ask(&fleet, &["ping", "main"], 0);
    assert_eq!(well["data"]["tls"], true, "{well}");
    let untrusted = ask(&fleet, &["ping", "other"], 1);
    let said = untrusted["summary"].as_str().expect("text");
    assert!(said.contains("is not trusted: invalid peer certificate"), "{untrusted}");
    assert!(untrusted["findings"][0]["why"].to_string().contains("sslrootcert"), "{untrusted}");
    let none = ask(&fleet, &["ping", "none"], 3);
    let said = none["summary"].as_str().expect("text");
    assert!(said.contains("cannot be asked: /nonexistent/ca.pem: No such file"), "{none}");
    // What nobody heeds in a URL is in no log, and check-config names it.
    let log = fleet.agent("db-1").log();
    assert!(!log.contains("hunter2") && !log.contains("connect_timeout"), "{log}");
}

#[test]
fn a_server_without_a_free_connection_is_full_and_not_down() {
    let server = Postgres::with("max_connections=5");
    server.psql("CREATE ROLE probe LOGIN");
    let mut fleet = Fleet::new(Place::Loopback, "");
    let stack = format!(
        "[[postgres]]\nname = \"main\"\nurl = \"postgres://probe@127.0.0.1:{}/postgres\"\n\
         after = [\"unit:postgresql@15-main\"]\n[[unit]]\nname = \"postgresql@15-main\"\n",
        server.port
    );
    fs::write(fleet.path("stack.toml"), stack).expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", fleet.path("stack.toml").display()));
    ask(&fleet, &["ping", "main"], 0);
    // What is left is for superusers.
    let url = format!("postgres://hostler@127.0.0.1:{}/postgres", server.port);
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut psql = command("/usr/bin/psql");
            let psql = psql.args(["-q", &url, "-c", "SELECT pg_sleep(600)"]);
            psql.stdout(std::process::Stdio::null()).spawn().expect("psql")
        })
        .collect();
    eventually("it is full", || {
        let seen = fleet.ctl(&["postgres", "ping", "main", "--on", "db-1", "-o", "json"]);
        seen.code == 1 && seen.json()[0]["summary"].to_string().contains("has no free connection")
    });
    let full = ask(&fleet, &["connections", "main"], 1);
    assert_eq!(full["status"], "critical", "{full}");
    assert!(full["data"].is_null(), "nothing was measured: {full}");
    let next = "journal read --unit postgresql@15-main --lines 50";
    assert_eq!(full["findings"][0]["next"], next, "{full}");
    // What people read has no table of zeros, and what it says to type can be typed.
    let shown = fleet.ctl(&["postgres", "connections", "main", "--on", "db-1"]).exits(1).out;
    assert!(!shown.contains("usable") && shown.contains(next), "{shown}");
    let words: Vec<&str> = next.split(' ').chain(["--on", "db-1"]).collect();
    assert_ne!(fleet.ctl(&words).code, 2, "the command line takes it");
    for session in &mut held {
        session.kill().and_then(|()| session.wait()).expect("it ended");
    }
}
