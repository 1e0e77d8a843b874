//! A disk that fills: what the checks call too full, a diagnosis does, too.

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};
use serde_json::Value;

use super::{fleet, next, until, well};

/// How bad the check of h1's disks stands.
fn check(fleet: &Fleet) -> Value {
    let health = fleet.ctl(&["health", "h1", "-o", "json"]).json();
    let checks = health["checks"].as_array().cloned().unwrap_or_default();
    let disk = checks.into_iter().find(|check| check["state"]["check"] == "disk");
    disk.map(|check| check["state"]["hard"].clone()).unwrap_or_default()
}

#[test]
fn a_disk_that_its_check_calls_critical_is_a_cause_though_something_is_left() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    lab.script(&["fill", "h1", "110"]);
    eventually("the check is critical", || check(&fleet) == "critical");
    for service in [&["disk"][..], &[]] {
        let found = until(&fleet, service, "/ is 96.");
        assert_eq!(found["status"], "critical", "{found}");
        assert!(next(&found).starts_with("disk tree /"), "{found}");
        assert!(found["evidence"].to_string().contains("statvfs"), "{found}");
    }
    lab.script(&["unfill", "h1"]);
    well(&fleet, &["disk"]);
}

#[test]
fn a_disk_without_an_inode_is_a_cause_whatever_its_space() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let fill = "import os\nos.mkdir('/var/inodes')\nleft = os.statvfs('/').f_favail\n\
                [open(f'/var/inodes/{n}', 'x').close() for n in range(left - 50)]\n";
    lab.exec("h1", &["python3", "-c", fill]);
    let found = until(&fleet, &["disk"], "% of the inodes of / are used");
    assert_eq!(found["status"], "critical", "{found}");
    assert!(next(&found).starts_with("disk tree /"), "{found}");
    lab.exec("h1", &["rm", "-rf", "/var/inodes"]);
    well(&fleet, &["disk"]);
}
