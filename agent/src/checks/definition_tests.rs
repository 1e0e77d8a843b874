//! Which checks a stack file makes.

use super::*;

fn read(text: &str) -> Result<Vec<Check>, String> {
    let stack: Stack = toml::from_str(text).map_err(|e| e.to_string())?;
    checks(&stack, true, Catalogue::embedded()).map_err(|e| e.to_string())
}

fn names(text: &str) -> Vec<String> {
    read(text).expect(text).iter().map(|c| c.name.to_string()).collect()
}

#[test]
fn a_host_without_a_stack_file_has_checks() {
    assert_eq!(names(""), ["disk", "host", "resources", "units"]);
}

#[test]
fn who_looks_beside_a_check_asks_what_the_check_asks() {
    use hostler_proto::operation::DiskUsage;
    let bounds = |text: &str| {
        let list = read(text).expect(text);
        let request = asked::<DiskUsage>(&list, "disk", Catalogue::embedded()).expect(text);
        (request.warning_percent, request.critical_percent)
    };
    assert_eq!(bounds(""), (85, 95));
    assert_eq!(bounds("[check.disk]\nparameters = { warning-percent = 70 }"), (70, 95));
    assert_eq!(bounds("[check.disk]\noff = true"), (85, 95));
}

#[test]
fn a_busy_minute_is_looked_at_again_after_a_minute() {
    let checks = read("").expect("checks");
    let resources = checks.iter().find(|c| c.name.as_str() == "resources").expect("there");
    assert_eq!((resources.pace.attempts, resources.pace.retry), (5, resources.pace.interval));
}

#[test]
fn what_the_stack_names_is_checked_and_every_check_can_be_changed_or_switched_off() {
    let text = r#"
        [[unit]]
        name = "nginx.service"
        [[http]]
        name = "backend"
        url = "http://127.0.0.1:8000/docs"
        after = ["unit:nginx"]
        [check.disk]
        interval = "5m"
        parameters = { warning-percent = 70 }
        [check.resources]
        off = true
        [check.logs-disk]
        operation = "disk.usage"
        parameters = { mount = ["/var/log"] }
        attempts = 1
    "#;
    let checks = read(text).expect("checks");
    let names: Vec<_> = checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["disk", "host", "http:backend", "logs-disk", "unit:nginx", "units"]);
    assert_eq!(checks[0].pace.interval, Duration::from_secs(300));
    assert_eq!((checks[3].pace.attempts, checks[2].after[0].as_str()), (1, "unit:nginx"));
}

/// Everything that a stack file can name.
const FULL: &str = r#"
    [[unit]]
    name = "nginx.service"
    [[http]]
    name = "backend"
    url = "http://127.0.0.1:8000/docs"
    [[postgres]]
    name = "main"
    url = "postgres://hostler@127.0.0.1/app"
    [[redis]]
    name = "main"
    url = "redis://127.0.0.1/0"
    [[celery]]
    name = "app"
    broker = "main"
    [pm2]
    [nginx]
    status_url = "http://127.0.0.1/nginx_status"
    access_log = "/var/log/nginx/access.log"
    [[logs]]
    name = "app"
    paths = ["/opt/app/logs/*.log"]
    [[git]]
    name = "app"
    path = "/opt/app"
    [[virtualenv]]
    name = "app"
    path = "/opt/app/.venv"
    [[frontend]]
    name = "web"
    path = "/opt/web"
    [[backups]]
    name = "app"
    directory = "/opt/app/backups"
    newer_than = "50h"
    [[plugin]]
    name = "load"
    command = ["/usr/lib/nagios/plugins/check_load"]
"#;

