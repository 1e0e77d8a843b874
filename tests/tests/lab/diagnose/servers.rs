//! Databases: one that is slow though nobody waits for a lock, and a Redis that refuses writes.

use hostler_tests::{
    lab::{Lab, in_host},
    process::{Process, eventually},
};

use super::{fleet, next, postgres, restart, until, well};

#[test]
fn a_statement_that_runs_for_long_is_why_a_database_is_slow() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let line = "PGAPPNAME=runner psql -q -d postgresql://omnidoc:omnidoc-pw@127.0.0.1/omnidoc \
                -c 'SELECT pg_sleep(300)'";
    let runner = Process::start(&mut in_host("h1", &["sh", "-c", line]), &fleet.path("runner.log"));
    let pid = || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'runner'";
        postgres::psql(&lab, sql)
    };
    eventually("it runs", || !pid().is_empty());
    let said = format!("a statement of runner (pid {}) has run for", pid());
    let found = until(&fleet, &["postgres"], &said);
    assert_eq!(next(&found), "postgres activity main --longer 10s", "{found}");
    let finding = &found["findings"][0];
    assert!(finding["why"].to_string().contains("pg_cancel_backend"), "{found}");
    assert!(found["evidence"].to_string().contains("pg_stat_activity"), "{found}");
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'runner'";
    postgres::psql(&lab, end);
    runner.kill();
    well(&fleet, &["postgres"]);
}

#[test]
fn a_redis_that_refuses_writes_without_a_snapshot_or_a_replica_says_why() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let cli = |args: &[&str]| {
        lab.exec("h1", &[&["redis-cli", "--no-auth-warning", "-a", "redis-pw"], args].concat())
    };
    cli(&["config", "set", "save", "3600 1"]);
    lab.exec("h1", &["chown", "root:root", "/var/lib/redis"]);
    cli(&["bgsave"]);
    let found = until(&fleet, &["redis"], "the last snapshot of redis \"main\" failed");
    assert_eq!(next(&found), "net port-owner 6379");
    let why = found["findings"][0]["why"].to_string();
    assert!(why.contains("every write is refused"), "{found}");
    let refused = cli(&["set", "hostler-lab", "1"]);
    assert!(refused.contains("MISCONF"), "{refused}");
    lab.exec("h1", &["chown", "redis:redis", "/var/lib/redis"]);
    cli(&["bgsave"]);
    well(&fleet, &["redis"]);

    cli(&["config", "set", "min-replicas-to-write", "1"]);
    let found = until(&fleet, &["redis"], "has 0 good replicas, and 1 are needed for a write");
    assert_eq!(next(&found), "redis config 'min-*' --server main");
    let refused = cli(&["set", "hostler-lab", "1"]);
    assert!(refused.contains("NOREPLICAS"), "{refused}");
    restart(&lab, "redis-server");
    restart(&lab, "omnidoc-celery");
    well(&fleet, &["redis"]);
}
