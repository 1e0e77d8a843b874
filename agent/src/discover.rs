//! What runs on this host, as a stack file could say it: found from processes, their units, their
//! directories and their sockets. Nothing is asked over the network, and no password is looked for.

mod applications;
pub mod remembered;
mod served;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use self::served::Served;
use crate::{
    host::{
        files,
        processes::{Seen, Users, with_arguments, working_directory},
    },
    ops::net,
    stack::Stack,
};

/// Units of the system itself: they are watched together, by the check `units`.
const SYSTEM: [&str; 14] = [
    "systemd-",
    "dbus",
    "cron",
    "ssh",
    "getty@",
    "serial-getty@",
    "console-getty",
    "user@",
    "polkit",
    "rsyslog",
    "unattended-upgrades",
    "networking",
    "hostler-",
    "init",
];
/// Directories above which no checkout is looked for.
const DEEPEST: usize = 6;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Units that belong to applications and their services.
    pub units: BTreeSet<String>,
    /// Those of them that something starts at boot.
    pub at_boot: BTreeSet<String>,
    /// Ports of PostgreSQL clusters, with the socket's directory and the unit.
    pub postgres: BTreeMap<u16, (String, String)>,
    /// Addresses of Redis and Valkey servers, with the unit.
    pub redis: BTreeMap<String, String>,
    /// Applications of Celery workers.
    pub celery: BTreeMap<String, Workers>,
    /// Homes of PM2 daemons.
    pub pm2: BTreeSet<String>,
    /// nginx runs.
    pub nginx: bool,
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
    /// How their own tool is asked, where their command line tells it.
    pub tool: Option<Tool>,
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

    /// The lines of a stack file.
    fn lines(&self) -> [String; 4] {
        let line = |key: &str, value: &str| format!("{key} = {}\n", quoted(value));
        [
            line("command", &self.command),
            line("app", &self.app),
            line("directory", &self.directory),
            line("user", &self.user),
        ]
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
        // Without the kernel's list nothing is suggested.
        found.served(net::listening().unwrap_or_default());
        found
    }

    fn process(&mut self, seen: &Seen, arguments: &[String]) {
        let title = arguments.join(" ");
        let program = arguments.first().map_or("", |a| a.rsplit('/').next().unwrap_or_default());
        let unit = seen.unit.clone();
        let words: Vec<&str> = title.split_whitespace().collect();
        match program {
            "postgres" if words.contains(&"-D") => {
                let data = words.iter().skip_while(|w| **w != "-D").nth(1).copied().unwrap_or("");
                if let Some((port, socket)) = cluster(Path::new(data)) {
                    self.postgres.insert(port, (socket, unit.clone()));
                }
            }
            _ if (title.contains("redis-server") || title.contains("valkey-server"))
                && !title.contains("[sentinel]") =>
            {
                let address = words.get(1).copied().unwrap_or("127.0.0.1:6379");
                let address = address.replace('*', "127.0.0.1");
                if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                    self.redis.insert(address, unit.clone());
                }
            }
            _ if title.starts_with("nginx: master") => self.nginx = true,
            _ if title.starts_with("PM2 ") && title.contains("God Daemon (") => {
                let home = title.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
                self.pm2.insert(home.to_owned());
            }
            _ if title.contains("celery") && words.contains(&"worker") => {
                let app = words.iter().skip_while(|w| !["-A", "--app"].contains(w)).nth(1).copied();
                let joined = || words.iter().find_map(|w| w.strip_prefix("--app="));
                let app = app.or_else(joined).unwrap_or_default();
                let name = app.split('.').next().unwrap_or_default();
                let name = if name.is_empty() || name == "src" { "app" } else { name };
                let tool = Tool::new(&words, app, seen);
                self.celery.insert(name.to_owned(), Workers { unit: unit.clone(), tool });
            }
            _ => {}
        }
        let own = unit.ends_with(".service") && !SYSTEM.iter().any(|s| unit.starts_with(s));
        if own {
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

    fn redis_name<'a>(&self, address: &'a str) -> &'a str {
        if self.redis.len() == 1 { "main" } else { address }
    }

    /// The stack file, with a comment wherever somebody has to decide.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# What is on this host and how it is checked, as `hostler-agent discover` found it.\n\
             # docs/checks.md explains every key; try it with: hostler-agent check-config\n",
        );
        let mut add = |part: String| text.push_str(&part);
        for unit in &self.units {
            add(format!("\n[[unit]]\nname = {}\n", quoted(unit)));
        }
        for (port, (socket, unit)) in &self.postgres {
            let name =
                if self.postgres.len() == 1 { "main".to_owned() } else { format!("p{port}") };
            add(format!(
                "\n# A role for the agent: CREATE ROLE hostler LOGIN; GRANT pg_monitor TO hostler;\n\
                 # its password in a file of mode 0600. The socket is in {socket:?}.\n\
                 [[postgres]]\nname = \"{name}\"\nurl = \"postgres://hostler@127.0.0.1:{port}/postgres\"\n\
                 password_file = \"/etc/hostler/postgres.password\"\n{}",
                after(unit)
            ));
        }
        for (address, unit) in &self.redis {
            let name = self.redis_name(address);
            add(format!(
                "\n[[redis]]\nname = {}\nurl = {}\n\
                 # password_file = \"/etc/hostler/redis.password\"   # where it asks for one\n{}",
                quoted(name),
                quoted(&format!("redis://{address}/0")),
                after(unit)
            ));
        }
        for (app, workers) in &self.celery {
            let tool = workers.tool.as_ref().map(Tool::lines);
            let hint = |lines: &[String; 4]| format!("# {}", lines.join("# "));
            let broker = match (self.redis.len(), tool) {
                (0, Some(lines)) => lines.concat(),
                (1, tool) => {
                    let other =
                        "   # its broker; where it is another than this Redis, in place of it:";
                    let tool = tool.as_ref().map(|lines| format!("{other}\n{}", hint(lines)));
                    format!("broker = \"main\"{}", tool.unwrap_or_else(|| "\n".to_owned()))
                }
                (_, tool) => format!(
                    "broker = \"\"   # name of the [[redis]] that is its broker; where it is none, in \
                     place of it\n{}",
                    tool.as_ref().map_or_else(
                        || "# command, app, directory and user: docs/checks.md\n".to_owned(),
                        hint
                    )
                ),
            };
            let unit = after(&workers.unit);
            add(format!("\n[[celery]]\nname = {}\n{broker}{unit}", quoted(app)));
        }
        if !self.pm2.is_empty() {
            add(
                "\n[pm2]\napps = []   # names that must be there; all that are there are watched\n"
                    .into(),
            );
        }
        if self.nginx {
            add("\n[nginx]\naccess_log = \"/var/log/nginx/access.log\"\n\
                 # status_url = \"http://127.0.0.1/nginx_status\"   # where stub_status is served\n"
                .into());
        }
        add(served::suggestions(&self.served));
        for path in &self.git {
            let name = path.file_name().map_or("app".into(), |n| n.to_string_lossy());
            let (name, path) = (quoted(&name), quoted(&path.to_string_lossy()));
            add(format!("\n[[git]]\nname = {name}\npath = {path}\n"));
        }
        for (kind, paths) in [("virtualenv", &self.virtualenvs), ("frontend", &self.frontends)] {
            for (name, path) in applications::named(paths) {
                let (name, path) = (quoted(&name), quoted(&path.to_string_lossy()));
                add(format!("\n[[{kind}]]\nname = {name}\npath = {path}\n"));
            }
        }
        for (name, path) in applications::named(&self.backups) {
            let (name, path) = (quoted(&name), quoted(&path.to_string_lossy()));
            add(format!(
                "\n[[backups]]\nname = {name}\ndirectory = {path}\n\
                 newer_than = \"26h\"   # age that the newest must not reach\n\
                 # pattern = \"*.dump\"   # names that they have\n"
            ));
        }
        text
    }

    /// What runs and the stack file does not name, and what it names and does not run; one sentence
    /// each.
    pub fn differences(&self, stack: &Stack) -> Vec<String> {
        let mut said = Vec::new();
        let full = |name: &str| match name.contains('.') {
            true => name.to_owned(),
            false => format!("{name}.service"),
        };
        let named: BTreeSet<String> = stack.units.iter().map(|u| full(&u.name)).collect();
        said.extend(
            self.units.difference(&named).map(|u| format!("{u} runs and is not in the stack file")),
        );
        said.extend(
            named
                .difference(&self.units)
                .map(|u| format!("{u} is in the stack file and has no process")),
        );
        for port in self.postgres.keys() {
            if !stack.postgres.iter().any(|p| p.url.contains(&format!(":{port}/"))) {
                said.push(format!(
                    "PostgreSQL listens on port {port} and is not in the stack file"
                ));
            }
        }
        for address in self.redis.keys() {
            let port = address.rsplit(':').next().unwrap_or_default();
            if !stack.redis.iter().any(|r| r.url.contains(&format!(":{port}"))) {
                said.push(format!("Redis listens on {address} and is not in the stack file"));
            }
        }
        for path in &self.git {
            if !stack.git.iter().any(|g| g.path == *path) {
                said.push(format!(
                    "processes run from {}, which is not in the stack file",
                    path.display()
                ));
            }
        }
        let virtualenvs = stack.virtualenvs.iter().map(|v| &v.path).collect();
        let frontends = stack.frontends.iter().map(|f| &f.path).collect();
        let backups = stack.backups.iter().map(|b| &b.directory).collect();
        for (what, paths, named) in [
            ("a Python environment", &self.virtualenvs, virtualenvs),
            ("a front end of pnpm", &self.frontends, frontends),
            ("a directory with dumps of databases", &self.backups, backups),
        ] {
            let named: BTreeSet<&PathBuf> = named;
            for path in paths.iter().filter(|p| !named.contains(p)) {
                said.push(format!("{} is {what} and not in the stack file", path.display()));
            }
        }
        if !self.celery.is_empty() && stack.celery.is_empty() {
            said.push("Celery workers run and are not in the stack file".to_owned());
        }
        if !self.pm2.is_empty() && stack.pm2.is_none() {
            said.push("a PM2 daemon runs and is not in the stack file".to_owned());
        }
        if self.nginx && stack.nginx.is_none() {
            said.push("nginx runs and is not in the stack file".to_owned());
        }
        said
    }
}