#[test]
fn what_every_default_check_judges_by_can_be_changed() {
    let moved = [
        ("celery-queues:app", "critical = 500, warning = 50"),
        ("celery:app", "timeout-ms = 500"),
        ("disk", "warning-percent = 70"),
        ("http:backend", "certificate-days = 30"),
        ("logs:app", "new-warning = 2"),
        ("nginx-requests", "requests = 10"),
        ("pm2", "restarts = 5"),
        ("postgres-connections:main", "xid-warning = 300000000"),
        ("postgres-locks:main", "critical-s = 300"),
        ("postgres-sizes:main", "since-s = 3600"),
        ("postgres:main", "lag-critical-s = 120"),
        ("redis:main", "memory-critical-percent = 95"),
        ("resources", "cpu-warning-percent = 80"),
        ("unit:nginx", "restarts = 10"),
        ("units", "steady-s = 300"),
    ];
    // They have nothing that is more or less, or their bounds stand in their part of the stack file.
    let unmoved =
        ["backups:app", "git:app", "host", "nginx", "nginx-config", "pip:app", "plugin:load"];
    let unmoved = unmoved.into_iter().chain(["pnpm:web"]);
    let before = read(FULL).expect("checks");
    let mut all: Vec<_> = moved.iter().map(|(name, _)| *name).chain(unmoved).collect();
    all.sort_unstable();
    assert_eq!(before.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), all);
    for (name, parameters) in moved {
        let change = format!("{FULL}\n[check.\"{name}\"]\nparameters = {{ {parameters} }}");
        let after = read(&change).expect(name);
        for (was, is) in before.iter().zip(&after) {
            assert_eq!(was.request != is.request, was.name.as_str() == name, "{}", was.name);
        }
    }
}

#[test]
fn what_a_unit_serves_is_after_it_where_the_stack_file_names_it() {
    let text = r#"
        [nginx]
        status_url = "http://127.0.0.1/nginx_status"
        access_log = "/var/log/nginx/access.log"
        [pm2]
    "#;
    let after = |text: &str| -> Vec<String> {
        let checks = read(text).expect(text);
        let named = checks.into_iter().filter(|c| c.name.as_str() != "nginx-config");
        named.flat_map(|c| c.after).collect()
    };
    assert_eq!(after(text), Vec::<String>::new());
    let units = "[[unit]]\nname = \"nginx.service\"\n[[unit]]\nname = \"pm2-app\"\n";
    assert_eq!(after(&format!("{units}{text}")), ["unit:nginx", "unit:nginx", "unit:pm2-app"]);
}

#[test]
fn packages_are_looked_at_daily_and_backups_every_hour() {
    let text = r#"
        [[virtualenv]]
        name = "app"
        path = "/opt/app/.venv"
        [[frontend]]
        name = "web"
        path = "/opt/web"
        [[backups]]
        name = "app"
        directory = "/opt/app/backups"
        newer_than = "50h"
    "#;
    let checks = read(text).expect("checks");
    let seen: Vec<_> = checks
        .iter()
        .map(|c| (c.name.as_str(), c.pace.interval.as_secs() / 3600, c.pace.attempts))
        .filter(|(name, ..)| name.contains(':'))
        .collect();
    assert_eq!(seen, [("backups:app", 1, 1), ("pip:app", 24, 2), ("pnpm:web", 24, 2)]);
}

#[test]
fn every_stack_file_that_is_shipped_can_be_used() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/stacks");
    let files = std::fs::read_dir(directory).expect("the directory");
    let mut seen = 0;
    for file in files.flatten().map(|f| f.path()) {
        let text = std::fs::read_to_string(&file).expect("text");
        let checks = read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(checks.len() > 4, "{}", file.display());
        seen += 1;
    }
    assert!(seen >= 6);
}

#[test]
fn a_password_in_a_url_is_refused() {
    for text in [
        "[[redis]]\nname = \"a\"\nurl = \"redis://:hunter2@127.0.0.1/0\"",
        "[[postgres]]\nname = \"a\"\nurl = \"postgres://me:hunter2@127.0.0.1/x\"",
        "[[postgres]]\nname = \"a\"\nurl = \"postgres://me@127.0.0.1/x?password=hunter2\"",
        "[[redis]]\nname = \"a\"\nurl = \"unix:///run/redis.sock?db=1&pass=hunter2\"",
        "[[postgres]]\nname = \"a\"\nurl = \"postgres://u:hunter2/ss@host/db\"",
        "[[redis]]\nname = \"a\"\nurl = \"redis://:hunter2/ss@host:1/0\"",
        "[[redis]]\nname = \"a\"\nurl = \"redis://:hunter2?ss@host:1/0\"",
    ] {
        let said = read(text).expect_err(text);
        assert!(said.contains("holds a password") && !said.contains("hunter2"), "{said}");
    }
    for url in ["redis://me@127.0.0.1/0", "redis://[::1]:6379/0", "redis://me@127.0.0.1:6379/0"] {
        names(&format!("[[redis]]\nname = \"a\"\nurl = \"{url}\""));
    }
    names("[[postgres]]\nname = \"a\"\nurl = \"postgres://me@h:5432/x?application_name=a@b\"");
}

