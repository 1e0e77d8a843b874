//! What was found, as a stack file that somebody can go through.

use super::{
    Found, Tool, Workers, applications,
    brokers::{self, Application},
    clusters, is_service, redis_name, served,
};
use crate::checks::definition::of_unit;

impl Found {
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
        for (name, cluster, unit) in clusters::named(self.postgres.iter()) {
            let socket = match cluster.socket.as_str() {
                "" => String::new(),
                socket => format!(" The socket is in {socket:?}."),
            };
            add(format!(
                "\n# A role for the agent: CREATE ROLE hostler LOGIN; GRANT pg_monitor TO hostler;\n\
                 # its password in a file of mode 0600.{socket}\n\
                 [[postgres]]\nname = \"{name}\"\nurl = {}\n\
                 password_file = \"/etc/hostler/postgres.password\"\n{}",
                quoted(&cluster.url("postgres")),
                after(unit)
            ));
        }
        let certain = brokers::certain(self.brokers.iter());
        for (address, unit) in &self.redis {
            let broker = certain.iter().find(|application| application.server == address);
            let db = broker.map_or(0, |application| application.db);
            let name = redis_name(address, self.redis.len() == 1);
            add(format!(
                "\n[[redis]]\nname = {}\nurl = {}\n\
                 # password_file = \"/etc/hostler/redis.password\"   # where it asks for one\n{}",
                quoted(&name),
                quoted(&format!("redis://{address}/{db}")),
                after(unit)
            ));
        }
        for (app, workers) in &self.celery {
            let broker = certain.iter().find(|application| application.name == app);
            add(self.workers(app, workers, broker));
        }
        if !self.pm2.is_empty() {
            add(
                "\n[pm2]\napps = []   # names that must be there; all that are there are watched\n"
                    .into(),
            );
        }
        if self.nginx.is_some() {
            add("\n[nginx]\naccess_log = \"/var/log/nginx/access.log\"\n\
                 # status_url = \"http://127.0.0.1/nginx_status\"   # where stub_status is served\n"
                .into());
        }
        add(served::suggestions(&self.served));
        let paths =
            [("git", &self.git), ("virtualenv", &self.virtualenvs), ("frontend", &self.frontends)];
        for (kind, paths) in paths {
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

    /// Workers: as a comment where nobody but people can tell how they are asked.
    fn workers(&self, app: &str, workers: &Workers, broker: Option<&Application<'_>>) -> String {
        let (name, unit) = (quoted(app), after(&workers.unit));
        let entry = |how: &str| format!("[[celery]]\nname = {name}\n{how}{unit}");
        if let Some(broker) = broker {
            let broker = quoted(&redis_name(broker.server, self.redis.len() == 1));
            return format!("\n{}", entry(&format!("broker = {broker}\n")));
        }
        let tool = workers.tool.as_ref().map(|tool| tool.lines().concat());
        match (self.redis.len(), tool) {
            (0, Some(tool)) => format!("\n{}", entry(&tool)),
            (1, None) => format!("\n{}", entry("broker = \"main\"\n")),
            (1, Some(tool)) => {
                let other = "   # its broker; where it is another than this Redis, in place of it:";
                let how = format!("broker = \"main\"{other}\n{}", commented(&tool));
                format!("\n{}", entry(&how))
            }
            (_, tool) => {
                let other = "# command, app, directory and user: docs/checks.md\n".to_owned();
                let other = tool.map_or(other, |tool| commented(&tool));
                let how = format!(
                    "broker = \"\"   # name of the [[redis]] that is its broker; where it is none, in \
                     place of it:\n{other}"
                );
                format!(
                    "\n# Celery workers run here. Say how they are asked, and take away the #:\n{}",
                    commented(&entry(&how))
                )
            }
        }
    }
}

/// Each line as a comment.
fn commented(lines: &str) -> String {
    lines.lines().map(|line| format!("# {line}\n")).collect()
}

impl Tool {
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

pub(super) fn after(unit: &str) -> String {
    match is_service(unit) {
        true => format!("after = [{}]\n", quoted(&of_unit(unit))),
        false => String::new(),
    }
}

/// A string of TOML. Who names directories and processes must not write the stack file.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{clusters::Cluster, *};
    use crate::{
        checks::definition,
        discover::{
            around::Around,
            brokers::Broker,
            tests::{self, omnidoc, seen},
        },
        host::processes::Seen,
        stack::Stack,
    };

