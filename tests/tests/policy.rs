//! What a host's owner allows counts, whatever a controller lets through.

use hostler_tests::fleet::{Fleet, Place};

#[test]
fn units_and_urls_that_the_policy_does_not_name_are_left_alone() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "[policy]\nunits = [\"nginx*\"]\nurls = [\"http://127.0.0.1:1/**\"]");
    let said = |args: &[&str], code: i32| {
        let said = fleet.ctl(&[args, &["--on", "web-1"]].concat()).exits(code);
        format!("{}{}", said.out, said.err)
    };
    for verb in ["start", "stop", "restart", "reload"] {
        let refused = said(&["systemd", verb, "ssh", "--yes"], 4);
        assert!(refused.contains("does not allow to change ssh.service"), "{refused}");
        assert!(refused.contains("policy.units"), "{refused}");
        // What would be done is not shown either.
        said(&["systemd", verb, "ssh", "--plan"], 4);
    }
    let refused = said(&["http", "check", "http://127.0.0.1:2/x"], 4);
    assert!(refused.contains("policy.urls"), "{refused}");
    // Nobody answers there; but it was asked.
    let asked = said(&["http", "check", "http://127.0.0.1:1/x"], 1);
    assert!(!asked.contains("policy"), "{asked}");
}
