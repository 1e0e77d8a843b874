//! What `hostler-agent discover` finds of real servers, and what it says against a stack file.

use std::fs;

use hostler_tests::{
    process::{built, command},
    servers::{Postgres, Redis},
};

#[test]
fn servers_are_found_however_they_were_started_and_however_the_stack_file_names_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    // It is told of its data by a relative path.
    let postgres = Postgres::primary();
    let (_, program) = Redis::programs().remove(0);
    let redis = Redis::start(&program, &path("redis"), &["--unixsocket", "redis.sock"]);
    let (postgres, redis) = (postgres.port, redis.port);
    let (config, stack) = (path("agent.toml"), path("stack.toml"));
    let text =
        format!("state_dir = \"{}\"\nstack = \"{}\"\n", path("state").display(), stack.display());
    fs::write(&config, text).expect("written");
    let agent = |words: &[&str]| {
        let mut agent = command(built("hostler-agent"));
        let output = agent.arg("--config").arg(&config).args(words).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, found, _) = agent(&["discover"]);
    assert_eq!(code, Some(0));
    for url in [
        format!("url = \"postgres://hostler@127.0.0.1:{postgres}/postgres\""),
        format!("url = \"redis://127.0.0.1:{redis}/0\""),
    ] {
        assert!(found.contains(&url), "{url} is not in {found}");
    }

    // What else is on this machine is not this test's business.
    let lines = |stack_file: &str, about: &[&str]| {
        fs::write(&stack, stack_file).expect("written");
        let (code, said, error) = agent(&["discover", "--check"]);
        let all = said.lines().filter(|line| about.iter().any(|a| line.contains(a)));
        let all: Vec<String> = all.map(ToOwned::to_owned).collect();
        assert!(code == Some(0) || error.contains("differ in"), "{error}");
        all
    };
    let ports = [format!("port {postgres}"), format!("127.0.0.1:{redis}")];
    let about: Vec<&str> = ports.iter().map(String::as_str).collect();
    let told = lines("", &about);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("PostgreSQL") && told[1].contains("add a [[redis]] with url"));
    let named = |postgres: &str, redis: &str| {
        format!(
            "[[postgres]]\nname = \"main\"\nurl = \"{postgres}\"\n\
             [[redis]]\nname = \"main\"\nurl = \"{redis}\"\n"
        )
    };
    let about = [&about[..], &["\"main\""]].concat();
    for (first, second) in [
        (format!("postgres://u@localhost:{postgres}"), format!("redis://localhost:{redis}/1")),
        (format!("postgres://u@127.0.0.1/db?port={postgres}"), format!("redis://[::1]:{redis}")),
    ] {
        assert_eq!(lines(&named(&first, &second), &about), Vec::<String>::new());
    }
    let none = lines(&named("postgres://u@127.0.0.1:1/db", "redis://127.0.0.1:2"), &about);
    assert_eq!(none.len(), 4, "{none:?}");
    assert!(none[0].contains("[[postgres]] \"main\" names port 1 of this host, where nobody"));
}
