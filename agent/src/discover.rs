//! What runs on this host, as a stack file could say it: found from processes, their units, their
//! directories and their sockets. No password is looked for, and nobody is asked over the network but a
//! Redis of this host with which workers of Celery are connected: whether it is their broker.

mod access_log;
mod applications;
mod around;
mod brokers;
pub mod checked;
mod clusters;
mod connected;
mod differences;
pub mod keeper;
mod master;
mod remembered;
mod served;
mod system;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use self::{
    brokers::Broker, clusters::Cluster, connected::Connection, served::Served, system::is_system,
};
use crate::{
    host::processes::{self, Seen, Users, in_container, with_arguments, working_directory},
    ops::{net, pm2},
};

/// Directories above which no checkout is looked for.
const DEEPEST: usize = 6;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Units that belong to applications and their services.
    pub units: BTreeSet<String>,
    /// Those of them that something starts at boot.
    pub at_boot: BTreeSet<String>,
    /// PostgreSQL clusters, with the unit.
    pub postgres: BTreeMap<Cluster, String>,
    /// Addresses of Redis and Valkey servers, with the unit.
    pub redis: BTreeMap<String, String>,
    /// Names of those of them whose unit starts at boot, by address.
    pub redis_names: BTreeMap<String, String>,
    /// Applications of Celery workers.
    pub celery: BTreeMap<String, Workers>,
    /// What those are connected with.
    connections: Vec<Connection>,
    /// Workers whose broker is certain.
    brokers: BTreeSet<Broker>,
    /// Homes of PM2 daemons, with the unit.
    pub pm2: BTreeMap<String, String>,
    /// The unit of nginx, where it runs; empty where it runs in none.
    pub nginx: Option<String>,
    /// Main processes of nginx.
    masters: Vec<u32>,
    /// Whether it is the nginx whose configuration `nginx.test` looks at, where that can be told.
    tested: Option<bool>,
    /// Whether it writes its requests where and as the probe reads them, where that can be told.
    requests: Option<bool>,
    /// Checkouts from which processes run.
    pub git: BTreeSet<PathBuf>,
    /// Python environments from which processes run, and those of checkouts.
    pub virtualenvs: BTreeSet<PathBuf>,
    /// Front ends with a lock file of pnpm.
    pub frontends: BTreeSet<PathBuf>,
    /// Directories that hold dumps of databases.
    pub backups: BTreeSet<PathBuf>,
    /// Ports of what may speak HTTP.
    pub served: BTreeMap<u16, Served>,
}

/// Workers of one application of Celery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workers {
    /// Their unit.
    pub unit: String,
    /// The application, as it was given to `celery -A`.
    pub app: String,
    /// How their own tool is asked, where their command line tells it.
    pub tool: Option<Tool>,
    /// Their processes, with the unit of each: one application may have several.
    pub processes: BTreeMap<u32, String>,
}

/// Celery's own tool, as a stack file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The virtualenv's `celery`.
    pub command: String,
    /// The application, as `celery -A` takes it.
    pub app: String,
    /// Where the application is found.
    pub directory: String,
    /// As whom.
    pub user: String,
}

impl Tool {
    fn new(words: &[&str], app: &str, seen: &Seen) -> Option<Self> {
        // An application's code is never run as root.
        if seen.uid == 0 {
            return None;
        }
        let named = |word: &&&str| word.starts_with('/') && word.ends_with("/celery");
        let command = (*words.iter().find(named)?).to_owned();
        let directory = working_directory(seen.pid)?.to_str()?.to_owned();
        let user = Users::read().name(seen.uid);
        let tool = Self { command, app: app.to_owned(), directory, user };
        // They stand in a comment too, which must not end before they do.
        let parts = [&tool.command, &tool.app, &tool.directory, &tool.user];
        parts.iter().all(|p| !p.is_empty() && !p.contains(char::is_control)).then_some(tool)
    }
}

impl Found {
    /// Looks. Blocks on /proc and the disk for some milliseconds.
    pub fn look() -> Self {
        let mut found = Self::default();
        for (seen, arguments) in with_arguments() {
            found.process(&seen, &arguments);
        }
        for checkout in &found.git {
            found.virtualenvs.extend(applications::environments(checkout));
            found.frontends.extend(applications::frontends(checkout));
        }
        found.backups = applications::backups(&found.git).collect();
        found.connect();
        found.requests = access_log::is_read(&found.masters);
        // Without the kernel's list nothing is suggested.
        let mut listeners = net::listening().unwrap_or_default();
        // A container may share this host's network.
        listeners.retain(|l| !l.pids.first().is_some_and(|pid| in_container(*pid)));
        found.served(listeners);
        found
    }

