//! Where a host is that is away: down, unreachable, its agent dead or stopped; and where it was.

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};
use serde_json::Value;

use super::fleet;

fn problems(fleet: &Fleet) -> Vec<Value> {
    let said = fleet.ctl(&["problems", "--on", "all", "-o", "json"]).json();
    let of_hosts = |p: &&Value| p["check"] == "";
    said.as_array().expect("a list").iter().filter(of_hosts).cloned().collect()
}

/// What the history of a host's link tells last.
fn last_told(fleet: &Fleet, host: &str) -> String {
    let history = fleet.ctl(&["history", host, "-o", "json"]).exits(0).json();
    let turns = history["turns"].as_array().expect("turns").clone();
    let of_host = turns.iter().find(|t| t["check"].as_str().unwrap_or_default().is_empty());
    of_host.map(|t| t["summary"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[test]
fn down_unreachable_dead_and_stopped_are_told_apart_and_so_is_where_a_host_was() {
    let lab = Lab::take();
    let mut fleet = fleet(&lab);

    lab.script(&["cut", "h2", "drop"]);
    fleet.wait_for("h2", "down");
    let found = problems(&fleet);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["summary"].as_str().expect("text").starts_with("down: "), "{found:?}");
    lab.script(&["heal", "h2"]);
    fleet.wait_for("h2", "up");
    assert!(last_told(&fleet, "h2").contains("only unreachable"), "{}", last_told(&fleet, "h2"));

    for host in ["h1", "h2"] {
        lab.script(&["cut", host, "drop"]);
    }
    for host in ["h1", "h2"] {
        fleet.wait_for(host, "unreachable");
    }
    let found = problems(&fleet);
    assert_eq!((found.len(), found[0]["hosts"].as_array().map(Vec::len)), (1, Some(2)));
    let status = fleet.ctl(&["status", "-o", "json"]).json();
    assert_eq!((&status["unreachable"], &status["down"]), (&2.into(), &0.into()), "{status}");
    for host in ["h1", "h2"] {
        lab.script(&["heal", host]);
        fleet.wait_for(host, "up");
    }

    // Its unit would start it again before anybody misses it.
    let once = "/run/systemd/system/hostler-agent.service.d";
    lab.exec("h2", &["mkdir", "--parents", once]);
    lab.write("h2", &format!("{once}/once.conf"), "[Service]\nRestart=no\n");
    lab.exec("h2", &["systemctl", "daemon-reload"]);
    lab.exec("h2", &["systemctl", "kill", "--signal=KILL", "hostler-agent"]);
    fleet.wait_for("h2", "down");
    let found = problems(&fleet);
    let said = found[0]["summary"].as_str().expect("text");
    assert!(said.contains("its agent ended without a word, the host itself did not"), "{said}");
    lab.start_agent("h2");
    fleet.wait_for("h2", "up");
    assert!(last_told(&fleet, "h2").contains("the host ran all the time"));

    lab.exec("h2", &["systemctl", "stop", "hostler-agent"]);
    fleet.wait_for("h2", "stopped");
    assert_eq!(problems(&fleet)[0]["status"], "warning");
    lab.start_agent("h2");
    fleet.wait_for("h2", "up");

    lab.script(&["halt", "h2"]);
    fleet.wait_for("h2", "stopped");
    let found = problems(&fleet);
    let said = found[0]["summary"].as_str().expect("text");
    assert!(said.starts_with("the host is going down"), "{said}");
    lab.script(&["boot", "h2"]);
    lab.start_agent("h2");
    fleet.wait_for("h2", "up");

    lab.script(&["kill", "h2"]);
    eventually("its end is noticed", || fleet.host("h2")["connection"] != "up");
    lab.script(&["boot", "h2"]);
    lab.start_agent("h2");
    fleet.wait_for("h2", "up");
    assert!(last_told(&fleet, "h2").contains("it booted meanwhile"));

    fleet.take_controller().kill();
    lab.script(&["cycle", "h2"]);
    lab.start_agent("h2");
    fleet.start_controller();
    fleet.wait_for("h2", "up");
    fleet.wait_for("h1", "up");
    let told = last_told(&fleet, "h2");
    assert!(told.contains("while there was no controller"), "{told}");
    assert!(told.ends_with("it crashed or lost power"), "{told}");
    assert!(!last_told(&fleet, "h1").contains("no controller"), "it did not notice anything");

    fleet.take_controller().kill();
    lab.script(&["halt", "h2"]);
    lab.script(&["boot", "h2"]);
    lab.start_agent("h2");
    lab.exec("h1", &["systemctl", "restart", "hostler-agent"]);
    fleet.start_controller();
    fleet.wait_for("h2", "up");
    fleet.wait_for("h1", "up");
    let told = last_told(&fleet, "h2");
    assert!(told.ends_with("it had been shut down or booted anew on purpose"), "{told}");
    let told = last_told(&fleet, "h1");
    assert!(told.ends_with("; the agent had been stopped on purpose"), "{told}");
}
