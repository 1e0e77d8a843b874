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

/// The unit of an agent as it is shipped: what that keeps from the agent is missing in the tests as well.
const UNIT: &str = include_str!("../../deploy/systemd/hostler-agent.service");

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

    /// Enrols a host anew, runs its agent under the unit that is shipped, and waits until it is linked.
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
        self.write(host, "/etc/systemd/system/hostler-agent.service", UNIT);
        let drop_in = "/etc/systemd/system/hostler-agent.service.d";
        self.exec(host, &["mkdir", "--parents", drop_in]);
        let here = format!("[Service]\nExecStart=\nExecStart={} run\n", agent.join(" "));
        self.write(host, &format!("{drop_in}/here.conf"), &here);
        self.exec(host, &["systemctl", "daemon-reload"]);
        self.start_agent(host);
        fleet.wait_for(host, "up");
    }

    /// Starts an agent that is enrolled, after its unit or its host has ended.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_agent(&self, host: &str) {
        // One that has not failed need not be loaded, which is no error here.
        let start =
            "systemctl reset-failed hostler-agent 2>/dev/null; systemctl start hostler-agent";
        self.exec(host, &["sh", "-c", start]);
    }
}

fn text(output: &Output, args: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
