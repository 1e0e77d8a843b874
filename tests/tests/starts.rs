//! A program that cannot start says why in one sentence.

use std::{fs, net::TcpListener, path::Path};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, built, command, eventually},
};

/// What a controller says that must not start.
fn refused(fleet: &Fleet) -> String {
    let last = ends(fleet, "hostler-controller", "controller.toml", "run");
    assert_eq!(last.len(), 1, "{last:?}");
    last.concat()
}

/// The lines of a program that ends by itself, the last of which is its reason.
fn ends(fleet: &Fleet, program: &str, config: &str, verb: &str) -> Vec<String> {
    let mut start = command(built(program));
    let output = start.arg("--config").arg(fleet.path(config)).arg(verb).output();
    let output = output.expect("it can be started");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    said.trim().lines().map(str::to_owned).collect()
}

fn sql(store: &Path, statement: &str) {
    let done = command("/usr/bin/sqlite3").arg(store).arg(statement).output().expect("sqlite3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let other = TcpListener::bind(fleet.address()).expect("the port");
    let said = refused(&fleet);
    assert!(said.contains(fleet.address()) && said.contains("key listen"), "{said}");
    assert!(said.contains("choose another port"), "{said}");
    drop(other);
    fleet.start_controller();
    fleet.ctl(&["status"]).exits(0);
}

#[test]
fn a_log_for_programs_is_one_object_a_line() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let log = fleet.path("json.log");
    let config = fleet.path("controller.toml");
    let mut run = command(built("hostler-controller"));
    let controller =
        Process::start(run.arg("--config").arg(config).args(["--log-json", "run"]), &log);
    eventually("it runs", || controller.log().contains("the controller runs"));
    for line in controller.log().lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(object["level"].is_string() && object["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_store_of_a_newer_controller_is_not_touched() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    sql(
        &fleet.path("controller/store.sqlite"),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'newer', true, '', 0)",
    );
    let said = refused(&fleet);
    assert!(said.contains("version 9999") && said.contains("; "), "{said}");
}

#[test]
fn a_damaged_or_lost_fleet_is_not_replaced_by_another() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let file = fleet.path("controller/fleet.toml");
    let whole = fs::read_to_string(&file).expect("a fleet");
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    let said = refused(&fleet);
    assert!(said.contains("fleet.toml is damaged; restore it from a backup"), "{said}");
    fs::remove_file(&file).expect("removed");
    let said = refused(&fleet);
    assert!(said.contains("fleet.toml does not exist; run hostler-controller init"), "{said}");
    fs::write(&file, whole).expect("restored");
    fleet.start_controller();
    fleet.ctl(&["status"]).exits(0);
}

#[test]
fn a_port_that_is_taken_for_metrics_or_by_a_listening_agent_is_named_with_its_key() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("an address");
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.configure("web-1", &format!("listen = \"{taken}\""));
    fleet.enroll("web-1", &fleet.token(&["--host", "web-1"])).expect("enrolled");
    fleet.take_controller().stop();
    let config = fleet.path("controller.toml");
    let before = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, format!("{before}\nmetrics = \"{taken}\"\n")).expect("written");
    for (said, key) in [
        (refused(&fleet), "key metrics"),
        (ends(&fleet, "hostler-agent", "web-1.toml", "run").join("\n"), "key listen"),
    ] {
        assert!(said.contains(&taken.to_string()) && said.contains(key), "{said}");
        assert!(said.contains("end what listens there"), "{said}");
    }
}

#[test]
fn a_broken_configuration_is_named_with_the_place_in_one_sentence() {
    let fleet = Fleet::new(Place::Loopback, "");
    let stack = fleet.path("stack.toml");
    for (broken, place) in [
        ("listen = ", ":1:"),
        ("\n\nlabels = { role = \"web\"", ":3:"),
        ("[link\n", ":1:"),
        ("stop = 5", ":1:8"),
        ("\u{0}", ":1:"),
    ] {
        fs::write(fleet.path("broken.toml"), broken).expect("written");
        for program in ["hostler-agent", "hostler-controller"] {
            let said = ends(&fleet, program, "broken.toml", "check-config");
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains("broken.toml:"), "{said:?}");
            let known = program == "hostler-agent" || !broken.contains("stop");
            assert!(!known || said[0].contains(&format!("broken.toml{place}")), "{said:?}");
        }
    }
    fleet.configure("web-1", &format!("stack = \"{}\"", stack.display()));
    for (broken, place) in [("[[unit]]\nname = \"a", ":2:"), ("[[unit]\n", ":1:")] {
        fs::write(&stack, broken).expect("written");
        let said = ends(&fleet, "hostler-agent", "web-1.toml", "check-config");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&format!("stack.toml{place}")), "{said:?}");
    }
}

#[test]
fn a_controller_that_was_made_anew_is_told_from_one_that_is_away() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.take_controller().stop();
    let away = fleet.ctl(&["status"]).exits(5);
    assert!(away.err.contains("no answer from the controller"), "{away:?}");
    fs::remove_dir_all(fleet.path("controller")).expect("removed");
    let mut init = command(built("hostler-controller"));
    init.arg("--config").arg(fleet.path("controller.toml")).args(["init", "--fleet", "test"]);
    let made = init.arg("--context").arg(fleet.path("new.toml")).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    fleet.start_controller();
    let other = fleet.ctl(&["status"]).exits(5);
    let words = "does not prove that it is a controller of this context's fleet";
    assert!(other.err.contains(words) && other.err.contains("invalid peer"), "{other:?}");
    assert!(other.err.contains("hostlerctl context show"), "{other:?}");
}
