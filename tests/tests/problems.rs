//! What is wrong with a fleet, as people and monitoring systems see it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{command, eventually},
    terminal::ROWS,
};
use serde_json::Value;

const CHECKED: &str = r#"
[defaults]
interval = "1s"
retry = "1s"
attempts = 2
[[plugin]]
name = "file"
command = ["/usr/bin/test", "-e", "FILE"]
[check]
disk = { off = true }
resources = { off = true }
"#;

/// Joins a host with a check that is well as long as a file exists, which is given back; whatever else
/// is with this machine does not count.
fn checked(fleet: &mut Fleet, host: &str) -> std::path::PathBuf {
    let (file, stack) = (fleet.path(&format!("{host}.file")), fleet.path(&format!("{host}.stack")));
    fs::write(&file, "").expect("written");
    fs::write(&stack, CHECKED.replace("FILE", &file.display().to_string())).expect("written");
    fleet.join(host, &["role=web"], &format!("stack = \"{}\"", stack.display()));
    file
}

fn problems(fleet: &Fleet) -> Vec<Value> {
    let list = fleet.ctl(&["problems", "-o", "json"]).json();
    let list = list.as_array().expect("a list").iter();
    // Other tests keep the processors busy.
    list.filter(|p| p["check"] != "resources").cloned().collect()
}

#[test]
fn a_problem_is_told_once_it_is_hard_and_people_can_say_that_they_know() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    fleet.ctl(&["ack", "web-1", "plugin:file", "--comment", "x"]).exits(1);
    fs::remove_file(&file).expect("removed");
    eventually("it is a problem", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    let status = fleet.ctl(&["status"]).exits(0);
    assert!(status.out.contains("plugin:file") && status.out.contains("warning"), "{status:?}");
    let counts = fleet.ctl(&["status", "-o", "json"]).json();
    assert_eq!((&counts["up"], &counts["degraded"]), (&1.into(), &1.into()));
    fleet.ctl(&["hosts", "--on", "check(plugin:*)=warning"]).exits(0);
    let slip = fleet.ctl(&["history", "web-1", "plugin:fiel"]).exits(2);
    assert!(slip.err.contains("did you mean \"plugin:file\"?"), "{slip:?}");
    let none = fleet.ctl(&["history", "web-1", "zz"]).exits(2);
    assert!(none.err.contains("hostlerctl health web-1"), "{none:?}");

    let acknowledge = ["ack", "web-1", "plugin:file", "--comment", "on it"];
    fleet.ctl(&acknowledge).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "acknowledged by admin: on it");
    fleet.ctl(&["ack", "web-1", "plugin:file", "--undo"]).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "");
    fs::write(&file, "").expect("written");
    eventually("it recovers", || problems(&fleet).is_empty());

    let announce = ["downtime", "add", "--on", "role=web", "--for", "1h", "--comment", "move"];
    let announced = fleet.ctl(&[&announce[..], &["-o", "json"]].concat()).exits(0).json();
    fs::remove_file(&file).expect("removed");
    let expected = format!("in downtime {}: move", announced["id"].as_str().expect("an id"));
    eventually("it was expected", || problems(&fleet).iter().any(|p| p["handled"] == expected));
    let id = announced["id"].as_str().expect("an id");
    fleet.ctl(&["downtime", "end", id]).exits(0);
    assert_eq!(problems(&fleet)[0]["handled"], "");

    fleet.add_operator("eve", "viewer", "all");
    fleet.ctl_as("eve", &acknowledge).exits(4);
    fleet.ctl_as("eve", &announce).exits(4);
    let momentary = ["downtime", "add", "--on", "state=up", "--for", "1h", "--comment", "x"];
    assert!(fleet.ctl(&momentary).exits(2).err.contains("no state=…"));
    // A downtime that covers no host now is not everybody's to end.
    let later = fleet.ctl(&[&announce[..], &["-o", "json"]].concat()).exits(0).json();
    fleet.ctl(&["host", "label", "web-1", "role=db"]).exits(0);
    let end = ["downtime", "end", later["id"].as_str().expect("an id")];
    fleet.ctl_as("eve", &end).exits(4);
    fleet.ctl(&end).exits(0);
    let done = |operation: &str| {
        let fits = |r: &&Value| r["operation"] == operation && r["outcome"] == "ok";
        fleet.audit().iter().filter(fits).count()
    };
    assert_eq!((done("health.acknowledge"), done("downtime.add"), done("downtime.end")), (1, 2, 2));
}

