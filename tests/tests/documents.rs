//! Documents that are made from the code, and the order in which parts of the code may know each
//! other.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use hostler_proto::{
    catalogue::{Catalogue, OperationSpec, Parameter},
    wire::{Effect, Kind},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

#[test]
fn the_page_of_operations_is_what_the_catalogue_says() {
    let catalogue = Catalogue::embedded();
    let page = page(catalogue);
    let path = root().join("docs/operations.md");
    if std::env::var_os("HOSTLER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/operations.md is out of date; make it anew with: \
         HOSTLER_WRITE_DOCS=1 cargo test -p hostler-tests --test documents"
    );
}

fn page(catalogue: &Catalogue) -> String {
    let mut page = String::from(
        "# Operations\n\nMade from the catalogue, as `hostlerctl explain OPERATION` shows it. Every \
         operation takes `--on HOSTS`,\n`--timeout`, `--parallel`, `--reason` and `-o` beside its \
         own parameters; actions take `--plan` too,\ndestructive ones `--yes`.\n",
    );
    for (domain, help) in Catalogue::domains() {
        let _ = write!(page, "\n## {domain}\n\n{help}\n");
        for spec in catalogue.domain(domain).expect("a catalogue") {
            operation(spec, &mut page);
        }
    }
    page
}

fn operation(spec: &OperationSpec, page: &mut String) {
    let effect = match spec.effect {
        Effect::Read => "changes nothing",
        other => other.as_str_name().trim_start_matches("EFFECT_"),
    };
    let kind = if spec.kind == Kind::Probe { "probe" } else { "action" };
    let _ = write!(page, "\n### {}\n\n{}\n\n", spec.name, spec.help);
    let effect = effect.to_lowercase();
    let _ = writeln!(page, "- {kind}, {effect}; deadline {} s", spec.deadline.as_secs());
    let _ = writeln!(page, "- cost: {}", spec.cost);
    if !spec.locks.is_empty() {
        let _ = writeln!(page, "- holds `{}`", spec.locks.join("`, `"));
    }
    if spec.follows {
        page.push_str("- goes on with new lines with `--follow`\n");
    }
    let _ = writeln!(page, "- example: `hostlerctl {}`", spec.example);
    if !spec.parameters.is_empty() {
        page.push_str("\n| Parameter | Type | Meaning | Bounds |\n|---|---|---|---|\n");
        for parameter in &spec.parameters {
            let (name, kind) = (&parameter.name, parameter.type_name());
            let help = parameter.help.replace('\n', " ").replace('|', "\\|");
            let _ = writeln!(page, "| `--{name}` | {kind} | {help} | {} |", bounds(parameter));
        }
    }
}

fn bounds(parameter: &Parameter) -> String {
    let options = &parameter.options;
    let mut parts = Vec::new();
    if options.required {
        parts.push("required".to_owned());
    }
    if options.positional {
        parts.push("its name may be left out".to_owned());
    }
    if !options.one_of.is_empty() {
        parts.push(format!("one of {}", options.one_of.join(", ")));
    }
    match (options.min, options.max) {
        (Some(min), Some(max)) => parts.push(format!("{min} to {max} {}", options.unit)),
        (Some(min), None) => parts.push(format!("at least {min} {}", options.unit)),
        (None, Some(max)) => parts.push(format!("at most {max} {}", options.unit)),
        (None, None) => {}
    }
    if !options.default.is_empty() {
        parts.push(format!("default {}", options.default));
    }
    parts.iter().map(|p| p.trim()).collect::<Vec<_>>().join("; ")
}

/// Who may not know whom: a module, and what it may not import. Transport knows the domain, the
/// domain knows storage and the host; never back.
const ARROWS: [(&str, &[&str]); 8] = [
    ("agent/src/ops", &["link", "serve", "dispatch", "enroll", "identity", "journal", "run"]),
    ("agent/src/host", &["ops", "dispatch", "link", "serve", "enroll", "operation"]),
    ("agent/src/dispatch", &["link", "serve", "enroll", "ops"]),
    ("agent/src/policy.rs", &["ops", "dispatch", "host", "link", "serve"]),
    ("controller/src/store", &["api", "reception", "listen", "relay", "sessions", "run"]),
    ("controller/src/audit", &["api", "reception", "listen", "relay", "links", "authz"]),
    ("controller/src/authz.rs", &["api", "store", "relay", "links", "reception", "audit"]),
    ("controller/src/selector", &["api", "store", "relay", "links", "reception", "audit"]),
];

