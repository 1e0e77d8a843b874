//! The operations on PostgreSQL, against the hosts' own server.

use hostler_tests::{
    fleet::Fleet,
    lab::Lab,
    process::{Process, eventually},
};
use serde_json::Value;

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 8] = [
    ("postgres.ping", ping),
    ("postgres.connections", connections),
    ("postgres.activity", activity),
    ("postgres.locks", locks),
    ("postgres.sizes", sizes),
    ("postgres.bloat", bloat),
    ("postgres.slow-queries", slow_queries),
    ("postgres.indexes", indexes),
];

/// What the server's superuser is told.
pub(crate) fn psql(lab: &Lab, sql: &str) -> String {
    psql_on(lab, "h1", sql)
}

fn psql_on(lab: &Lab, host: &str, sql: &str) -> String {
    let psql = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "psql"];
    lab.exec(host, &[&psql[..], &["-qAt", "-d", "omnidoc", "-c", sql]].concat()).trim().to_owned()
}

/// The role that docs/checks.md advises.
pub(crate) fn role(lab: &Lab, host: &str) {
    psql_on(
        lab,
        host,
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hostler') THEN \
         CREATE ROLE hostler LOGIN PASSWORD 'hostler-pw'; GRANT pg_monitor TO hostler; END IF; \
         ALTER ROLE hostler CONNECTION LIMIT -1; END $$",
    );
}

/// A session of the application that does something and stays.
fn session(fleet: &Fleet, name: &str, sql: &str) -> Process {
    let line = format!(
        "(echo \"{sql}\"; sleep 60) | PGAPPNAME={name} psql -q -d \
         postgresql://omnidoc:omnidoc-pw@127.0.0.1/omnidoc"
    );
    let mut command = hostler_tests::lab::in_host("h1", &["sh", "-c", &line]);
    Process::start(&mut command, &fleet.path(&format!("{name}.log")))
}

/// Ends what [`session`] began, with its server's side.
fn end(lab: &Lab, session: Process, name: &str) {
    session.kill();
    let ended = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    psql(lab, &ended);
}

fn ping(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["postgres", "ping", "main"], 0);
    let version = psql(lab, "SELECT split_part(current_setting('server_version'), ' ', 1)");
    assert_eq!(seen["data"]["version"], version.as_str());
    assert_eq!(seen["data"]["in_recovery"], false);
    let wrong = on(fleet, "h1", &["postgres", "ping", "wrong"], 1);
    assert!(wrong["summary"].as_str().expect("text").contains("does not let the agent in"));
    // Debian's postgresql.service is a dummy; the cluster's own unit is what stops.
    lab.exec("h1", &["systemctl", "stop", "postgresql@15-main"]);
    let dead = on(fleet, "h1", &["postgres", "ping", "main"], 1);
    assert_eq!(dead["status"], "critical");
    assert!(dead["summary"].as_str().expect("text").contains("does not answer"), "{dead}");
    lab.exec("h1", &["systemctl", "start", "postgresql@15-main"]);
    eventually("it answers again", || {
        fleet.ctl(&["postgres", "ping", "main", "--on", "h1"]).code == 0
    });
}

fn connections(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["postgres", "connections", "main"], 0);
    assert_eq!(seen["data"]["max"].to_string(), psql(lab, "SHOW max_connections"));
    let age = psql(lab, "SELECT max(age(datfrozenxid)) FROM pg_database");
    let age: i64 = age.parse().expect("an age");
    assert!((seen["data"]["oldest_xid_age"].as_i64().expect("an age") - age).abs() < 1000);

    psql(lab, "REVOKE pg_monitor FROM hostler");
    let partial = on(fleet, "h1", &["postgres", "connections", "main"], 3);
    psql(lab, "GRANT pg_monitor TO hostler");
    assert!(partial["data"]["used"].as_u64().is_some_and(|n| n < 20), "{partial}");
}

fn activity(fleet: &Fleet, lab: &Lab) {
    let sql = "SELECT pg_sleep(40), 'hidden-value';";
    let long = session(fleet, "long", sql);
    eventually("the statement runs", || {
        let args = ["postgres", "activity", "main", "--longer", "1s", "--long", "2s"];
        let seen = fleet.ctl(&[&args[..], &["--on", "h1", "-o", "json"]].concat());
        let seen = seen.json();
        let sessions = seen[0]["data"]["sessions"].as_array().expect("sessions").clone();
        assert!(!seen.to_string().contains("hidden-value"), "{seen}");
        let of = |s: &Value| {
            let text = s["statement"].as_str().unwrap_or_default();
            s["application"] == "long" && text == "SELECT pg_sleep(?), ?;"
        };
        seen[0]["status"] == "warning" && sessions.iter().any(of)
    });
    end(lab, long, "long");
}

fn locks(fleet: &Fleet, lab: &Lab) {
    let quiet = on(fleet, "h1", &["postgres", "locks", "main"], 0);
    assert_eq!(quiet["summary"], "nobody waits for a lock");
    psql(lab, "CREATE TABLE IF NOT EXISTS locked (id int); ALTER TABLE locked OWNER TO omnidoc");
    let root = session(fleet, "root", "BEGIN; LOCK TABLE locked;");
    eventually("the lock is held", || {
        psql(lab, "SELECT count(*) FROM pg_locks WHERE relation = 'locked'::regclass") == "1"
    });
    let victim = session(fleet, "victim", "SELECT * FROM locked;");
    eventually("the tree is told", || {
        let args = ["postgres", "locks", "main", "--wait", "1s", "--on", "h1", "-o", "json"];
        let seen = fleet.ctl(&args).json();
        let nodes = seen[0]["data"]["sessions"].as_array().expect("sessions").clone();
        nodes.len() == 2
            && nodes[0]["application"] == "root"
            && nodes[0]["state"] == "idle in transaction"
            && nodes[0]["holds_up"] == 1
            && nodes[1]["application"] == "victim"
            && nodes[1]["wants"] == "AccessShareLock on public.locked"
            && seen[0]["status"] != "ok"
    });
    // A probe of sizes does not wait behind that lock: it tells the rest.
    let part = on(fleet, "h1", &["postgres", "sizes", "main"], 3);
    assert!(part["findings"].to_string().contains("not looked at: public.locked"), "{part}");
    assert!(part["data"]["tables"].to_string().contains("public.projects"), "{part}");
    end(lab, victim, "victim");
    end(lab, root, "root");
    psql(lab, "DROP TABLE locked");
}

