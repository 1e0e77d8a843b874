//! What nobody gets to see, whatever the role and the policy: the agent reads as root.

use std::{fs, os::unix::fs::PermissionsExt};

use hostler_tests::fleet::{Fleet, Place};

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