#[test]
fn parts_know_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (part, forbidden) in ARROWS {
        let mut files = Vec::new();
        sources(&root().join(part), &mut files);
        assert!(!files.is_empty(), "{part} is gone");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            let own = text.split("#[cfg(test)]").next().unwrap_or_default();
            for module in forbidden {
                let named = [format!("crate::{module}::"), format!("    {module}::")];
                let imports = own.lines().any(|line| {
                    named
                        .iter()
                        .any(|n| line.contains(n.as_str()) && !line.contains("crate::ops::"))
                        || line.contains(&format!("use crate::{module};"))
                });
                if imports {
                    wrong.push(format!("{} knows {module}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn sources(path: &Path, into: &mut Vec<PathBuf>) {
    if path.is_file() {
        if !path.to_string_lossy().ends_with("_tests.rs") {
            into.push(path.to_owned());
        }
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        sources(&entry.path(), into);
    }
}

#[test]
fn the_alert_rules_are_ones_that_prometheus_accepts_and_alarm_when_they_should() {
    let rules = root().join("deploy/prometheus/hostler.rules.yml");
    let promtool = Path::new("/usr/bin/promtool");
    for (verb, file) in [("check", rules.clone()), ("test", rules.with_extension("test.yml"))] {
        let output = hostler_tests::process::command(promtool)
            .args([verb, "rules"])
            .arg(&file)
            .output()
            .expect("promtool; run: make test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_alert_rule_has_a_test_in_which_it_alarms() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect(name);
    let rules = read("deploy/prometheus/hostler.rules.yml");
    let tests = read("deploy/prometheus/hostler.rules.test.yml");
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let alarms = format!("alertname: {name}\n        exp_alerts:\n          - ");
        assert!(tests.contains(&alarms), "{name}");
    }
}

#[test]
fn the_dashboard_and_the_rules_ask_only_for_what_the_controller_serves() {
    let source = |name: &str| fs::read_to_string(root().join(name)).expect(name);
    let metrics =
        ["controller/src/metrics.rs", "controller/src/metrics/checks.rs"].map(source).concat();
    for file in ["deploy/prometheus/grafana.json", "deploy/prometheus/hostler.rules.yml"] {
        let text = fs::read_to_string(root().join(file)).expect(file);
        let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut seen = 0;
        for name in names.filter_map(|n| n.strip_prefix("hostler_")) {
            let bare = ["_total", "_bucket", "_seconds"]
                .iter()
                .fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
            assert!(
                [name, bare].iter().any(|n| metrics.contains(&format!("\"{n}\""))),
                "{file} asks for hostler_{name}"
            );
            seen += 1;
        }
        assert!(seen > 5, "{file}");
    }
}

/// The rows of those tables of a page that have three columns.
fn rows(page: &str) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for line in page.lines().filter(|l| l.starts_with("| ")) {
        // A bar within a cell is written with a backslash before it.
        let line = line.replace("\\|", "\u{0}");
        let cells = line.trim_matches('|').split('|').map(|c| c.trim().replace('\u{0}', "|"));
        if let Ok(row) = <[String; 3]>::try_from(cells.collect::<Vec<_>>()) {
            rows.push(row);
        }
    }
    rows
}

/// What stands between backticks.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_page_of_the_runbook_has_every_command_what_replaces_it_and_what_was_wrong_with_it() {
    let page = fs::read_to_string(root().join("docs/runbook.md")).expect("the page");
    let commands = include_str!("runbook.txt").lines().filter(|l| !l.starts_with('#'));
    let (rows, known) = (rows(&page), Catalogue::names().collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for command in commands {
        // A command that begins another one is found as a whole before it is found as a part.
        let whole = rows.iter().find(|[left, ..]| code(left).any(|c| c == command));
        let part = || rows.iter().find(|[left, ..]| code(left).any(|c| c.contains(command)));
        match whole.or_else(part) {
            None => wrong.push(format!("{command} is in no row")),
            Some([_, instead, fault]) if instead.is_empty() || fault.is_empty() => {
                wrong.push(format!("{command} has no operation, or no word on what was wrong"));
            }
            Some(_) => {}
        }
    }
    for [_, instead, _] in &rows {
        let missing = instead.contains("**not yet**");
        for name in code(instead).filter(|c| !c.contains(' ') && c.contains('.')) {
            let is_operation = known.contains(&name);
            if is_operation == missing && !name.ends_with(".service") {
                wrong.push(format!("{name}: is it there or not yet?"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