fn sizes(fleet: &Fleet, lab: &Lab) {
    psql(lab, "CREATE TABLE \"Weird Name\" AS SELECT generate_series(1, 50000) AS n");
    let seen = on(fleet, "h1", &["postgres", "sizes", "main"], 0);
    let tables = seen["data"]["tables"].as_array().expect("tables").clone();
    let weird = tables.iter().find(|t| t["table"] == "public.Weird Name").expect("listed");
    let total = psql(lab, "SELECT pg_total_relation_size('public.\"Weird Name\"')");
    assert_eq!(weird["total_bytes"].to_string(), total);
    let database = psql(lab, "SELECT pg_database_size('omnidoc')");
    let databases = seen["data"]["databases"].as_array().expect("databases").clone();
    let ours = databases.iter().find(|d| d["name"] == "omnidoc").expect("listed");
    assert_eq!(ours["bytes"].to_string(), database);
    psql(lab, "DROP TABLE \"Weird Name\"");
}

fn bloat(fleet: &Fleet, lab: &Lab) {
    psql(
        lab,
        "CREATE TABLE bloated WITH (autovacuum_enabled = off) AS SELECT n, repeat('x', 100) AS t \
         FROM generate_series(1, 40000) n",
    );
    psql(lab, "DELETE FROM bloated WHERE n % 5 > 0");
    psql(lab, "ANALYZE bloated");
    let of = |args: &[&str], code| {
        let seen = on(fleet, "h1", &[&["postgres", "bloat", "main"], args].concat(), code);
        let tables = seen["data"]["tables"].as_array().expect("tables").clone();
        let found = tables.iter().find(|t| t["table"] == "public.bloated").expect("listed").clone();
        (seen, found)
    };
    let (seen, table) = of(&[], 0);
    assert_eq!(table["dead_rows"], 32000, "{seen}");
    assert!(seen["status"] == "warning", "{seen}");
    psql(lab, "VACUUM bloated");
    let (seen, missing) = of(&["--exact"], 0);
    assert_eq!(missing["method"], "estimate", "the extension is not installed");
    assert!(seen["findings"].to_string().contains("pgstattuple"), "{seen}");
    psql(lab, "CREATE EXTENSION pgstattuple");
    let (seen, table) = of(&["--exact"], 0);
    assert_eq!(table["method"], "exact", "{seen}");
    let wasted = table["wasted_percent"].as_f64().expect("a share");
    let theirs = psql(lab, "SELECT approx_free_percent FROM pgstattuple_approx('bloated')");
    assert!((wasted - theirs.parse::<f64>().expect("a share")).abs() < 0.1, "{seen}");
    psql(lab, "DROP TABLE bloated");
    psql(lab, "DROP EXTENSION pgstattuple");
}

fn slow_queries(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["postgres", "slow-queries", "main", "--by", "max"], 0);
    let longest = psql(
        lab,
        "SELECT max_exec_time FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid \
         WHERE datname = 'omnidoc' ORDER BY 1 DESC LIMIT 1",
    );
    let ours = seen["data"]["statements"][0]["max_s"].as_f64().expect("a time");
    let longest_ms: f64 = longest.parse().expect("a time");
    assert!((ours * 1e3 - longest_ms).abs() < 0.001, "{seen}");
    psql(lab, "DROP EXTENSION pg_stat_statements");
    let absent = on(fleet, "h1", &["postgres", "slow-queries", "main"], 3);
    psql(lab, "CREATE EXTENSION pg_stat_statements");
    assert!(absent["findings"][0]["why"].as_str().expect("text").contains("CREATE EXTENSION"));
}

fn indexes(fleet: &Fleet, lab: &Lab) {
    psql(
        lab,
        "CREATE TABLE indexed (a int PRIMARY KEY, b int, c int); CREATE INDEX one ON indexed (b); \
         CREATE INDEX two ON indexed (b, c); INSERT INTO indexed SELECT n, n, n \
         FROM generate_series(1, 100000) n; UPDATE pg_index SET indisvalid = false \
         WHERE indexrelid = 'two'::regclass",
    );
    let seen = on(fleet, "h1", &["postgres", "indexes", "main"], 0);
    assert_eq!(seen["data"]["invalid"][0]["index"], "public.two", "{seen}");
    psql(lab, "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'two'::regclass");
    let seen = on(fleet, "h1", &["postgres", "indexes", "main"], 3);
    let duplicate = &seen["data"]["duplicate"][0];
    assert_eq!(
        (&duplicate["index"], &duplicate["covered_by"]),
        (&"public.one".into(), &"public.two".into())
    );
    let unused = seen["data"]["unused"].as_array().expect("a list").clone();
    let named = |name: &str| unused.iter().any(|i| i["index"] == name);
    assert!(named("public.one") && named("public.two") && !named("public.indexed_pkey"), "{seen}");
    // Statistics of a server that was just made say nothing of what is unused.
    assert_eq!(seen["findings"][0]["subject"], "statistics", "{seen}");
    psql(lab, "DROP TABLE indexed");
}
