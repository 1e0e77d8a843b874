//! What a stack file says otherwise than what is there, in both directions: one sentence each, with
//! what to do about it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use redis::IntoConnectionInfo as _;

use super::{
    Found,
    around::{Around, reaches},
    clusters::Cluster,
    written::quoted,
};
use crate::{
    host::{place::Place, postgres, redis::place_of as redis_place},
    ops::{http, systemd::full_name},
    stack::{Celery, Http, Stack},
};

/// Programs of which one knows that they speak HTTP, as their names begin.
const WEB: [&str; 15] = [
    "nginx",
    "apache2",
    "httpd",
    "caddy",
    "lighttpd",
    "traefik",
    "haproxy",
    "uvicorn",
    "gunicorn",
    "hypercorn",
    "daphne",
    "puma",
    "unicorn",
    "node",
    "next-server",
];

/// Where a server is that the stack file names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// At an address of this host, and a port.
    Port(String, u16),
    /// At a socket of this host, which has a port in its name where it is one of PostgreSQL.
    Socket(PathBuf, Option<u16>),
    /// On another host: it is not looked for here.
    Elsewhere,
    /// Nobody can tell.
    Unreadable(String),
}

impl At {
    /// A place; a socket of PostgreSQL's has a port.
    fn of(place: Place, port: Option<u16>) -> Self {
        match place {
            Place::Socket(path) => Self::Socket(path, port),
            Place::Port { .. } if !place.is_here() => Self::Elsewhere,
            Place::Port { host, port } => Self::Port(host, port),
        }
    }

