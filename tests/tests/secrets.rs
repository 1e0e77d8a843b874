//! What nobody gets to see, whatever the role and the policy: the agent reads as root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{command, eventually},
    servers::{Redis, free_port},
};

#[test]
fn nobody_reads_keys_through_an_agent() {
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.add_operator("eve", "viewer", "all");
    let shown = fleet.path("");
    let file = |name: &str, mode: u32| {
        let path = fleet.path(name);
        fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
        fs::write(&path, "the secret\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
    };
    file("home/.ssh/id_ed25519", 0o644);
    file("home/.netrc", 0o600);
    file("tls/server.key", 0o644);
    file("app.log", 0o644);
    // One policy as it comes, and one that allows too much.
    fleet.join("web-1", &[], "");
    fleet.join("web-2", &[], &format!("[policy]\nlogs = [\"{}\"]", shown.display()));
    let tail = |host: &str, name: &str, code: i32| {
        let path = shown.join(name).display().to_string();
        for operator in ["eve", "admin"] {
            let args = ["logs", "tail", &path, "--on", host, "-o", "json"];
            let said = fleet.ctl_as(operator, &args).exits(code);
            assert!(code == 0 || !format!("{said:?}").contains("the secret"), "{said:?}");
            assert!(!format!("{said:?}").contains("PRIVATE KEY"), "{said:?}");
        }
    };
    tail("web-2", "app.log", 0);
    tail("web-1", "app.log", 4);
    for host in ["web-1", "web-2"] {
        for name in [
            "controller/fleet.toml",
            "controller/store.sqlite",
            "state-web-1/identity.toml",
            "state-web-2/identity.toml",
            "state-web-2/journal.jsonl",
            "home/.ssh/id_ed25519",
            "home/.netrc",
            "tls/server.key",
        ] {
            tail(host, name, 4);
        }
    }
    // A pattern tells of none of them either.
    let pattern = shown.join("controller/*").display().to_string();
    for operation in [["logs", "tail"], ["logs", "errors"]] {
        let args = [&operation[..], &[&pattern, "--on", "web-2"]].concat();
        let said = fleet.ctl_as("eve", &args).exits(1);
        assert!(format!("{said:?}").contains("no file fits"), "{said:?}");
    }
}

/// Everything that a store holds, as text.
fn dump(store: &Path) -> String {
    let dumped = command("/usr/bin/sqlite3").arg(store).arg(".dump").output().expect("sqlite3");
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    String::from_utf8_lossy(&dumped.stdout).into_owned()
}

/// The files beneath a directory that hold a text.
fn holding(directory: &Path, secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(holding(&entry.path(), secret));
        } else if fs::read(entry.path())
            .is_ok_and(|bytes| bytes.windows(secret.len()).any(|w| w == secret.as_bytes()))
        {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn a_token_is_kept_as_a_hash_and_nowhere_else() {
    let fleet = Fleet::new(Place::Loopback, "");
    let token = fleet.token(&["--host", "web-1"]);
    let unused = fleet.token(&["--host", "web-2"]);
    fleet.configure("web-1", "");
    fleet.enroll("web-1", &token).expect("enrolled");
    fs::remove_file(fleet.path("web-1.token")).expect("the copy for the agent");
    let store = dump(&fleet.path("controller/store.sqlite"));
    for token in [token, unused] {
        let parts: Vec<_> = token.split('.').collect();
        let (id, secret) = (parts[1], parts[2]);
        assert!(store.contains(id), "the token is known");
        assert!(!store.contains(secret), "{secret} is in the store");
        assert_eq!(holding(&fleet.path(""), secret), Vec::<String>::new());
        let told = fleet.ctl(&["audit", "list", "-o", "json"]).exits(0);
        assert!(told.out.contains(id) && !told.out.contains(secret));
    }
}

#[test]
fn a_password_of_a_server_is_in_no_command_line_log_answer_or_record() {
    let secret = "pass-word-7319";
    let directory = tempfile::tempdir().expect("a directory");
    let program = Redis::programs().into_iter().next().expect("a server").1;
    let server = Redis::start(&program, &directory.path().join("redis"), &[]);
    server.cli(&["config", "set", "requirepass", secret]);
    let mut fleet = Fleet::new(Place::Loopback, "");
    let password = fleet.path("password");
    fs::write(&password, secret).expect("written");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("changed");
    let (nobody, shown) = (free_port(), password.display());
    let stack = format!(
        "[defaults]\ninterval = \"1s\"\nretry = \"1s\"\nattempts = 1\n\
         [[redis]]\nname = \"main\"\nurl = \"redis://127.0.0.1:{port}/0\"\n\
         password_file = \"{shown}\"\n\
         [[redis]]\nname = \"user\"\nurl = \"redis://127.0.0.1:{port}/0\"\nusername = \"no\"\n\
         password_file = \"{shown}\"\n\
         [[celery]]\nname = \"app\"\nbroker = \"main\"\n\
         [[postgres]]\nname = \"main\"\nurl = \"postgres://app@127.0.0.1:{nobody}/app\"\n\
         password_file = \"{shown}\"\n",
        port = server.port,
    );
    let file = fleet.path("stack.toml");
    fs::write(&file, stack).expect("written");
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").expect("/proc").flatten() {
                    let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    if line.contains(secret) && !line.contains("redis-cli") {
                        seen.push(line);
                    }
                }
            }
            seen
        })
    };
    fleet.join("db-1", &[], &format!("stack = \"{}\"", file.display()));
    let mut told = String::new();
    let mut ask = |args: &[&str]| {
        for form in [["-o", "json"], ["-o", "table"]] {
            let said = fleet.ctl(&[args, &form].concat());
            told += &format!("{args:?}: {}{}\n", said.out, said.err);
        }
    };
    for operation in [
        &["redis", "status", "--server", "main"][..],
        &["redis", "status", "--server", "user"],
        &["redis", "config", "--server", "main"],
        &["redis", "slow-log", "--server", "main"],
        &["redis", "big-keys", "--server", "main"],
        &["redis", "monitor", "--server", "main", "--time", "1s"],
        &["celery", "workers", "app"],
        &["postgres", "ping", "main"],
        &["host", "processes"],
    ] {
        ask(&[operation, &["--on", "db-1"]].concat());
    }
    ask(&["diagnose", "db-1", "redis"]);
    ask(&["diagnose", "db-1", "postgres"]);
    eventually("its checks are told", || {
        fleet.ctl(&["health", "db-1", "-o", "json"]).out.contains("postgres:main")
    });
    ask(&["health", "db-1"]);
    ask(&["problems"]);
    ask(&["status"]);
    ask(&["host", "show", "db-1"]);
    ask(&["audit", "list", "--looks", "--limit", "1000"]);
    over.store(true, Ordering::Relaxed);
    assert_eq!(watch.join().expect("it watched"), Vec::<String>::new());
    assert!(told.contains("requirepass"), "the configuration was read: {told}");
    assert!(!told.contains(secret), "{told}");
    assert!(!dump(&fleet.path("controller/store.sqlite")).contains(secret));
    let file = password.display().to_string();
    assert_eq!(holding(&fleet.path(""), secret), [file], "logs and state hold nothing of it");
}
