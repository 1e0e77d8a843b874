//! When checks run, and what is told of them.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use hostler_core::clock::FixedClock;
use hostler_proto::{catalogue::Catalogue, wire::Status};

use super::*;
use crate::{
    host::Host,
    journal::Journal,
    stack::{Pace, Plugin},
};

/// A check of a plugin that the host does not have: what it finds is that it cannot be measured.
pub(super) fn absent(name: &str, interval: Duration, retry: Duration) -> Check {
    plugin(name, "absent", Pace { interval, retry, attempts: 3 })
}

fn plugin(name: &str, plugin: &str, pace: Pace) -> Check {
    let spec = Catalogue::embedded().get("plugin.run").expect("an operation");
    let parameters =
        serde_json::json!({ "name": plugin }).as_object().cloned().expect("parameters");
    let request = hostler_proto::args::from_json(spec, &parameters).expect("a request");
    let request = Bytes::from(prost_reflect::prost::Message::encode_to_vec(&request));
    Check {
        name: name.parse().expect("a name"),
        operation: spec.name.clone(),
        path: spec.path.clone(),
        request,
        deadline: spec.deadline,
        pace,
        after: Vec::new(),
    }
}

pub(super) fn checks(directory: &Path, list: Vec<Check>, plugins: Vec<Plugin>) -> Checks {
    let clock: Arc<dyn Clock> =
        Arc::new(FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time")));
    let mut host = Host::showing(directory);
    (host.stack.plugins, host.clock) = (plugins, Arc::clone(&clock));
    let journal = Journal::open(&directory.join("journal"), Arc::clone(&clock)).expect("journal");
    let dispatcher = Dispatcher::new(Arc::new(host), Catalogue::embedded(), journal);
    Checks::new(list, dispatcher, directory.join("checks.json"), clock).expect("checks")
}

impl Checks {
    /// The count of results when a check ran last; 0 when it has not.
    pub(super) fn ran(&self, name: &str) -> u64 {
        self.state().seen.get(name).map_or(0, |seen| seen.run)
    }
}

pub(super) async fn until(what: &dyn Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
}

/// After how many seconds each check ran for the first time.
async fn first_runs(seed: &str) -> BTreeMap<String, u64> {
    let directory = tempfile::tempdir().expect("directory");
    let minute = Duration::from_secs(60);
    let list = (0..20).map(|n| absent(&format!("check-{n}"), minute, minute)).collect();
    let (checks, stop) = (checks(directory.path(), list, Vec::new()), CancellationToken::new());
    checks.start(&TaskTracker::new(), seed, &stop);
    let began = Instant::now();
    let mut first = BTreeMap::new();
    while first.len() < 20 && began.elapsed() < minute {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let all = checks.state().checks.clone();
        for check in all {
            let name = check.name.to_string();
            if checks.ran(&name) > 0 {
                first.entry(name).or_insert(began.elapsed().as_secs());
            }
        }
    }
    stop.cancel();
    first
}

#[tokio::test(start_paused = true)]
async fn first_runs_are_spread_and_on_every_host_in_another_way() {
    let (one, other) = (first_runs("web-1").await, first_runs("web-2").await);
    for runs in [&one, &other] {
        assert_eq!(runs.len(), 20);
        let seconds: std::collections::BTreeSet<_> = runs.values().collect();
        assert!(seconds.len() > 6, "{runs:?}");
        assert!(runs.values().all(|s| *s <= SETTLE.as_secs()), "{runs:?}");
    }
    assert_ne!(one, other);
}

/// Seconds between the first runs of a check with an interval, which is never well.
async fn between_runs(interval: Duration, runs: usize) -> Vec<u64> {
    let directory = tempfile::tempdir().expect("directory");
    let list = vec![absent("absent", interval, Duration::from_secs(10))];
    let (checks, stop) = (checks(directory.path(), list, Vec::new()), CancellationToken::new());
    checks.start(&TaskTracker::new(), "web-1", &stop);
    let (mut at, mut last) = (Vec::new(), 0);
    while at.len() < runs {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let ran = checks.ran("absent");
        if ran > last {
            at.push(Instant::now());
            last = ran;
        }
    }
    stop.cancel();
    at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64().round() as u64).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_bad_is_looked_at_again_sooner_and_when_it_is_hard_not_much_later() {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    assert_eq!(between_runs(minute, 5).await, [10, 10, 60, 60], "hard with the third");
    assert_eq!(between_runs(hour, 5).await, [10, 10, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn what_is_bad_runs_soon_after_what_it_needs_has_recovered_and_what_is_well_does_not() {
    let directory = tempfile::tempdir().expect("directory");
    let day = Duration::from_secs(86_400);
    let sizes = Check { after: vec!["server".to_owned()], ..absent("sizes", day, day) };
    let list = vec![absent("server", day, day), sizes, absent("other", day, day)];
    let (checks, stop) = (checks(directory.path(), list, Vec::new()), CancellationToken::new());
    checks.start(&TaskTracker::new(), "web-1", &stop);
    until(&|| ["server", "sizes", "other"].iter().all(|name| checks.ran(name) > 0)).await;
    let named = |name: &str| {
        let list = checks.state().checks.clone();
        list.into_iter().find(|check| check.name.as_str() == name).expect(name)
    };
    let (server, sizes) = (named("server"), named("sizes"));
    let found = |check: &Check, health| {
        let (summary, findings, figures) = (String::new(), Vec::new(), Vec::new());
        checks.take(check, Result { health, summary, findings, figures });
    };
    // Whether each of them ran within the spread.
    let ran = async || {
        let before = ["sizes", "other"].map(|name| checks.ran(name));
        tokio::time::sleep(SETTLE + Duration::from_secs(1)).await;
        [checks.ran("sizes") > before[0], checks.ran("other") > before[1]]
    };
    assert_eq!(ran().await, [false, false]);
    found(&server, Health::Warning);
    assert_eq!(ran().await, [true, false], "only what needs it");
    found(&server, Health::Ok);
    assert_eq!(ran().await, [false, false], "it served before");
    found(&server, Health::Critical);
    assert_eq!(ran().await, [false, false]);
    found(&sizes, Health::Ok);
    found(&server, Health::Ok);
    assert_eq!(ran().await, [false, false], "it is well");
    stop.cancel();
}

#[tokio::test]
async fn no_check_runs_twice_at_a_time_however_long_it_takes() {
    let directory = tempfile::tempdir().expect("directory");
    let log = directory.path().join("log");
    // It ends when the test lets it.
    let script = format!(
        "echo begin >> {log}; until [ -e {log}.go ]; do sleep 0.02; done; echo end >> {log}",
        log = log.display()
    );
    let command = ["/bin/sh", "-c", &script].map(ToOwned::to_owned).to_vec();
    let slow = Plugin { name: "slow".into(), command, after: Vec::new() };
    let moment = Duration::from_millis(10);
    let pace = Pace { interval: moment, retry: moment, attempts: 3 };
    let list = vec![plugin("slow", "slow", pace), absent("quick", moment, moment)];
    let (checks, stop) = (checks(directory.path(), list, vec![slow]), CancellationToken::new());
    checks.start(&TaskTracker::new(), "web-1", &stop);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    until(&|| said().contains("begin")).await;
    let before = checks.ran("quick");
    until(&|| checks.ran("quick") > before + 20).await;
    assert_eq!(said(), "begin\n", "twenty intervals later");
    std::fs::write(directory.path().join("log.go"), "").expect("written");
    until(&|| said().matches("end").count() > 2).await;
    stop.cancel();
    assert!(!said().contains("begin\nbegin"), "{}", said());
}

/// What runs until a file is there, and that file.
fn hangs(directory: &Path) -> (Plugin, std::path::PathBuf) {
    let go = directory.join("go");
    let script = format!("until [ -e {} ]; do sleep 0.02; done", go.display());
    let command = ["/bin/sh", "-c", &script].map(ToOwned::to_owned).to_vec();
    (Plugin { name: "hangs".into(), command, after: Vec::new() }, go)
}

#[tokio::test(start_paused = true)]
async fn checks_that_hang_hold_up_the_others_for_seconds_and_heavy_ones_hold_up_their_kind_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let (hanging, go) = hangs(directory.path());
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let pace = Pace { interval: second, retry: second, attempts: 3 };
    for (deadline, name) in [(minute, "light"), (minute * 10, "heavy")] {
        let hung =
            (0..20).map(|n| Check { deadline, ..plugin(&format!("hung-{n}"), "hangs", pace) });
        let list = hung.chain([absent("quick", minute, minute)]).collect();
        let plugins = vec![hanging.clone()];
        let (checks, stop) = (checks(directory.path(), list, plugins), CancellationToken::new());
        let began = Instant::now();
        checks.start(&TaskTracker::new(), "web-1", &stop);
        let longest = if deadline < MINUTES { HOLDS_UP * 6 } else { SETTLE + second };
        while checks.ran("quick") == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < longest, "{name}: {:?}", began.elapsed());
        }
        stop.cancel();
    }
    std::fs::write(go, "").expect("written");
}

#[tokio::test]
async fn nothing_runs_again_while_something_of_its_last_run_hangs() {
    let directory = tempfile::tempdir().expect("directory");
    let ran = directory.path().join("ran");
    let command = ["/usr/bin/touch", &ran.display().to_string()].map(ToOwned::to_owned).to_vec();
    let touch = Plugin { name: "touch".into(), command, after: Vec::new() };
    let minute = Duration::from_secs(60);
    let pace = Pace { interval: minute, retry: minute, attempts: 3 };
    let check = plugin("touch", "touch", pace);
    let checks = checks(directory.path(), Vec::new(), vec![touch]);
    let left = Lingering::default();
    let hanging = left.begin("/usr/bin/git, process 7".to_owned());
    tokio::time::pause();
    let result = checks.run(&check, &left).await;
    tokio::time::resume();
    assert_eq!(result.health, Health::Unknown);
    let said = "ago hangs still in /usr/bin/git, process 7, which cannot be ended";
    assert!(result.summary.contains(said), "{}", result.summary);
    assert!(!ran.exists());
    drop(hanging);
    let result = checks.run(&check, &left).await;
    assert_eq!((result.health, ran.exists()), (Health::Ok, true), "{}", result.summary);
}

#[tokio::test]
async fn what_stood_badly_keeps_its_words_over_a_restart_until_it_ran_again() {
    let directory = tempfile::tempdir().expect("directory");
    let minute = Duration::from_secs(60);
    let list = || vec![absent("disk", minute, minute), absent("never", minute, minute)];
    let result = |health, summary: &str| Result {
        health,
        summary: summary.to_owned(),
        findings: vec![Finding::new(Status::Critical, "/", summary).next("disk tree /var")],
        figures: Vec::new(),
    };
    let told = |checks: &Checks, at: usize| {
        let state = checks.state();
        state.of(&state.checks[at])
    };
    let one = checks(directory.path(), list(), Vec::new());
    let check = one.state().checks[0].clone();
    one.take(&check, result(Health::Critical, "/ is full"));
    let soft = told(&one, 0);
    assert_eq!((soft.hard(), soft.status()), (Status::Unspecified, Status::Critical), "{soft:?}");
    one.take(&check, result(Health::Critical, "/ is full"));
    one.take(&check, result(Health::Critical, "/ is full"));
    one.save().await;

    let again = checks(directory.path(), list(), Vec::new());
    let state = told(&again, 0);
    assert_eq!((state.hard(), state.status()), (Status::Critical, Status::Unknown), "{state:?}");
    assert_eq!((state.summary.as_str(), state.checked_us), ("/ is full", 0));
    assert_eq!(state.findings[0].next, "disk tree /var");
    let never = told(&again, 1);
    assert_eq!((never.hard(), never.summary.as_str()), (Status::Unspecified, "has not run yet"));
    again.take(&check, result(Health::Ok, "half full"));
    again.save().await;
    assert_eq!(told(&again, 0).summary, "half full");
    let well = checks(directory.path(), list(), Vec::new());
    assert_eq!(told(&well, 0).summary, "has not run yet");
}

#[tokio::test]
async fn a_memory_that_cannot_be_written_keeps_nothing_from_being_checked() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("checks.json");
    std::fs::create_dir(path.with_file_name("checks.json.new")).expect("in the way");
    let checks = checks(directory.path(), vec![absent("x", SETTLE, SETTLE)], Vec::new());
    let check = Arc::clone(&checks.state().checks[0]);
    let result = checks.run(&check, &Lingering::default()).await;
    assert_eq!(result.health, Health::Unknown);
    assert!(!path.exists());
}
