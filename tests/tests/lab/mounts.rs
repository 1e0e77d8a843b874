//! File systems whose server is gone, and files that were deleted and are still open.

use std::time::{Duration, Instant};

use hostler_tests::{
    lab::{Lab, in_host},
    process::{Process, eventually, within},
};
use serde_json::Value;

use super::{fleet, fleet_with, on};

const DEAD: &str = "/srv/dead";

/// How checks stand that are told of a host.
fn state(fleet: &hostler_tests::fleet::Fleet, check: &str) -> Value {
    let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
    let checks = health["checks"].as_array().cloned().unwrap_or_default();
    let found = checks.into_iter().find(|c| c["state"]["check"] == check);
    found.map(|c| c["state"].clone()).unwrap_or_default()
}

/// Threads and processes of the agent.
fn tasks(lab: &Lab) -> usize {
    let show = ["systemctl", "show", "--value", "--property=TasksCurrent", "hostler-agent"];
    lab.exec("h1", &show).trim().parse().expect("a number")
}

#[test]
fn a_mount_whose_server_is_gone_is_told_and_holds_up_nothing_else() {
    let lab = Lab::take();
    // More of them than run at a time, and each hangs.
    let hanging: String = (0..8)
        .map(|n| {
            format!(
                "[check.hanging-{n}]\noperation = \"git.status\"\nparameters = {{ path = \"{DEAD}\" }}\n\
                 interval = \"5s\"\nretry = \"5s\"\n"
            )
        })
        .chain([format!(
            "[[plugin]]\nname = \"wrapped\"\ncommand = [\"/bin/sh\", \"-c\", \"stat {DEAD}/x; exit 0\"]\n\
             [check.mounted]\noperation = \"disk.usage\"\nparameters = {{ mount = [\"{DEAD}\"] }}\n\
             [check.\"plugin:wrapped\"]\ninterval = \"5s\"\nretry = \"5s\"\n"
        )])
        .collect();
    let log = std::env::temp_dir().join(format!("dead-mount-{}", std::process::id()));
    let program = include_str!("../../lab/bin/dead-mount");
    lab.write("h1", "/root/dead-mount", program);
    let mut start = in_host("h1", &["python3", "/root/dead-mount", DEAD]);
    let mut dead = Process::start(&mut start, &log);
    eventually("it is mounted", || dead.log().contains("mounted"));
    let fleet = fleet_with(&lab, &hanging);

    within(Duration::from_secs(60), "the disk's check tells it", || {
        let disk = state(&fleet, "mounted");
        disk["findings"].to_string().contains(&format!("{DEAD} did not answer within 3 s"))
    });
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    within(Duration::from_secs(90), "other checks go on", || {
        state(&fleet, "unit:nginx")["hard"] == "critical"
    });
    lab.exec("h1", &["systemctl", "start", "nginx"]);
    // Of git.status a thread hangs, of the plugin a program that its shell started.
    for check in ["hanging-0", "plugin:wrapped"] {
        let said = || state(&fleet, check)["summary"].to_string();
        within(Duration::from_secs(150), "a check that hangs is not run again", || {
            said().contains("hangs still in ")
        });
        let heard = || state(&fleet, check)["checked_us"].to_string();
        let (tasks, before) = (tasks(&lab), heard());
        within(Duration::from_secs(60), "it was to run once more", || heard() != before);
        let now = self::tasks(&lab);
        assert!(now <= tasks + 4, "{check}: {tasks} tasks, then {now}");
    }
    assert!(state(&fleet, "mounted")["summary"].to_string().contains("did not answer"));

    let tree = on(&fleet, "h1", &["disk", "tree", "/srv"], 0);
    assert!(tree["data"]["other_filesystems"].to_string().contains(DEAD), "{tree}");
    let hung = fleet.ctl(&["disk", "tree", DEAD, "--on", "h1", "--timeout", "1s"]);
    assert_ne!(hung.code, 0, "{hung:?}");
    let began = Instant::now();
    fleet.ctl(&["host", "facts", "--on", "h1"]).exits(0);
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());

    lab.exec("h1", &["umount", "--force", "--lazy", DEAD]);
    dead.ended();
    std::fs::remove_file(log).expect("its log");
}

#[test]
fn a_deleted_file_that_is_still_open_is_found_in_whatever_namespace_it_was_opened() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let hold = "head -c 8388608 /dev/zero > /var/tmp/gone; exec 3< /var/tmp/gone; rm /var/tmp/gone; \
                exec sleep 1000";
    for (unit, private) in [("holds", "no"), ("holds-alone", "yes")] {
        let run = format!("--unit={unit}");
        let private = format!("--property=PrivateTmp={private}");
        let held = ["systemd-run", "--quiet", "--collect", &run, &private, "sh", "-c", hold];
        lab.exec("h1", &held);
    }
    eventually("both are found with their units", || {
        let tree = fleet.ctl(&["disk", "tree", "/var/tmp", "--on", "h1", "-o", "json"]).json();
        let deleted = tree[0]["data"]["deleted"].as_array().cloned().unwrap_or_default();
        ["holds.service", "holds-alone.service"].iter().all(|unit| {
            let of_it = |d: &&Value| d["unit"] == *unit && d["path"] == "/var/tmp/gone";
            deleted.iter().any(|d| of_it(&d) && d["bytes"].as_u64() >= Some(8 << 20))
        })
    });
    lab.exec("h1", &["systemctl", "stop", "holds", "holds-alone"]);
}