fn after(unit: &str) -> String {
    match unit.strip_suffix(".service") {
        Some(short) => format!("after = [{}]\n", quoted(&format!("unit:{short}"))),
        None => String::new(),
    }
}

/// A string of TOML. Who names directories and processes must not write the stack file.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Port and socket directory of a cluster, from the fourth and fifth line of its postmaster.pid.
fn cluster(data: &Path) -> Option<(u16, String)> {
    let text = String::from_utf8(files::small(&data.join("postmaster.pid")).ok()?).ok()?;
    let mut lines = text.lines().skip(3);
    Some((lines.next()?.trim().parse().ok()?, lines.next()?.trim().to_owned()))
}

/// The checkout that a directory belongs to.
fn checkout(directory: &Path) -> Option<PathBuf> {
    let mut above = directory.ancestors().take(DEEPEST).filter(|d| d.components().count() > 1);
    above.find(|d| d.join(".git").exists()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(unit: &str) -> Seen {
        Seen {
            pid: 0,
            parent: 1,
            command: String::new(),
            uid: 0,
            unit: unit.into(),
            ticks: 0,
            started: 0,
            memory: 0,
            threads: 1,
            state: 'S',
        }
    }

    fn found(processes: &[(&str, &str)]) -> Found {
        let mut found = Found::default();
        for (unit, line) in processes {
            let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
            found.process(&seen(unit), &words);
        }
        found
    }

    fn omnidoc() -> Found {
        found(&[
            ("redis-server.service", "/usr/bin/redis-server 127.0.0.1:6379"),
            ("omnidoc-celery.service", "/opt/x/bin/python /opt/x/bin/celery -A omnidoc.app worker"),
            ("pm2-omnidoc.service", "PM2 v7.0.4: God Daemon (/home/x/.pm2)"),
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
        assert!(found.redis.contains_key("127.0.0.1:6379") && found.nginx);
        assert!(found.celery.contains_key("omnidoc") && found.pm2.contains("/home/x/.pm2"));
    }

    #[test]
    fn the_file_that_is_written_is_a_stack_file_that_says_the_same() {
        let mut found = omnidoc();
        found
            .postgres
            .insert(5432, ("/run/postgresql".into(), "postgresql@15-main.service".into()));
        found.units.insert("postgresql@15-main.service".into());
        found.git.insert("/opt/omnidoc".into());
        found.virtualenvs.extend(["/opt/omnidoc/.venv".into(), "/opt/other/.venv".into()]);
        found.frontends.insert("/opt/omnidoc/frontend".into());
        found.backups.insert("/opt/omnidoc/backups".into());
        let text = found.to_toml();
        let stack: Stack = toml::from_str(&text).expect(&text);
        assert_eq!(found.differences(&stack), Vec::<String>::new());
        let catalogue = hostler_proto::catalogue::Catalogue::embedded();
        crate::checks::definition::checks(&stack, true, catalogue).expect("checks");
        let nothing = found.differences(&Stack::default());
        assert_eq!(nothing.len(), 5 + 1 + 1 + 1 + 4 + 3, "{nothing:?}");
    }

    #[test]
    fn workers_without_a_redis_beside_them_are_asked_by_their_own_tool() {
        let line = "/opt/x/bin/python /opt/x/bin/celery -A shop.app worker";
        let words: Vec<&str> = line.split(' ').collect();
        let own = Seen { pid: std::process::id(), uid: 65534, ..seen("shop.service") };
        let tool = Tool::new(&words, "shop.app", &own).expect("a tool");
        let directory = std::env::current_dir().expect("directory").display().to_string();
        assert_eq!((tool.command.as_str(), &tool.directory), ("/opt/x/bin/celery", &directory));
        let mut found = Found::default();
        let workers = Workers { unit: "shop.service".into(), tool: Some(tool.clone()) };
        found.celery.insert("shop".into(), workers);
        let celery = |found: &Found| {
            let text = found.to_toml();
            toml::from_str::<Stack>(&text).expect(&text).celery.remove(0)
        };
        let asked = celery(&found);
        assert_eq!((asked.app.as_deref(), asked.broker), (Some("shop.app"), None));
        assert_eq!(asked.command.as_deref(), Some(Path::new("/opt/x/bin/celery")));
        found.redis.insert("127.0.0.1:6379".into(), String::new());
        let asked = celery(&found);
        assert_eq!((asked.broker.as_deref(), asked.command), (Some("main"), None));
        assert!(found.to_toml().contains("# command = \"/opt/x/bin/celery\"\n# app"));
        assert_eq!(Tool::new(&words, "shop\napp", &own), None, "it would end its comment");
    }

    #[test]
    fn a_name_that_would_write_the_stack_file_is_a_name_and_nothing_else() {
        let evil = "a\"\n[[plugin]]\nname = \"x\"\ncommand = [\"/bin/id\"]\n# '''\"\"\"\\";
        let path = PathBuf::from(format!("/opt/{evil}"));
        let mut found = Found::default();
        found.units.insert(format!("{evil}.service"));
        found.postgres.insert(5432, (evil.to_owned(), format!("{evil}.service")));
        found.redis.insert(evil.to_owned(), format!("{evil}.service"));
        found.celery.insert(evil.to_owned(), Workers::default());
        let paths =
            [&mut found.git, &mut found.virtualenvs, &mut found.frontends, &mut found.backups];
        for paths in paths {
            paths.insert(path.clone());
        }
        let text = found.to_toml();
        let stack: Stack = toml::from_str(&text).expect(&text);
        assert!(stack.plugins.is_empty());
        assert_eq!(stack.units[0].name, format!("{evil}.service"));
        assert_eq!((&stack.git[0].path, &stack.virtualenvs[0].path), (&path, &path));
        assert_eq!((&stack.frontends[0].path, &stack.backups[0].directory), (&path, &path));
    }
}
