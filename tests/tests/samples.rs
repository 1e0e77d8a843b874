//! The commented samples of the two configurations: every key is in them, and what they show works.

use std::{fs, path::Path};

use hostler_tests::process::{built, command};

/// What `check-config` says of a configuration, and whether it can be used. The files with secrets that
/// it names are there.
fn checked(program: &str, config: &str) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    let secrets = dir.path().join("secret");
    fs::write(&secrets, "secret").expect("written");
    let secret = |line: &str| match line.split_once("_file = ") {
        Some((key, _)) => format!("{key}_file = \"{}\"\n", secrets.display()),
        None => format!("{line}\n"),
    };
    fs::write(&file, config.lines().map(secret).collect::<String>()).expect("written");
    let output = command(built(program)).arg("--config").arg(&file).arg("check-config").output();
    let output = output.expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Every key that a program knows in a table of its configuration, as it tells them to those who
/// wrote one that is like none.
fn keys(program: &str, table: &str) -> Vec<String> {
    let (usable, said) = checked(program, &format!("{table}\nqqqqqqqqqqqqqqqq = 1\n"));
    let (_, known) = said.split_once("known here are ").unwrap_or_else(|| panic!("{said}"));
    assert!(!usable);
    known.trim().split(", ").map(str::to_owned).collect()
}

/// A sample whose keys all count: the comment signs before them are taken away.
fn uncommented(sample: &str) -> String {
    let bare = |line: &str| {
        let key = line.strip_prefix("# ")?;
        let name = key.split_once(" = ").map_or("", |(name, _)| name);
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-\"".contains(c);
        let counts = key.starts_with('[') || !name.is_empty() && name.chars().all(is_name);
        counts.then(|| key.to_owned())
    };
    sample.lines().map(|line| bare(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn every_key_is_in_the_sample_and_on_its_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
    let (configuration, monitoring) = (read("docs/configuration.md"), read("docs/monitoring.md"));
    for (program, sample, tables) in [
        ("hostler-agent", "deploy/agent.toml", vec!["", "[link]", "[policy]"]),
        ("hostler-controller", "deploy/controller.toml", vec!["", "[[notify]]"]),
    ] {
        let sample = uncommented(&read(sample));
        let (usable, said) = checked(program, &sample);
        assert!(usable, "{program}: {said}\n{sample}");
        for table in tables {
            let known = keys(program, table);
            assert!(known.len() > 3, "{known:?}");
            let page = if table == "[[notify]]" { &monitoring } else { &configuration };
            for key in known {
                let line = |l: &str| {
                    let rest = l.strip_prefix(key.as_str()).unwrap_or_default();
                    rest.starts_with(" = ")
                };
                let heads = [format!("[{key}]"), format!("[[{key}]]")];
                let shown = sample.lines().any(|l| line(l) || heads.iter().any(|h| l.trim() == h));
                assert!(shown, "{key} of {table} is not in the sample of {program}");
                let mut told = vec![format!("`{key}`"), format!("    {key} = ")];
                told.extend(heads.map(|head| format!("`{head}`")));
                assert!(told.iter().any(|t| page.contains(t)), "{key} of {table} is on no page");
            }
        }
    }
}