    fn process(&mut self, seen: &Seen, arguments: &[String]) {
        let title = arguments.join(" ");
        let program = arguments.first().map_or("", |a| a.rsplit('/').next().unwrap_or_default());
        let unit = seen.unit.clone();
        let words: Vec<&str> = title.split_whitespace().collect();
        // A worker with setproctitle has its arguments in brackets.
        let plain: Vec<&str> = words.iter().map(|w| w.trim_matches(['(', ')'])).collect();
        match program {
            "postgres" | "postmaster" => {
                // However it was told where its data is, it works there.
                let data = working_directory(seen.pid);
                let cluster = data.and_then(|data| Cluster::of(&data, seen.pid));
                self.postgres.extend(cluster.map(|cluster| (cluster, unit.clone())));
            }
            _ if (title.contains("redis-server") || title.contains("valkey-server"))
                && !title.contains("[sentinel]") =>
            {
                let address = redis_address(words.get(1).copied().unwrap_or("127.0.0.1:6379"));
                if let Some(address) = address.filter(|a| counts(&unit, self.redis.get(a))) {
                    self.redis.insert(address, unit.clone());
                }
            }
            _ if title.starts_with("nginx: master") => self.master(seen.pid, &unit),
            _ if title.starts_with("PM2 ") => {
                let home = pm2::home(&title, seen.uid).map(ToOwned::to_owned);
                self.pm2.extend(home.map(|home| (home, unit.clone())));
            }
            _ if title.contains("celery") && plain.contains(&"worker") => {
                let words = plain;
                let app = words.iter().skip_while(|w| !["-A", "--app"].contains(w)).nth(1).copied();
                let joined = || words.iter().find_map(|w| w.strip_prefix("--app="));
                let app = app.or_else(joined).unwrap_or_default();
                let name = app.split('.').next().unwrap_or_default();
                let name = if name.is_empty() || name == "src" { "app" } else { name };
                let tool = Tool::new(&words, app, seen);
                // Several applications may have the same beginning.
                let other = self.celery.get(name).is_some_and(|there| there.app != app);
                let name = if other { app } else { name };
                let workers = self.celery.entry(name.to_owned()).or_default();
                workers.processes.insert(seen.pid, unit.clone());
                (workers.unit, workers.app, workers.tool) = (unit.clone(), app.to_owned(), tool);
            }
            _ => {}
        }
        if is_service(&unit) {
            self.units.insert(unit);
            let programs = arguments.iter().take(2);
            self.virtualenvs.extend(programs.filter_map(|a| applications::environment(a)));
            if let Some(directory) = working_directory(seen.pid) {
                // PM2's applications run in theirs.
                self.frontends.extend(applications::frontends(&directory));
                self.git.extend(checkout(&directory));
            }
        }
    }
}

/// Whether a process counts, where another one was found for the same: a service does more than what
/// runs in a container or was started by hand.
fn counts(unit: &str, there: Option<&String>) -> bool {
    there.is_none_or(|there| is_service(unit) || !is_service(there))
}

/// Whether a unit is a service that this host has beside the system itself.
fn is_service(unit: &str) -> bool {
    processes::is_service(unit) && !is_system(unit)
}

/// Where a Redis server says in its title that it listens, as a URL has it: those of IPv6 stand there without
/// brackets, and a '-' before an address that may be missing.
fn redis_address(title: &str) -> Option<String> {
    let (host, port) = title.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = match host.strip_prefix('-').unwrap_or(host) {
        "*" => "127.0.0.1",
        "::*" => "::",
        host => host,
    };
    Some(bracketed(&format!("{host}:{port}")))
}

/// An address with a port, as a URL has it.
fn bracketed(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((ip, port)) if ip.contains(':') && !ip.starts_with('[') => format!("[{ip}]:{port}"),
        _ => address.to_owned(),
    }
}

/// How a Redis server is called at first. No name of a check has the brackets of an address.
fn redis_name(address: &str, only: bool) -> String {
    if only { "main".to_owned() } else { address.replace(['[', ']'], "") }
}

