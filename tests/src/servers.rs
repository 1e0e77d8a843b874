//! Servers of a test with ports and directories of their own. `tests/run` brings the programs, and
//! names them in the environment.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
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

/// An authority and a certificate of it for 127.0.0.1, in files: `ca.pem`, `own.pem`, `own.key`.
///
/// # Panics
/// When they cannot be made.
pub fn certificates(directory: &Path) {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = key();
    let certificate = authority.self_signed(&authority_key).expect("signed");
    fs::write(directory.join("ca.pem"), certificate.pem()).expect("written");
    let issuer = Issuer::new(authority, authority_key);
    let own_key = key();
    let mut own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    // With the authority's name it would seem to be signed by itself.
    own.distinguished_name.push(DnType::CommonName, "own");
    let own = own.signed_by(&own_key, &issuer).expect("signed");
    fs::write(directory.join("own.pem"), own.pem()).expect("written");
    fs::write(directory.join("own.key"), own_key.serialize_pem()).expect("written");
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

/// A PostgreSQL server of the version that the system has.
#[derive(Debug)]
pub struct Postgres {
    /// Where it listens.
    pub port: u16,
    directory: PathBuf,
}

impl Postgres {
    /// Starts a primary, and waits until it answers. Everybody on this machine may do everything there.
    ///
    /// # Panics
    /// When it does not.
    pub fn primary() -> Self {
        Self::with("max_prepared_transactions=2")
    }

    /// The same with a setting.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn with(setting: &str) -> Self {
        let server = Self::new();
        server.run("initdb", &["-D", "data", "-A", "trust", "-U", "hostler", "--no-sync"]);
        server.start(setting);
        server
    }

    /// Starts one that speaks TLS, with the certificate and key of [`certificates`] in its directory.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn with_tls() -> Self {
        let server = Self::new();
        server.run("initdb", &["-D", "data", "-A", "trust", "-U", "hostler", "--no-sync"]);
        certificates(&server.directory);
        let key = server.directory.join("own.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
        Self::give(&key);
        server.start("ssl=on -c ssl_cert_file=../own.pem -c ssl_key_file=../own.key");
        server
    }

    /// The authority that signed its certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Starts a standby of it that reads from a replication slot of its own.
    ///
    /// # Panics
    /// When it does not follow.
    pub fn standby(&self, slot: &str) -> Self {
        let server = Self::new();
        let port = self.port.to_string();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "hostler", "-D", "data"];
        server.run("pg_basebackup", &[&from[..], &["-R", "-C", "-S", slot, "-c", "fast"]].concat());
        server.start("max_prepared_transactions=2");
        server
    }

    fn new() -> Self {
        let port = free_port();
        let directory = PathBuf::from(format!("/var/tmp/hostler-pg-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let server = Self { port, directory };
        Self::give(&server.directory);
        server
    }

    /// Makes a path the one of the user as whom it runs.
    fn give(path: &Path) {
        if rustix::process::geteuid().is_root() {
            let chown = command("/usr/bin/chown").arg("postgres").arg(path).status();
            assert!(chown.expect("chown").success());
        }
    }

    fn start(&self, setting: &str) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -p {} -k {} -c fsync=off -c {setting}",
            self.port,
            self.directory.display()
        );
        self.run("pg_ctl", &["-D", "data", "-s", "-w", "-l", "log", "-o", &options, "start"]);
    }

    /// Stops it.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", "data", "-s", "-m", "fast", "stop"]);
    }

    /// What a statement answers.
    ///
    /// # Panics
    /// When it fails.
    pub fn psql(&self, sql: &str) -> String {
        let url = format!("postgres://hostler@127.0.0.1:{}/postgres", self.port);
        let output = command("/usr/bin/psql").args(["-qAt", &url, "-c", sql]).output();
        let output = output.expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// PostgreSQL does not run as root.
    fn run(&self, program: &str, words: &[&str]) {
        let mut programs: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .expect("PostgreSQL is installed")
            .flatten()
            .map(|version| version.path().join("bin").join(program))
            .collect();
        programs.sort();
        let program = programs.pop().expect("a version");
        let mut run = match rustix::process::geteuid().is_root() {
            false => command(&program),
            true => {
                let mut run = command("/usr/bin/setpriv");
                run.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(&program);
                run
            }
        };
        run.current_dir(&self.directory).args(words).stdout(std::process::Stdio::null());
        let log = fs::File::create(self.directory.join("said")).expect("a file");
        let status = run.stderr(log).status().expect("it can be started");
        let said = fs::read_to_string(self.directory.join("said")).unwrap_or_default();
        assert!(status.success(), "{}: {said}", program.display());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.directory.join("data/postmaster.pid")).ok();
        let pid = pid.and_then(|text| text.lines().next()?.parse().ok()).and_then(Pid::from_raw);
        // SIGQUIT is an immediate shutdown.
        if let Some(pid) = pid
            && kill_process(pid, Signal::QUIT).is_ok()
        {
            for _ in 0..100 {
                if !self.directory.join("data/postmaster.pid").exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
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