    fn postgres(url: &str) -> Self {
        match postgres::options(url) {
            Ok(options) => Self::of(postgres::place_of(&options), Some(options.get_port())),
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    fn redis(url: &str) -> Self {
        match url.into_connection_info() {
            Ok(info) => {
                redis_place(info.addr()).map_or(Self::Elsewhere, |place| Self::of(place, None))
            }
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    fn http(url: &str) -> Self {
        match http::place(url) {
            Some(place) => Self::of(place, None),
            None => Self::Unreadable("it names no host and port".to_owned()),
        }
    }

    /// Whether this is where a server is that listens at an address and a port and belongs to a unit, which
    /// may listen at more than that.
    fn is(&self, (address, port): (&str, u16), unit: &str, around: &Around) -> bool {
        // What is started by hand shares its scope with other servers.
        let service = unit.ends_with(".service");
        match self {
            Self::Port(host, own) => {
                let of = around.heard(host, *own).map(|heard| heard.unit.as_str());
                match *own == port {
                    true if reaches(host, address) || around.ports.is_none() => true,
                    true => of.is_some_and(|of| of == unit || of.is_empty()),
                    false => service && of == Some(unit),
                }
            }
            Self::Socket(path, own) => {
                let path = real(path);
                let holder = around.sockets.iter().find(|(p, _)| real(p) == path);
                let of = holder.map(|(_, unit)| unit);
                match own {
                    Some(own) => *own == port && of.is_none_or(|of| of == unit),
                    None => service && of.is_some_and(|of| of == unit),
                }
            }
            Self::Elsewhere | Self::Unreadable(_) => false,
        }
    }

    /// What is wrong with it, where nobody is there.
    fn nobody(&self, around: &Around) -> Option<String> {
        match self {
            Self::Port(host, port) => {
                let there = around.ports.as_ref()?.get(port).map_or(&[][..], Vec::as_slice);
                match there.first() {
                    _ if around.heard(host, *port).is_some() => None,
                    None => Some(format!(
                        "names port {port} of this host, where nobody listens: start the server, or \
                         correct the url"
                    )),
                    Some(other) => Some(format!(
                        "names port {port} at {host}, where nobody listens; somebody does at {}: correct \
                         the url",
                        other.address
                    )),
                }
            }
            Self::Socket(path, _) => (!path.exists()).then(|| {
                format!(
                    "names the socket {}, which is not there: start the server, or correct the url",
                    path.display()
                )
            }),
            Self::Elsewhere => None,
            Self::Unreadable(why) => {
                Some(format!("has a url that cannot be used ({why}): correct it"))
            }
        }
    }
}

/// The same path, whatever links lead there.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Sentences that one can read, whoever named the things in them.
#[derive(Debug, Default)]
struct Said(Vec<String>);

impl Said {
    fn that(&mut self, sentence: &str) {
        self.0.push(sentence.chars().map(|c| if c.is_control() { '?' } else { c }).collect());
    }
}

impl Found {
    /// What differs between a stack file and this host. Looks at this host, for some milliseconds.
    pub async fn compared(self, stack: Stack) -> Vec<String> {
        let around = Around::look(&self, &stack).await;
        // Paths are looked at.
        let compared = tokio::task::spawn_blocking(move || self.differences(&stack, &around));
        compared.await.unwrap_or_default()
    }

    /// What is there and not in the stack file, and what is in it and not there.
    pub(super) fn differences(&self, stack: &Stack, around: &Around) -> Vec<String> {
        let mut said = Said::default();
        self.compare_units(stack, around, &mut said);
        self.compare_servers(stack, around, &mut said);
        self.compare_workers(&stack.celery, &mut said);
        self.compare_web(&stack.http, around, &mut said);
        self.compare_daemons(stack, around, &mut said);
        self.compare_proxy(stack, &mut said);
        self.compare_paths(stack, &mut said);
        said.0
    }

    fn compare_units(&self, stack: &Stack, around: &Around, said: &mut Said) {
        let mut named = BTreeSet::new();
        for full in stack.units.iter().map(|unit| full_name(&unit.name)) {
            let known = around.units.as_ref().and_then(|units| units.get(&full));
            let name = known.map_or(&full, |known| &known.name).clone();
            let runs = self.units.contains(&name);
            match known {
                Some(known) if !known.exists => said.that(&format!(
                    "[[unit]] {full} does not exist on this host: correct its name, or remove the entry"
                )),
                Some(known) if known.down && !runs => said.that(&format!(
                    "[[unit]] {full} does not run: start it (systemctl start {full}), or remove the entry"
                )),
                // Where nobody can tell more, a service without a process is none that runs.
                None if !runs && full.ends_with(".service") => said.that(&format!(
                    "[[unit]] {full} has no process: start it (systemctl start {full}), or remove the entry"
                )),
                _ => {}
            }
            named.insert(name);
        }
        for unit in self.units.difference(&named) {
            let entry = quoted(unit);
            said.that(&format!(
                "{unit} runs and is not in the stack file: add [[unit]] name = {entry}"
            ));
        }
    }

    fn compare_servers(&self, stack: &Stack, around: &Around, said: &mut Said) {
        let postgres: Vec<_> =
            stack.postgres.iter().map(|p| (&p.name, At::postgres(&p.url))).collect();
        let redis: Vec<_> = stack.redis.iter().map(|r| (&r.name, At::redis(&r.url))).collect();
        for (kind, entries) in [("postgres", &postgres), ("redis", &redis)] {
            for (name, at) in entries {
                if let Some(nobody) = at.nobody(around) {
                    said.that(&format!("[[{kind}]] {} {nobody}", quoted(name)));
                }
            }
        }
        for (cluster, unit) in &self.postgres {
            let at = (cluster.address.as_str(), cluster.port);
            if !postgres.iter().any(|(_, named)| named.is(at, unit, around)) {
                let Cluster { port, socket, .. } = cluster;
                let listens = match cluster.address.is_empty() {
                    true => format!("has its socket in {socket}, with port {port},"),
                    false => format!("listens on port {port}"),
                };
                said.that(&format!(
                    "PostgreSQL{} {listens} and is not in the stack file: add a [[postgres]] with url = {}",
                    of(unit),
                    quoted(&cluster.url("DATABASE"))
                ));
            }
        }
        for (address, unit) in &self.redis {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let at = (host, port.parse().unwrap_or(0));
            if !redis.iter().any(|(_, named)| named.is(at, unit, around)) {
                said.that(&format!(
                    "Redis{} listens on {address} and is not in the stack file: add a [[redis]] with \
                     url = {}",
                    of(unit),
                    quoted(&format!("redis://{address}/0"))
                ));
            }
        }
    }

    /// An entry is of the application that it names, or of the unit that it comes after; one that says
    /// neither may be of any that no other entry is of.
    fn compare_workers(&self, entries: &[Celery], said: &mut Said) {
        let mut left: Vec<_> = self.celery.iter().collect();
        let mut vague = Vec::new();
        for entry in entries {
            let unit = |unit: &str| {
                let units = entry.after.iter().filter_map(|after| after.strip_prefix("unit:"));
                units.map(full_name).any(|full| full == unit)
            };
            let before = left.len();
            left.retain(|(name, workers)| {
                let app = entry.app.as_ref().is_some_and(|app| *app == workers.app);
                !(app || unit(&workers.unit) || **name == entry.name)
            });
            if left.len() == before {
                vague.push(entry);
            }
        }
        for entry in vague {
            let says = entry.app.is_some() || entry.after.iter().any(|a| a.starts_with("unit:"));
            if !says && !left.is_empty() {
                left.remove(0);
                continue;
            }
            said.that(&format!(
                "[[celery]] {} has no worker on this host: start one, or remove the entry (an entry \
                 is known by its name, its app, and the unit that it comes after)",
                quoted(&entry.name)
            ));
        }
        for (name, workers) in left {
            said.that(&format!(
                "Celery workers of {name}{} run and are not in the stack file: add a [[celery]] with name \
                 = {} and its broker",
                of(&workers.unit),
                quoted(name)
            ));
        }
    }

    fn compare_web(&self, entries: &[Http], around: &Around, said: &mut Said) {
        let asked: Vec<_> = entries.iter().map(|http| (http, At::http(&http.url))).collect();
        for (http, at) in &asked {
            if let Some(nobody) = at.nobody(around) {
                said.that(&format!("[[http]] {} {nobody}", quoted(&http.name)));
            }
        }
        // Whoever asks a unit over HTTP need not ask each of its ports.
        let follows = |unit: &str| {
            let pm2 = self.pm2.values().any(|of| of == unit);
            let mut after = entries.iter().flat_map(|http| &http.after);
            after.any(|after| match after.strip_prefix("unit:") {
                Some(name) => full_name(name) == unit,
                None => after == "pm2" && pm2,
            })
        };
        for (port, served) in &self.served {
            let known = WEB.iter().any(|name| served.command.starts_with(name));
            let unit = served.unit.as_str();
            let there = |(_, at): &(&Http, At)| matches!(at, At::Port(_, asked) if asked == port);
            if known && !asked.iter().any(there) && !follows(unit) {
                said.that(&format!(
                    "{}{} listens on port {port} and no [[http]] asks it: add one with url = {}",
                    served.command,
                    of(unit),
                    quoted(&served.url(*port))
                ));
            }
        }
    }

    fn compare_daemons(&self, stack: &Stack, around: &Around, said: &mut Said) {
        match (&stack.pm2, self.pm2.is_empty()) {
            (None, false) => {
                said.that("a PM2 daemon runs and is not in the stack file: add [pm2]");
            }
            (Some(_), true) => said.that(
                "[pm2] is in the stack file and no PM2 daemon runs: start it, or remove [pm2]",
            ),
            (Some(pm2), false) => {
                let Some(apps) = &around.apps else { return };
                // Without names all that are there are watched.
                let named = |name: &String| pm2.apps.is_empty() || pm2.apps.contains(name);
                for name in apps.iter().filter(|name| !named(name)) {
                    let entry = quoted(name);
                    said.that(&format!(
                        "PM2 has {name}, which [pm2] does not name: add {entry} to its apps"
                    ));
                }
                for name in pm2.apps.iter().filter(|name| !apps.contains(*name)) {
                    said.that(&format!(
                        "[pm2] names {name}, which PM2 does not have: start it, or remove it from apps"
                    ));
                }
            }
            (None, true) => {}
        }
    }

    fn compare_proxy(&self, stack: &Stack, said: &mut Said) {
        match (&stack.nginx, &self.nginx) {
            (None, Some(unit)) => said
                .that(&format!("nginx{} runs and is not in the stack file: add [nginx]", of(unit))),
            (Some(_), None) => said.that(
                "[nginx] is in the stack file and nginx does not run: start it, or remove it",
            ),
            _ => {}
        }
    }

    fn compare_paths(&self, stack: &Stack, said: &mut Said) {
        let git = stack.git.iter().map(|g| (&g.name, &g.path));
        let virtualenvs = stack.virtualenvs.iter().map(|v| (&v.name, &v.path));
        let frontends = stack.frontends.iter().map(|f| (&f.name, &f.path));
        let backups = stack.backups.iter().map(|b| (&b.name, &b.directory));
        let kinds: [Kind<'_>; 4] = [
            ("git", "path", "checkout", ".git", &self.git, git.collect()),
            (
                "virtualenv",
                "path",
                "Python environment",
                "pyvenv.cfg",
                &self.virtualenvs,
                virtualenvs.collect(),
            ),
            ("frontend", "path", "front end", "package.json", &self.frontends, frontends.collect()),
            ("backups", "directory", "directory", "", &self.backups, backups.collect()),
        ];
        for (kind, key, what, sign, found, named) in kinds {
            for (name, path) in &named {
                if !path.join(sign).exists() {
                    said.that(&format!(
                        "[[{kind}]] {} names {}, where there is no {what}: correct its {key}, or remove the \
                         entry",
                        quoted(name),
                        path.display()
                    ));
                }
            }
            let named: Vec<PathBuf> = named.iter().map(|(_, path)| real(path)).collect();
            for path in found.iter().filter(|path| !named.contains(&real(path))) {
                let what = match kind {
                    "git" => "checkout from which processes run",
                    "backups" => "directory with dumps of databases",
                    _ => what,
                };
                let entry = quoted(&path.to_string_lossy());
                said.that(&format!(
                    "{} is a {what} and not in the stack file: add [[{kind}]] with {key} = {entry}",
                    path.display()
                ));
            }
        }
    }
}

/// Kind of an entry, the key of its path, what is there and by which file one knows it; what was found,
/// and what the stack file names.
type Kind<'a> =
    (&'a str, &'a str, &'a str, &'a str, &'a BTreeSet<PathBuf>, Vec<(&'a String, &'a PathBuf)>);

fn of(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(" of {unit}") }
}

#[cfg(test)]
#[path = "differences_tests.rs"]
mod tests;