#[test]
fn what_people_say_of_a_problem_ends_when_its_time_is_over() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    let flexible =
        ["downtime", "add", "--on", "web-1", "--for", "1h", "--lasting", "8s", "--comment", "move"];
    fleet.ctl(&flexible).exits(0);
    let handled = |fleet: &Fleet| {
        let found = problems(fleet).into_iter().find(|p| p["check"] == "plugin:file");
        found.map(|p| p["handled"].as_str().unwrap_or_default().to_owned())
    };
    let listed = |fleet: &Fleet| fleet.ctl(&["downtime", "list", "-o", "json"]).exits(0).json();
    let begins = |fleet: &Fleet, with: &str| handled(fleet).is_some_and(|h| h.starts_with(with));
    assert_eq!(listed(&fleet)[0]["waiting"], 1);
    fs::remove_file(&file).expect("removed");
    eventually("the downtime begins with it", || begins(&fleet, "in downtime"));
    eventually("that is written down", || listed(&fleet)[0]["running"] == 1);
    eventually("and ends", || handled(&fleet).as_deref() == Some(""));
    assert_eq!(listed(&fleet), Value::Array(Vec::new()), "it is used up");
    fs::write(&file, "").expect("written");
    eventually("it recovers", || handled(&fleet).is_none());
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    fs::remove_file(&file).expect("removed");
    eventually("it comes again", || handled(&fleet).is_some());
    assert_eq!(handled(&fleet).as_deref(), Some(""), "it began once, and that was before");
    fleet.ctl(&["ack", "web-1", "plugin:file", "--comment", "on it", "--for", "4s"]).exits(0);
    assert!(begins(&fleet, "acknowledged by admin: on it"));
    eventually("it expires", || handled(&fleet).as_deref() == Some(""));
}

#[test]
fn a_watched_status_shows_what_changes_and_goes_on_when_its_controller_is_back() {
    let mut fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    let lines = fleet.ctl_begins(&["status", "--watch", "-o", "jsonl"], "watch.out");
    let mut watch = fleet.ctl_at_terminal(&["status", "--watch"]);
    watch.shows("2 hosts, 2 up");
    fleet.take_agent("web-2").stop();
    watch.shows("its agent was stopped on purpose");
    fleet.take_controller().kill();
    watch.shows("no answer since ");
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    let before = watch.seen().len();
    eventually("it goes on", || {
        let page = watch.seen().split_off(before);
        page.contains("2 hosts, 1 up") && !page.ends_with("no answer since")
    });
    let pages = watch.seen();
    let highest = pages.split("\x1b[2J").map(|page| page.matches('\n').count()).max();
    assert!(highest < Some(usize::from(ROWS)), "{pages}");
    watch.types("\x03");
    watch.ended();
    let reports = |log: &str| {
        log.lines()
            .filter(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| v["hosts"] == 2))
            .count()
    };
    let so_far = reports(&lines.log());
    assert!(so_far > 0);
    eventually("lines come again", || reports(&lines.log()) > so_far);
}

