//! Every operation on PostgreSQL against every major version that it is made for. `tests/run` brings
//! the servers and starts them; HOSTLER_TEST_SERVERS names them.

use std::fs;

use hostler_tests::{
    fleet::{Fleet, Place},
    process::command,
};

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
                "[[postgres]]\nname = \"v{major}\"\nurl = \"postgres://probe@127.0.0.1:{port}/postgres\"\n"
            )
        })
        .collect();
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    for (_, port) in &servers {
        psql(*port, "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pgstattuple");
        psql(*port, "CREATE ROLE probe LOGIN; GRANT pg_monitor TO probe");
        psql(*port, "CREATE TABLE t AS SELECT n FROM generate_series(1, 20000) n; ANALYZE t");
        psql(*port, "SELECT count(*) FROM t");
    }
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    for (major, _) in &servers {
        let server = format!("v{major}");
        for (verb, more) in [
            ("ping", vec![]),
            ("connections", vec![]),
            ("activity", vec![]),
            ("locks", vec![]),
            ("sizes", vec![]),
            ("bloat", vec!["--exact"]),
            ("slow-queries", vec![]),
            ("indexes", vec![]),
        ] {
            let args = ["postgres", verb, &server, "--on", "db-1", "-o", "json"];
            // Statistics of a server that was just made say nothing of what is unused.
            let (code, status) = if verb == "indexes" { (3, "unknown") } else { (0, "ok") };
            let said = fleet.ctl(&[&args[..], &more].concat()).exits(code).json();
            assert_eq!(said[0]["status"], status, "{major} {verb}: {said}");
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
}