/// The checkout that a directory belongs to.
fn checkout(directory: &Path) -> Option<PathBuf> {
    let mut above = directory.ancestors().take(DEEPEST).filter(|d| d.components().count() > 1);
    above.find(|d| d.join(".git").exists()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// A directory that this user owns, in the place of a PM2 home.
    pub(super) const HOME: &str = env!("CARGO_MANIFEST_DIR");

    pub(super) fn seen(unit: &str) -> Seen {
        Seen {
            pid: 0,
            parent: 1,
            command: String::new(),
            uid: std::fs::metadata(HOME).expect("a directory").uid(),
            unit: unit.into(),
            ticks: 0,
            started: 0,
            memory: 0,
            threads: 1,
            state: 'S',
        }
    }

    pub(super) fn found(processes: &[(&str, &str)]) -> Found {
        let mut found = Found::default();
        for (unit, line) in processes {
            let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
            found.process(&seen(unit), &words);
        }
        found
    }

    pub(super) fn omnidoc() -> Found {
        let pm2 = format!("PM2 v7.0.4: God Daemon ({HOME})");
        found(&[
            ("redis-server.service", "/usr/bin/redis-server 127.0.0.1:6379"),
            ("omnidoc-celery.service", "/opt/x/bin/python /opt/x/bin/celery -A omnidoc.app worker"),
            ("pm2-omnidoc.service", &pm2),
            ("nginx.service", "nginx: master process /usr/sbin/nginx"),
            ("systemd-journald.service", "/lib/systemd/systemd-journald"),
            ("session-1.scope", "bash"),
        ])
    }

    #[test]
    fn services_are_known_by_their_processes_and_the_systems_own_are_left_out() {
        let found = omnidoc();
        let units: Vec<_> = found.units.iter().map(String::as_str).collect();
        assert_eq!(
            units,
            [
                "nginx.service",
                "omnidoc-celery.service",
                "pm2-omnidoc.service",
                "redis-server.service"
            ]
        );
        assert!(found.redis.contains_key("127.0.0.1:6379"));
        assert_eq!(found.nginx.as_deref(), Some("nginx.service"));
        assert_eq!(found.pm2, [(HOME.to_owned(), "pm2-omnidoc.service".to_owned())].into());
        assert!(found.celery.contains_key("omnidoc"));
    }

    #[test]
    fn a_redis_server_is_known_by_its_address_as_a_url_has_it() {
        for (title, address) in [
            ("*:6379", "127.0.0.1:6379"),
            ("0.0.0.0:6379", "0.0.0.0:6379"),
            ("::1:6379", "[::1]:6379"),
            ("-::1:6379", "[::1]:6379"),
            ("::*:6379", "[::]:6379"),
            ("fd00::7:6380", "[fd00::7]:6380"),
        ] {
            assert_eq!(redis_address(title).as_deref(), Some(address), "{title}");
        }
        assert_eq!((redis_address("/etc/redis.conf"), redis_address("--port")), (None, None));
        assert_eq!(bracketed("[::1]:6379"), "[::1]:6379");
    }

    #[test]
    fn a_server_in_a_container_does_not_hide_the_service_at_the_same_address() {
        let own = ("redis.service", "/usr/bin/redis-server 127.0.0.1:6379");
        let other = ("docker-1.scope", "redis-server *:6379");
        let web = ("web.service", "nginx: master process /usr/sbin/nginx");
        let other_web = ("docker-2.scope", "nginx: master process nginx");
        for processes in [[own, other, web, other_web], [other, own, other_web, web]] {
            let found = found(&processes);
            assert_eq!(found.redis["127.0.0.1:6379"], "redis.service");
            assert_eq!(found.nginx.as_deref(), Some("web.service"));
        }
    }

    #[test]
    fn applications_of_celery_that_begin_alike_are_two_and_a_title_tells_as_much_as_a_command_line()
    {
        let found = found(&[
            ("a.service", "[celeryd: celery@h1:MainProcess] -active- (-A src.a.app worker)"),
            ("b.service", "/opt/x/bin/python /opt/x/bin/celery --app=src.b.app worker"),
        ]);
        let apps: Vec<_> =
            found.celery.iter().map(|(n, w)| (n.as_str(), w.unit.as_str())).collect();
        assert_eq!(apps, [("app", "a.service"), ("src.b.app", "b.service")]);
        assert_eq!(found.celery["app"].app, "src.a.app");
        let units: Vec<&String> = found.celery["app"].processes.values().collect();
        assert_eq!(units, ["a.service"]);
    }

    #[test]
    fn whoever_calls_a_process_like_a_pm2_daemon_and_owns_no_home_of_one_is_none() {
        for title in [
            "PM2 v9: God Daemon (/nonexistent/.pm2)",
            "PM2 v9: God Daemon (/nonexistent/.pm2) 100",
            "PM2 v9: God Daemon (relative)",
        ] {
            assert_eq!(found(&[("session-1.scope", title)]).pm2, BTreeMap::new(), "{title}");
        }
    }
}
