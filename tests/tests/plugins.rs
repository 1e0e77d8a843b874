//! Real plugins of Debian's monitoring-plugins: each of their four verdicts, asked for and as a check.
//! `tests/run` installs them.

use std::fs;

use hostler_tests::{
    fleet::{Fleet, Place},
    process::eventually,
};
use serde_json::Value;

/// Name, arguments of check_procs, its exit status, the verdict, and the exit status of hostlerctl.
const PLUGINS: [(&str, &str, i64, &str, i32); 4] = [
    ("well", "-w 90000 -c 90000", 0, "ok", 0),
    ("many", "-w 0:1 -c 0:90000", 1, "warning", 0),
    ("too-many", "-w 0:1 -c 0:1", 2, "critical", 1),
    ("confused", "-m NOTHING", 3, "unknown", 3),
];

#[test]
fn what_a_plugin_says_is_the_verdict_of_the_probe_and_of_its_check() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let mut stack = "[defaults]\ninterval = \"1s\"\nattempts = 1\n".to_owned();
    for (name, arguments, ..) in PLUGINS {
        let words: Vec<String> = arguments.split(' ').map(|w| format!("\"{w}\"")).collect();
        let command = format!("\"/usr/lib/nagios/plugins/check_procs\", {}", words.join(", "));
        stack += &format!("[[plugin]]\nname = \"{name}\"\ncommand = [{command}]\n");
    }
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    fleet.join("web-1", &[], &format!("stack = \"{}\"", file.display()));
    for (name, _, exit, verdict, code) in PLUGINS {
        let said = fleet.ctl(&["plugin", "run", name, "--on", "web-1", "-o", "json"]).exits(code);
        let said = said.json()[0].clone();
        assert_eq!((&said["status"], &said["data"]["exit_code"]), (&verdict.into(), &exit.into()));
        let summary = said["summary"].as_str().expect("a summary");
        assert!(summary.contains(if exit == 3 { "Metric must be" } else { "PROCS" }), "{said}");
        let procs = |f: &Value| f["label"] == "procs" && f["value"].as_f64() > Some(1.0);
        let figures = said["data"]["figures"].as_array().cloned().unwrap_or_default();
        assert_eq!(figures.iter().any(procs), exit != 3, "{said}");
    }
    let hard = |name: &str| {
        let health = fleet.ctl(&["health", "web-1", "-o", "json"]).json();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let check = checks.into_iter().find(|c| c["state"]["check"] == format!("plugin:{name}"));
        let state = check.map(|c| c["state"].clone()).unwrap_or_default();
        // One that never ran is well as far as anybody knows.
        let ran = state["checked_us"].as_i64().is_some_and(|at| at > 0);
        ran.then(|| state["hard"].as_str().unwrap_or_default().to_owned())
    };
    for (name, _, _, verdict, _) in PLUGINS {
        eventually(&format!("{name} is {verdict}"), || hard(name).as_deref() == Some(verdict));
    }
    let problems = fleet.ctl(&["problems", "-o", "json"]).json();
    let told: Vec<_> = problems.as_array().expect("a list").iter().collect();
    for (name, _, _, verdict, _) in PLUGINS.iter().filter(|p| p.3 != "ok") {
        let check = format!("plugin:{name}");
        assert!(told.iter().any(|p| p["check"] == check && p["status"] == *verdict), "{problems}");
    }
}
