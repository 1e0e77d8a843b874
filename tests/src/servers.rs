//! Servers of a test with ports and directories of their own. `tests/run` brings the programs, and
//! names them in the environment.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Process, command, eventually};

/// What `tests/run` says of a program.
///
/// # Panics
/// When it says nothing.
pub fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run: make test"))
}

/// A port that nobody listens on.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A Redis or Valkey server.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens, without TLS.
    pub port: u16,
    /// Its process.
    pub process: Process,
}

impl Redis {
    /// The servers that there are: their kind, `redis` or `valkey`, and their program.
    pub fn programs() -> Vec<(String, PathBuf)> {
        let named = named("HOSTLER_TEST_REDIS");
        let pairs = named.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(kind, path)| (kind.to_owned(), PathBuf::from(path))).collect()
    }

    /// Starts one in a directory of its own, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(program: &Path, directory: &Path, more: &[&str]) -> Self {
        let port = free_port();
        fs::create_dir_all(directory).expect("a directory");
        let mut start = command(program);
        start.current_dir(directory).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        let process = Process::start(start.args(more), &directory.join("log"));
        let server = Self { port, process };
        eventually("the server answers", || server.cli(&["ping"]).trim() == "PONG");
        server
    }

    /// What it answers to a command of its default user.
    ///
    /// # Panics
    /// When redis-cli cannot be started.
    pub fn cli(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let mut cli = command("/usr/bin/redis-cli");
        let output = cli.args(["-p", &port]).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A RabbitMQ node with an Erlang port mapper of its own.
#[derive(Debug)]
pub struct RabbitMq {
    /// Where it listens.
    pub port: u16,
    directory: PathBuf,
    _node: Process,
    _mapper: Process,
}

impl RabbitMq {
    /// Starts one, and waits until it serves; that takes some seconds.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(directory: &Path) -> Self {
        let home = PathBuf::from(named("HOSTLER_TEST_RABBITMQ"));
        fs::create_dir_all(directory).expect("a directory");
        let (port, mapper_port) = (free_port(), free_port().to_string());
        let mut mapper = command("/usr/bin/epmd");
        mapper.args(["-port", &mapper_port, "-address", "127.0.0.1"]);
        let mapper = Process::start(&mut mapper, &directory.join("epmd.log"));
        let mut start = command(home.join("sbin/rabbitmq-server"));
        let beneath = |name: &str| directory.join(name);
        start
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", directory)
            .env("ERL_EPMD_PORT", mapper_port)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_HOME", &home)
            .env("RABBITMQ_PLUGINS_DIR", home.join("plugins"))
            .env("RABBITMQ_NODENAME", format!("hostler{}@localhost", std::process::id()))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_LOGS", "-");
        for (variable, name) in [
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "logs"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_CONF_ENV_FILE", "none"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
            ("RABBITMQ_SCHEMA_DIR", "schema"),
            ("RABBITMQ_FEATURE_FLAGS_FILE", "flags"),
        ] {
            start.env(variable, beneath(name));
        }
        let node = Process::start(&mut start, &beneath("log"));
        eventually("RabbitMQ serves", || node.log().contains("Server startup complete"));
        Self { port, directory: directory.to_owned(), _node: node, _mapper: mapper }
    }

    /// Ends it at once.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // What was started is a script; this is the node itself.
        let pid = fs::read_to_string(self.directory.join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A command as a user who may do nothing; as oneself, where one is not root.
pub fn unprivileged(program: &str) -> (Command, String) {
    if rustix::process::geteuid().is_root() {
        let mut start = command("/usr/bin/setpriv");
        start.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", program]);
        return (start, "nobody".to_owned());
    }
    let own = command("/usr/bin/id").arg("-un").output().expect("id");
    (command(program), String::from_utf8_lossy(&own.stdout).trim().to_owned())
}