    fn shop() -> Workers {
        Workers { unit: "shop.service".into(), app: "shop.app".into(), ..Workers::default() }
    }

    fn checked(stack: &Stack) {
        let catalogue = hostler_proto::catalogue::Catalogue::embedded();
        definition::checks(stack, true, catalogue).expect("checks");
    }

    #[test]
    fn the_file_that_is_written_is_a_stack_file_that_says_the_same() {
        let mut found = omnidoc();
        let cluster = Cluster { port: 5432, address: "*".into(), socket: "/run/postgresql".into() };
        found.postgres.insert(cluster, "postgresql@15-main.service".into());
        found.units.insert("postgresql@15-main.service".into());
        found.git.insert("/opt/omnidoc".into());
        found.virtualenvs.extend(["/opt/omnidoc/.venv".into(), "/opt/other/.venv".into()]);
        found.frontends.insert("/opt/omnidoc/frontend".into());
        found.backups.insert("/opt/omnidoc/backups".into());
        let text = found.to_toml();
        let stack: Stack = toml::from_str(&text).expect(&text);
        checked(&stack);
        let names =
            |entries: &[crate::stack::Unit]| entries.iter().map(|u| u.name.clone()).collect();
        assert_eq!(found.units, names(&stack.units));
        let paths = [&stack.git[0].path, &stack.virtualenvs[1].path, &stack.backups[0].directory];
        assert_eq!(
            paths.map(|p| p.display().to_string()),
            ["/opt/omnidoc", "/opt/other/.venv", "/opt/omnidoc/backups"]
        );
        let servers = (stack.postgres.len(), stack.redis.len(), stack.celery.len());
        assert_eq!(servers, (1, 1, 1));
        assert!(stack.pm2.is_some() && stack.nginx.is_some());
    }

    #[test]
    fn whatever_directories_and_addresses_are_called_the_file_can_be_used() {
        let mut found = tests::found(&[
            ("a.service", "/usr/bin/redis-server ::1:6379"),
            ("b.service", "/usr/bin/redis-server -::1:6380"),
            // Of a user's own manager: no unit of this host.
            ("user@1000.service", "/usr/bin/redis-server 127.0.0.1:6381"),
        ]);
        let long = format!("/srv/{}", "a".repeat(200));
        for path in ["/opt/a/app", "/opt/b/app", "/srv/my app", "/srv/Überblick", &long] {
            found.git.insert(path.into());
        }
        let text = found.to_toml();
        let stack: Stack = toml::from_str(&text).expect(&text);
        checked(&stack);
        assert_eq!((stack.git.len(), stack.redis.len(), stack.units.len()), (5, 3, 2), "{text}");
        let urls: Vec<_> = stack.redis.iter().map(|redis| redis.url.as_str()).collect();
        assert!(urls.contains(&"redis://[::1]:6379/0") && urls.contains(&"redis://[::1]:6380/0"));
    }

