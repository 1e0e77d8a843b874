//! A fleet of the real binaries: one controller, any number of agents, hostlerctl.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    lab,
    process::{Process, built, command, eventually},
    terminal::Terminal,
};

/// Where the controller and hostlerctl run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine, at a loopback address of its own.
    Loopback,
    /// In the network of the lab's hosts.
    Lab,
}

/// A fleet with its files. Everything ends and goes with it.
#[derive(Debug)]
pub struct Fleet {
    dir: TempDir,
    place: Place,
    address: String,
    controller: Option<Process>,
    agents: BTreeMap<String, Process>,
    environment: Vec<(&'static str, String)>,
}

/// How hostlerctl ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit status.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Said {
    /// Its standard output as the one JSON document that it must be.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON: {e}: {self:?}"))
    }

    /// Itself, when it ended with this status.
    ///
    /// # Panics
    /// When it ended otherwise.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl Fleet {
    /// A fleet with its controller running; `more` is added to the controller's configuration.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn new(place: Place, more: &str) -> Self {
        Self::with(place, more, Vec::new())
    }

    /// A fleet on this machine with these hosts, each with a label.
    ///
    /// # Panics
    /// When it does not come up, or a host does not link.
    pub fn of(hosts: &[(&str, &str)]) -> Self {
        let mut fleet = Self::new(Place::Loopback, "");
        for (host, label) in hosts {
            fleet.join(host, &[label], "");
        }
        fleet
    }

    /// A fleet whose programs all have these variables in their environment.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with(place: Place, more: &str, environment: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pid = std::process::id();
        // An address of its own for every test process: tests run at the same time.
        let address = match place {
            Place::Loopback => format!("127.9.{}.{}:7443", pid / 250 % 250, pid % 250 + 1),
            Place::Lab => "10.77.0.1:7443".to_owned(),
        };
        let agents = BTreeMap::new();
        let mut fleet = Self { dir, place, address, controller: None, agents, environment };
        let config = format!(
            "listen = \"{0}\"\nstate_dir = \"{1}\"\naddresses = [\"{0}\"]\n{more}\n",
            fleet.address,
            fleet.path("controller").display()
        );
        fs::write(fleet.path("controller.toml"), config).expect("written");
        let context = fleet.path("admin.toml");
        let made = fleet
            .controller_command()
            .args(["init", "--fleet", "test", "--context"])
            .arg(&context)
            .output()
            .expect("init runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let import = ["context", "import", &context.display().to_string(), "--name", "admin"];
        fleet.start_controller();
        fleet.ctl(&import).exits(0);
        fleet
    }

    /// A path among the fleet's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the controller listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn placed(&self, program: &Path) -> Command {
        let mut command = match self.place {
            Place::Loopback => command(program),
            Place::Lab => lab::beside_the_hosts(program),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn controller_command(&self) -> Command {
        let mut command = self.placed(&built("hostler-controller"));
        command.arg("--config").arg(self.path("controller.toml"));
        command
    }

    /// Starts the controller and waits until it can be used.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_controller(&mut self) {
        let log = self.path("controller.log");
        let running = |log: &Path| {
            let text = fs::read_to_string(log).unwrap_or_default();
            text.matches("the controller runs").count()
        };
        let before = running(&log);
        let process = Process::start(self.controller_command().arg("run"), &log);
        eventually("the controller runs", || running(&log) > before);
        self.controller = Some(process);
    }

    /// The running controller.
    ///
    /// # Panics
    /// When it does not run.
    pub fn controller(&self) -> &Process {
        self.controller.as_ref().expect("the controller runs")
    }

    /// Takes the controller, to stop or to kill it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn take_controller(&mut self) -> Process {
        self.controller.take().expect("the controller runs")
    }

    /// hostlerctl as the admin.
    pub fn ctl(&self, args: &[&str]) -> Said {
        self.ctl_as("admin", args)
    }

    /// hostlerctl as one of the imported operators.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ctl_as(&self, operator: &str, args: &[&str]) -> Said {
        let output = self.ctl_command(operator, args).output().expect("hostlerctl runs");
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// hostlerctl in the background, its output in a file.
    pub fn ctl_begins(&self, args: &[&str], output: &str) -> Process {
        self.ctl_begins_as("admin", args, output)
    }

    /// The same as one of the imported operators.
    pub fn ctl_begins_as(&self, operator: &str, args: &[&str], output: &str) -> Process {
        let mut command = self.ctl_command(operator, args);
        Process::start(command.process_group(0), &self.path(output))
    }

    /// hostlerctl in the background, its standard output in a pipe that nobody reads yet.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ctl_piped(&self, args: &[&str]) -> Child {
        let mut command = self.ctl_command("admin", args);
        command.stdout(Stdio::piped()).spawn().expect("hostlerctl runs")
    }

    /// hostlerctl at a terminal, with somebody there who can be asked.
    pub fn ctl_at_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(&mut self.ctl_command("admin", args))
    }

    /// The same, with colours.
    pub fn ctl_at_colour_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(self.ctl_command("admin", args).env("NO_COLOR", ""))
    }

    fn ctl_command(&self, operator: &str, args: &[&str]) -> Command {
        let mut command = self.placed(&built("hostlerctl"));
        command
            .args(args)
            .env("XDG_CONFIG_HOME", self.path("contexts"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        if args.first() != Some(&"context") {
            command.env("HOSTLER_CONTEXT", operator);
        }
        command
    }

    /// Adds an operator whom [`Fleet::ctl_as`] knows.
    pub fn add_operator(&self, name: &str, role: &str, on: &str) {
        let file = self.path(&format!("{name}.toml")).display().to_string();
        self.ctl(&["operator", "add", name, "--role", role, "--on", on, "--out", &file]).exits(0);
        self.ctl(&["context", "import", &file, "--name", name]).exits(0);
    }

    /// A new token.
    pub fn token(&self, more: &[&str]) -> String {
        let args = [&["token", "create", "-o", "name"], more].concat();
        self.ctl(&args).exits(0).out.trim().to_owned()
    }

    /// Writes an agent's configuration; `more` is added to it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, host: &str, more: &str) {
        let state = self.path(&format!("state-{host}"));
        let config = format!("state_dir = \"{}\"\n{more}\n", state.display());
        fs::write(self.path(&format!("{host}.toml")), config).expect("written");
    }

    fn agent_command(&self, host: &str) -> Command {
        let mut command = self.placed(&built("hostler-agent"));
        command.arg("--config").arg(self.path(&format!("{host}.toml")));
        command
    }

    /// Tries to enrol a host whose configuration was written.
    ///
    /// # Panics
    /// When the agent cannot be started.
    pub fn enroll(&self, host: &str, token: &str) -> Result<(), String> {
        self.enroll_with(host, token, &[])
    }

    /// The same, in place of the identity that the host has.
    ///
    /// # Panics
    /// When the agent cannot be started.
    pub fn enroll_by_force(&self, host: &str, token: &str) -> Result<(), String> {
        self.enroll_with(host, token, &["--force"])
    }

    fn enroll_with(&self, host: &str, token: &str, more: &[&str]) -> Result<(), String> {
        let token_file = self.path(&format!("{host}.token"));
        fs::write(&token_file, token).expect("written");
        let mut command = self.agent_command(host);
        command.args(["enroll", "--controller", &self.address, "--host", host, "--token-file"]);
        let output = command.arg(&token_file).args(more).output().expect("the agent runs");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Starts an agent that is enrolled.
    pub fn start_agent(&mut self, host: &str) {
        let log = self.path(&format!("{host}.log"));
        let process = Process::start(self.agent_command(host).arg("run"), &log);
        self.agents.insert(host.to_owned(), process);
    }

    /// A running agent.
    ///
    /// # Panics
    /// When it does not run.
    pub fn agent(&self, host: &str) -> &Process {
        self.agents.get(host).expect("the agent runs")
    }

    /// Takes an agent, to stop or to kill it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn take_agent(&mut self, host: &str) -> Process {
        self.agents.remove(host).expect("the agent runs")
    }

    /// Enrols a host, starts its agent, and waits until it is linked.
    ///
    /// # Panics
    /// When one of that fails.
    pub fn join(&mut self, host: &str, labels: &[&str], config: &str) {
        self.configure(host, config);
        let mut more = vec!["--host", host];
        labels.iter().for_each(|label| more.extend(["--label", label]));
        let token = self.token(&more);
        self.enroll(host, &token).expect("enrolled");
        self.start_agent(host);
        self.wait_for(host, "up");
    }

    /// What the controller knows of a host.
    pub fn host(&self, host: &str) -> Value {
        self.ctl(&["host", "show", host, "-o", "json"]).exits(0).json()
    }

    /// Waits until a host's link is in a state.
    pub fn wait_for(&self, host: &str, link: &str) {
        eventually(&format!("{host} is {link}"), || self.host(host)["connection"] == link);
    }

    /// All records of the audit, the oldest first.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn audit(&self) -> Vec<Value> {
        let said = self.ctl(&["audit", "list", "--limit", "100000", "-o", "json"]).exits(0);
        let mut records = said.json().as_array().expect("a list").clone();
        records.reverse();
        records
    }
}