#[test]
fn what_happened_while_the_controller_was_away_is_told_afterwards() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    eventually("the check ran", || {
        let health = fleet.ctl(&["health", "web-1", "-o", "json"]).json();
        let of = |c: &Value| c["state"]["check"] == "plugin:file" && c["state"]["checked_us"] != 0;
        health["checks"].as_array().is_some_and(|checks| checks.iter().any(of))
    });
    fleet.take_controller().kill();
    // Two results make a hard state, and two more that it has passed.
    fs::remove_file(&file).expect("removed");
    let memory = fleet.path("state-web-1/checks.json");
    let remembered =
        |text: &str| fs::read_to_string(&memory).is_ok_and(|memory| memory.contains(text));
    eventually("it is hard", || remembered(r#""hard":"warning""#));
    fs::write(&file, "").expect("written");
    eventually("it has recovered", || !remembered(r#""hard":"warning""#));
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    let turns = |fleet: &Fleet| {
        let history = fleet.ctl(&["history", "web-1", "plugin:file", "-o", "json"]).json();
        history["turns"].as_array().map_or(0, Vec::len)
    };
    eventually("both changes are told", || turns(&fleet) == 2);
    fleet.take_controller().kill();
    fleet.start_controller();
    fleet.wait_for("web-1", "up");
    assert_eq!(turns(&fleet), 2, "nothing is told twice");
}

#[test]
fn who_was_stopped_while_the_controller_was_away_is_told_apart_from_who_was_killed() {
    let mut fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_controller().kill();
    fleet.take_agent("web-1").stop();
    fleet.take_agent("web-2").kill();
    for host in ["web-1", "web-2"] {
        fleet.start_agent(host);
    }
    fleet.start_controller();
    let told = |host: &str| {
        fleet.wait_for(host, "up");
        let history = fleet.ctl(&["history", host, "-o", "json"]).exits(0).json();
        let turns = history["turns"].as_array().cloned().unwrap_or_default();
        let of_host = turns.iter().filter(|t| t["check"].as_str().unwrap_or_default().is_empty());
        let of =
            |t: &Value| (t["was"].clone(), t["summary"].as_str().unwrap_or_default().to_owned());
        of_host.map(of).next().unwrap_or_default()
    };
    let (stopped, killed) = (told("web-1"), told("web-2"));
    assert_eq!((&stopped.0, &killed.0), (&"warning".into(), &"critical".into()));
    assert!(stopped.1.ends_with("; the agent had been stopped on purpose"), "{stopped:?}");
    assert!(killed.1.ends_with("without saying so: it was killed or crashed"), "{killed:?}");
}

#[test]
fn a_host_that_is_enrolled_anew_tells_nothing_twice() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    let file = checked(&mut fleet, "web-1");
    let health = |fleet: &Fleet| fleet.ctl(&["health", "web-1", "-o", "json"]).json();
    let ran = |fleet: &Fleet| {
        let of = |c: &Value| c["state"]["check"] == "plugin:file" && c["state"]["hard"] == "ok";
        health(fleet)["checks"].as_array().is_some_and(|checks| checks.iter().any(of))
    };
    eventually("the check is well", || ran(&fleet));
    fs::remove_file(&file).expect("removed");
    eventually("it is a problem", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    let turns = |fleet: &Fleet| {
        let history = fleet.ctl(&["history", "web-1", "plugin:file", "-o", "json"]).json();
        history["turns"].as_array().map_or(0, Vec::len)
    };
    eventually("it is written down", || turns(&fleet) == 1);
    fleet.take_agent("web-1").stop();
    let token = fleet.token(&["--host", "web-1", "--replace"]);
    fleet.enroll_by_force("web-1", &token).expect("enrolled");
    let before = health(&fleet)["heard_us"].as_i64();
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    eventually("it is heard of", || health(&fleet)["heard_us"].as_i64() > before);
    eventually("it stands", || problems(&fleet).iter().any(|p| p["check"] == "plugin:file"));
    assert_eq!(turns(&fleet), 1);
}

#[test]
fn an_agent_that_is_stopped_on_purpose_is_no_emergency_and_one_that_dies_is() {
    let mut fleet = Fleet::of(&[("web-1", "role=web"), ("web-2", "role=web")]);
    fleet.take_agent("web-1").stop();
    fleet.take_agent("web-2").kill();
    let of = |fleet: &Fleet, host: &str| problems(fleet).into_iter().find(|p| p["subject"] == host);
    let both = ["web-1", "web-2"];
    eventually("both are problems", || both.iter().all(|host| of(&fleet, host).is_some()));
    let [stopped, dead] = both.map(|host| of(&fleet, host).expect("listed"));
    assert_eq!(stopped["summary"], "its agent was stopped on purpose");
    // Selectors know the words of the column LINK, and "down" is both.
    let names = |on: &str| fleet.ctl(&["hosts", "--on", on, "-o", "name"]).exits(0).out;
    assert_eq!(names("state=stopped"), "web-1\n");
    assert_eq!(names("state=down"), "web-1\nweb-2\n");
    assert_eq!((&stopped["status"], &dead["status"]), (&"warning".into(), &"critical".into()));
    let became = |host: &str| {
        let history = fleet.ctl(&["history", host, "-o", "json"]).exits(0).json();
        let turns = history["turns"].as_array().expect("turns").clone();
        turns.iter().find(|t| t["check"] == "").expect("of its link")["became"].clone()
    };
    assert_eq!(both.map(became), ["warning", "critical"], "and so it stays in their history");
    fleet.start_agent("web-1");
    fleet.wait_for("web-1", "up");
    eventually("it is well", || of(&fleet, "web-1").is_none());
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    text
}

#[test]
fn a_monitoring_system_sees_the_checks_of_hosts_that_are_there() {
    let address = format!("127.9.254.{}:9443", std::process::id() % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("metrics = \"{address}\""));
    for host in ["web-1", "web-2", "web-3"] {
        checked(&mut fleet, host);
    }
    let counted = || {
        let text = get(&address, "/metrics");
        let counts =
            text.lines().filter_map(|l| l.strip_prefix("hostler_checks{")?.split(' ').nth(1));
        counts.map(|count| count.parse::<usize>().expect("a number")).sum::<usize>()
    };
    let of = |fleet: &Fleet, host: &str| {
        let health = fleet.ctl(&["health", host, "-o", "json"]).json();
        health["checks"].as_array().map_or(0, Vec::len)
    };
    eventually("all are counted", || {
        let all = ["web-1", "web-2", "web-3"].map(|host| of(&fleet, host));
        all.iter().all(|checks| *checks > 0) && counted() == all.iter().sum::<usize>()
    });
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    fleet.ctl(&["host", "revoke", "web-3", "--reason", "x", "--yes"]).exits(0);
    eventually("those of one are", || counted() == of(&fleet, "web-1"));
}

#[test]
fn a_monitoring_system_sees_hosts_certificates_and_what_was_done() {
    let address = format!("127.9.255.{}:9443", std::process::id() % 250 + 1);
    let mut fleet = Fleet::new(Place::Loopback, &format!("metrics = \"{address}\""));
    let stack = fleet.path("web-1.stack");
    let plugin = "[defaults]\ninterval = \"1s\"\n[[plugin]]\nname = \"load\"\n\
                  command = [\"/bin/echo\", \"OK | load=3\"]\n";
    fs::write(&stack, plugin).expect("written");
    fleet.join("web-1", &[], &format!("stack = \"{}\"", stack.display()));
    fleet.join("web-2", &[], "");
    fleet.take_agent("web-2").kill();
    fleet.wait_for("web-2", "down");
    fleet.ctl(&["host", "processes", "--on", "web-1"]).exits(0);
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    let figure = "hostler_check_figure{host=\"web-1\",check=\"plugin:load\",figure=\"load\"";
    eventually("a figure is there", || get(&address, "/metrics").contains(figure));
    let text = get(&address, "/metrics");
    for line in [
        "hostler_hosts{connection=\"up\"} 1",
        "hostler_hosts{connection=\"down\"} 1",
        "hostler_links 1",
        "hostler_operations_total{operation=\"host.processes\",outcome=\"ok\"} 1",
        "hostler_operation_seconds_count{operation=\"host.processes\"} 1",
        "hostler_request_seconds_count 1",
        "hostler_link_setup_seconds_count 2",
        "hostler_link_life_seconds_count{lost=\"closed\"} 1",
        "hostler_certificate_end_timestamp_seconds{kind=\"host\",name=\"web-1\"}",
        "hostler_certificate_end_timestamp_seconds{kind=\"authority\"",
        "hostler_checks{status=\"unknown\"} ",
        "hostler_checks{status=\"pending\"} ",
        "hostler_check_figures_omitted 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let mut hide = command("/usr/bin/sqlite3");
    hide.args(["-cmd", ".timeout 10000"]).arg(fleet.path("controller/store.sqlite"));
    let hidden = hide.arg("ALTER TABLE audit RENAME TO hidden").status().expect("sqlite3");
    assert!(hidden.success());
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 503"), "nothing can be recorded");
}