    #[test]
    fn clusters_with_one_port_at_several_addresses_are_several_entries() {
        let mut found = Found::default();
        for (address, socket) in [("127.0.0.1", ""), ("127.9.1.1", ""), ("", "/run/x")] {
            let (address, socket) = (address.into(), socket.into());
            found.postgres.insert(Cluster { port: 5433, address, socket }, String::new());
        }
        let text = found.to_toml();
        let stack: Stack = toml::from_str(&text).expect(&text);
        checked(&stack);
        let entries: Vec<_> =
            stack.postgres.iter().map(|p| (p.name.as_str(), p.url.as_str())).collect();
        assert_eq!(
            entries,
            [
                ("p5433", "postgres://hostler@localhost/postgres?host=/run/x&port=5433"),
                ("p5433-2", "postgres://hostler@127.0.0.1:5433/postgres"),
                ("p5433-3", "postgres://hostler@127.9.1.1:5433/postgres"),
            ]
        );
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
        let workers = Workers { tool: Some(tool.clone()), ..shop() };
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
    fn workers_of_which_nobody_can_tell_the_broker_are_a_comment_in_a_file_that_can_be_used() {
        let tool = Tool {
            command: "/opt/x/bin/celery".into(),
            app: "shop.app".into(),
            directory: "/opt/x".into(),
            user: "shop".into(),
        };
        for (servers, tool) in [(2, Some(tool)), (2, None), (0, None)] {
            let mut found = Found::default();
            found.units.insert("shop.service".into());
            for server in 0..servers {
                found.redis.insert(format!("127.0.0.1:{}", 6379 + server), String::new());
            }
            found.celery.insert("shop".into(), Workers { tool, ..shop() });
            let text = found.to_toml();
            let stack: Stack = toml::from_str(&text).expect(&text);
            checked(&stack);
            assert!(stack.celery.is_empty() && text.contains("\n# [[celery]]\n"), "{text}");
            let said = found.differences(&stack, &Around::default());
            assert!(said.len() == 1 && said[0].starts_with("Celery workers of shop"), "{said:?}");
            if servers == 0 {
                continue;
            }
            // Once somebody has said which, it is one.
            let decided = text.replace("# broker = \"\"", "# broker = \"127.0.0.1:6380\"");
            let (before, block) = decided.split_once("# [[celery]]\n").expect("a block");
            let block: String =
                block.lines().map(|l| format!("{}\n", l.trim_start_matches("# "))).collect();
            let block = block.split("command").next().expect("its beginning");
            let text = format!("{before}[[celery]]\n{block}");
            checked(&toml::from_str(&text).expect(&text));
        }
    }

    #[test]
    fn a_broker_that_is_certain_is_written_with_its_database_and_without_a_word() {
        let tool = Tool {
            command: "/opt/x/bin/celery".into(),
            app: "shop.app".into(),
            directory: "/opt/x".into(),
            user: "shop".into(),
        };
        for servers in [&["127.0.0.1:6379"][..], &["127.0.0.1:6379", "127.0.0.1:6380"]] {
            let mut found = Found::default();
            found.units.insert("shop.service".into());
            for server in servers {
                found.redis.insert((*server).to_owned(), String::new());
            }
            let tool = Some(tool.clone());
            found.celery.insert("shop".into(), Workers { tool, ..shop() });
            found.brokers.insert(Broker {
                app: "shop.app".into(),
                name: "shop".into(),
                unit: "shop.service".into(),
                server: "127.0.0.1:6379".into(),
                served_by: String::new(),
                db: 3,
            });
            let text = found.to_toml();
            let stack: Stack = toml::from_str(&text).expect(&text);
            checked(&stack);
            let broker = stack.celery[0].broker.as_deref().expect("a broker");
            let server = stack.redis.iter().find(|redis| redis.name == broker).expect("a server");
            assert_eq!(server.url, "redis://127.0.0.1:6379/3");
            assert!(!text.contains("its broker") && !text.contains("# command"), "{text}");
        }
    }

    #[test]
    fn a_name_that_would_write_the_stack_file_is_a_name_and_nothing_else() {
        let evil = "a\"\n[[plugin]]\nname = \"x\"\ncommand = [\"/bin/id\"]\n# '''\"\"\"\\";
        let path = PathBuf::from(format!("/opt/{evil}"));
        let mut found = Found::default();
        found.units.insert(format!("{evil}.service"));
        let cluster = Cluster { port: 5432, address: String::new(), socket: evil.to_owned() };
        found.postgres.insert(cluster, format!("{evil}.service"));
        found.redis.insert(evil.to_owned(), format!("{evil}.service"));
        found.celery.insert(evil.to_owned(), Workers::default());
        let paths =
            [&mut found.git, &mut found.virtualenvs, &mut found.frontends, &mut found.backups];
        for paths in paths {
            paths.insert(path.clone());
        }
        let written = |found: &Found| {
            let text = found.to_toml();
            let stack: Stack = toml::from_str(&text).expect(&text);
            assert!(stack.plugins.is_empty());
            stack
        };
        let stack = written(&found);
        assert_eq!(stack.units[0].name, format!("{evil}.service"));
        assert_eq!((&stack.git[0].path, &stack.virtualenvs[0].path), (&path, &path));
        assert_eq!((&stack.frontends[0].path, &stack.backups[0].directory), (&path, &path));
        // With several servers the workers are a comment, which ends where it has to.
        found.redis.insert("127.0.0.1:6379".into(), String::new());
        assert!(written(&found).celery.is_empty());
    }
}