#[test]
fn a_password_in_a_url_that_is_refused_is_not_told() {
    for url in [
        "http://admin:hunter2@127.0.0.1/",
        "http://admin:hun/ter2@127.0.0.1/",
        "http://admin:hun?ter2@127.0.0.1/",
        "http://admin:hun/ter2@127.0.0.1/#x",
    ] {
        let text = format!("[[http]]\nname = \"a\"\nurl = \"{url}\"\n");
        let another = "[check.\"http:a\"]\nparameters = { url = \"http://127.0.0.1/\" }";
        for changed in ["", "[check.\"http:a\"]\noff = true", another] {
            let said = read(&(text.clone() + changed)).expect_err("no user belongs there");
            assert!(said.contains("http://***@127.0.0.1/") && !said.contains("ter2"), "{said}");
        }
    }
    let nginx = "[nginx]\nstatus_url = \"http://admin:hun/ter2@127.0.0.1/\"";
    let said = read(nginx).expect_err("nor there");
    assert!(said.contains("http://***@127.0.0.1/") && !said.contains("ter2"), "{said}");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_name_that_was_meant() {
    for (text, words) in [
        ("[check.dsk]\ninterval = \"1m\"", "did you mean \"disk\"?"),
        ("[check.x]\noperation = \"disk.usag\"", "did you mean \"disk.usage\"?"),
        ("[check.x]\noperation = \"systemd.stop\"", "a check only looks"),
        ("[check.disk]\nparameters = { warning-percent = 200 }", "at most 100"),
        ("[check.disk]\ninterval = \"0s\"", "one second at least"),
        ("[check.disk]\nattempts = 0", "from 1 to 100"),
        ("[check.disk]\nafter = [\"diks\"]", "did you mean \"disk\"?"),
        ("[check.\"a b\"]\noperation = \"disk.usage\"", "\"a b\" is no check name"),
        ("[[unit]]\nname = \"a\"\n[[unit]]\nname = \"a.service\"", "two checks \"unit:a\""),
        ("[[unti]]\nname = \"a\"", "unknown field"),
        ("[[celery]]\nname = \"a\"", "it needs broker, or else command"),
        (
            "[[redis]]\nname = \"a\"\nurl = \"redis://a/0\"\nreplica = \"b\"",
            "replica \"b\" is no other",
        ),
        ("[[backups]]\nname = \"a\"\ndirectory = \"/b\"\npattern = \"[\"", "its pattern ["),
        ("[[frontend]]\nname = \"a\"\npath = \"/a\"\npnpm = \"bin/pnpm\"", "no absolute path"),
    ] {
        let said = read(text).expect_err(text);
        assert!(said.contains(words), "{text}: {said}");
    }
}

#[test]
fn what_can_never_work_is_refused_before_it_is_run() {
    let plugin = |command: &str| {
        read(&format!("[[plugin]]\nname = \"load\"\ncommand = {command}")).map(|_| ())
    };
    assert!(plugin("[\"nope\"]").expect_err("relative").contains("\"nope\" is no absolute path"));
    assert!(plugin("[]").expect_err("empty").contains("its command is empty"));
    assert_eq!(plugin("[\"/usr/bin/true\", \"x\"]"), Ok(()));
    let swapped = "[check.disk]\nparameters = { warning-percent = 95, critical-percent = 85 }";
    assert!(read(swapped).expect_err("swapped").contains("it would never warn"));
}

#[test]
fn checks_that_wait_for_each_other_are_refused() {
    let unit = |name: &str, after: &str| {
        format!("[[unit]]\nname = \"{name}\"\nafter = [\"unit:{after}\"]\n")
    };
    let circle = [unit("a", "b"), unit("b", "c"), unit("c", "a"), unit("d", "a")].concat();
    let refused = read(&circle).expect_err("a circle");
    assert!(refused.contains("unit:a after unit:b after unit:c after unit:a"), "{refused}");
    let chain = [unit("a", "b"), unit("b", "c"), unit("d", "b"), "[[unit]]\nname = \"c\"".into()];
    assert!(read(&chain.concat()).is_ok());
}
