//! When things run out, from history: of a disk, transaction ids and connections of a real PostgreSQL, and
//! the memory of a real Redis without maxmemory.

use std::{fs, path::Path, time::Duration};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{command, eventually, within},
    servers::{Postgres, Redis},
};
use serde_json::Value;

/// Checks with the figures that run out: check, name, subject.
const ENDING: [(&str, &str, &str); 4] = [
    ("disk", "used", "/"),
    ("postgres-connections:main", "connections", ""),
    ("postgres-connections:main", "transaction_id_age", ""),
    ("redis:main", "memory", ""),
];
/// Hours after which each of them runs out, as its past has it.
const LEFT_H: f64 = 20.0;

/// Writes hours of a past into the store of a controller that does not run, as it keeps them: what each
/// figure is now was reached evenly, and goes on to its limit.
const PAST: &str = r#"
import json, sqlite3, struct, sys, time, zlib
store, host, left_h, figures = sys.argv[1], sys.argv[2], float(sys.argv[3]), json.loads(sys.argv[4])
HOUR, DAY = 3_600_000_000, 86_400_000_000
db = sqlite3.connect(store)
now = int(time.time() * 1e6)
days = {}
for check, name, subject, last, limit in figures:
    row = db.execute("SELECT number FROM series WHERE check_name = ? AND name = ? AND subject = ?",
                     (check, name, subject)).fetchone()
    for ago in range(1, 49):
        at = now - now % HOUR - ago * HOUR
        hours = (now - (at + HOUR / 2)) / HOUR
        value = last - (limit - last) / left_h * hours
        entry = (row[0], at % DAY // HOUR, value, value)
        days.setdefault(at - at % DAY, []).append(entry)
for day, entries in days.items():
    data = b"".join(struct.pack("<IBff", *entry) for entry in sorted(entries))
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(data) + packer.flush()
    db.execute("INSERT INTO figure_days (host, day_us, data) VALUES (?, ?, ?) "
               "ON CONFLICT (host, day_us) DO UPDATE SET data = excluded.data", (host, day, packed))
db.commit()
"#;

fn series(fleet: &Fleet, of: (&str, &str, &str)) -> Option<Value> {
    let (check, name, subject) = of;
    let history = fleet.ctl(&["history", "db-1", check, "-o", "json"]).json();
    let all = history["series"].as_array().cloned().unwrap_or_default();
    // Which database is the oldest is the server's business.
    let is = |s: &Value| s["name"] == name && (subject.is_empty() || s["subject"] == subject);
    all.into_iter().find(is)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key}: {value}"))
}

#[test]
fn what_runs_out_is_told_of_disks_transaction_ids_connections_and_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let (postgres, programs) = (Postgres::primary(), Redis::programs());
    let redis = Redis::start(&programs[0].1, &directory.path().join("redis"), &[]);
    let mut fleet = Fleet::new(Place::Loopback, "");
    let stack = format!(
        "[defaults]\ninterval = \"1s\"\n\
         [[postgres]]\nname = \"main\"\nurl = \"postgres://hostler@127.0.0.1:{}/postgres\"\n\
         [[redis]]\nname = \"main\"\nurl = \"redis://127.0.0.1:{}/0\"\n",
        postgres.port, redis.port
    );
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    let mut figures = Vec::new();
    for of in ENDING {
        eventually(&format!("{of:?} is told, with its limit"), || {
            series(&fleet, of).is_some_and(|s| s["limit"].is_number())
        });
        let now = series(&fleet, of).expect("a series");
        assert!(now["runs_out_s"].is_null(), "a minute is no past: {now}");
        figures.push((of, now));
    }
    let limit = |at: usize| number(&figures[at].1, "limit");
    let setting =
        |name: &str| postgres.psql(&format!("SHOW {name}")).parse::<f64>().expect("a number");
    let reserved = setting("superuser_reserved_connections");
    let connections = setting("max_connections");
    // Of version 16 on a role can have more of them.
    let usable = [connections, connections - reserved];
    assert!(usable.contains(&limit(1)), "{:?}", figures[1]);
    assert_eq!(limit(2) as u64, 2_000_000_000, "{:?}", figures[2]);
    let (used, limit) = (number(&figures[3].1, "last"), limit(3));
    assert!(limit > used + f64::from(1 << 20), "what the host has left: {:?}", figures[3]);

    // It writes down what there is when it is stopped.
    assert_eq!(fleet.take_controller().stop(), Some(0));
    let past: Vec<_> = figures
        .iter()
        .map(|((check, name, _), s)| {
            (check, name, &s["subject"], number(s, "last"), number(s, "limit"))
        })
        .collect();
    let past = serde_json::to_string(&past).expect("json");
    let mut write = command(Path::new("/usr/bin/python3"));
    write.args(["-c", PAST]).arg(fleet.path("controller/store.sqlite"));
    let written = write.args(["db-1", &LEFT_H.to_string(), &past]).status().expect("python3");
    assert!(written.success());
    fleet.start_controller();
    fleet.wait_for("db-1", "up");
    for of in ENDING {
        eventually(&format!("{of:?} runs out"), || {
            series(&fleet, of).is_some_and(|s| s["runs_out_s"].is_number())
        });
        let seen = series(&fleet, of).expect("a series");
        let hours = number(&seen, "runs_out_s") / 3600.0;
        assert!((hours - LEFT_H).abs() < LEFT_H / 4.0, "{of:?} in {hours} h: {seen}");
        assert!(number(&seen, "confidence") > 0.9, "{seen}");
    }
    let outlook = || {
        let status = fleet.ctl(&["status", "-o", "json"]).json();
        status["outlooks"].as_array().cloned().unwrap_or_default()
    };
    let of = |all: &[Value], (check, name, _): (&str, &str, &str)| {
        all.iter().find(|o| o["check"] == check && o["name"] == name).cloned()
    };
    // What is a problem already is told as such; on this machine the disk may be.
    let problems = fleet.ctl(&["problems", "-o", "json"]).json();
    let full = problems.as_array().is_some_and(|all| all.iter().any(|p| p["check"] == "disk"));
    let told = &ENDING[usize::from(full)..];
    within(Duration::from_secs(60), "status tells it", || {
        let all = outlook();
        told.iter().all(|ending| of(&all, *ending).is_some())
    });
    let all = outlook();
    for ending in told {
        let seen = of(&all, *ending).expect("told");
        assert!(number(&seen, "confidence") > 0.9, "{seen}");
        assert!((number(&seen, "runs_out_s") / 3600.0 - LEFT_H).abs() < LEFT_H / 4.0, "{seen}");
    }
    let page = fleet.ctl(&["status"]).out;
    assert!(page.contains("transaction_id_age") && page.contains("redis:main"), "{page}");
}
