//! The lab: hosts that boot systemd on this machine, each with an address and a disk of its own.
//!
//! It is started before the tests (`tests/run`) and used by one test at a time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    fleet::Fleet,
    process::{built, command},
};

/// Where the lab keeps its hosts and what it shares with them.
const LAB: &str = "/var/tmp/hostler-lab";

/// The lab, for as long as a test has it.
#[derive(Debug)]
pub struct Lab {
    _turn: File,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/bin/lab")
}

/// A program that runs where the controller of the lab's hosts runs, at 10.77.0.1.
pub fn beside_the_hosts(program: &Path) -> Command {
    let mut command = command(script());
    command.arg("ctl").arg(program);
    command
}

/// A command in a host, to be started in the background.
pub fn in_host(host: &str, args: &[&str]) -> Command {
    let mut command = command(script());
    command.arg("exec").arg(host).args(args);
    command
}

impl Lab {
    /// Waits for its turn. Faults that an earlier test left behind are undone.
    ///
    /// # Panics
    /// When the lab does not run.
    pub fn take() -> Self {
        let turn = File::create(Path::new(LAB).join("turn")).expect("the lab; run: make test");
        rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).expect("a turn");
        let lab = Self { _turn: turn };
        let status = lab.script(&["status"]);
        assert!(status.contains('h'), "the lab does not run; run: make test\n{status}");
        for host in ["h1", "h2"] {
            if !status.contains(&format!("{host} ")) {
                lab.script(&["boot", host]);
            }
            lab.script(&["heal", host]);
        }
        let shared = Path::new(LAB).join("share/hostler-agent");
        let new = shared.with_extension("new");
        fs::copy(built("hostler-agent"), &new).expect("copied");
        fs::rename(&new, &shared).expect("in place");
        lab
    }

    /// One command of the lab; gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn script(&self, args: &[&str]) -> String {
        text(&command(script()).args(args).output().expect("the lab's script"), args)
    }

    /// Runs a command in a host; gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn exec(&self, host: &str, args: &[&str]) -> String {
        self.script(&[&["exec", host], args].concat())
    }

    /// Whether a command in a host ends well.
    ///
    /// # Panics
    /// When the lab's script cannot be started.
    pub fn succeeds(&self, host: &str, args: &[&str]) -> bool {
        let args = [&["exec", host], args].concat();
        command(script()).args(args).output().expect("the lab's script").status.success()
    }

    /// Writes a file in a host.
    pub fn write(&self, host: &str, path: &str, content: &str) {
        self.exec(host, &["sh", "-c", "printf %s \"$1\" > \"$2\"", "sh", content, path]);
    }

    /// Enrols a host anew, runs its agent as a unit of the host's systemd, and waits until it is
    /// linked.
    ///
    /// # Panics
    /// When one of that fails.
    pub fn join(&self, fleet: &Fleet, host: &str, config: &str) {
        let stop = "systemctl stop hostler-agent; systemctl reset-failed hostler-agent; \
                    rm -rf /var/lib/hostler-agent; true";
        self.exec(host, &["sh", "-c", stop]);
        self.write(host, "/etc/hostler-agent.toml", config);
        let token = fleet.token(&["--host", host, "--label", "lab=yes"]);
        let agent = ["/srv/lab/hostler-agent", "--config", "/etc/hostler-agent.toml"];
        let enroll = ["enroll", "--controller", fleet.address(), "--host", host, "--token", &token];
        self.exec(host, &[&agent[..], &enroll].concat());
        let after = "--property=After=dbus.service";
        let unit = ["systemd-run", "--quiet", "--unit=hostler-agent", after];
        self.exec(host, &[&unit[..], &agent, &["run"]].concat());
        fleet.wait_for(host, "up");
    }
}

fn text(output: &Output, args: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
