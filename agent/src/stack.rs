//! The stack file, `/etc/hostler/stack.toml`: what is on this host, and how it is checked.
//!
//! Secrets are named, never held: a password stands in a file of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_proto::{
    name::nearest,
    wire::{ErrorCode, Failure},
};
use serde::Deserialize;

/// Where the stack file is, unless the configuration says otherwise.
pub const STANDARD: &str = "/etc/hostler/stack.toml";

/// Kinds of entries that `hostler-agent discover` writes.
const DISCOVERED: [&str; 6] = ["postgres", "redis", "celery", "virtualenv", "frontend", "backups"];

/// What is on this host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stack {
    /// How checks run unless they say otherwise.
    pub defaults: Pace,
    /// Units that must run.
    #[serde(rename = "unit")]
    pub units: Vec<Unit>,
    /// HTTP endpoints that must answer.
    pub http: Vec<Http>,
    /// PostgreSQL servers, each with one database.
    pub postgres: Vec<Postgres>,
    /// Redis and Valkey servers.
    pub redis: Vec<Redis>,
    /// Celery applications.
    pub celery: Vec<Celery>,
    /// Node applications under PM2.
    pub pm2: Option<Pm2>,
    /// nginx.
    pub nginx: Option<Nginx>,
    /// Checkouts from which applications run.
    pub git: Vec<Git>,
    /// Log files whose errors are counted.
    pub logs: Vec<Logs>,
    /// Python environments of applications.
    #[serde(rename = "virtualenv")]
    pub virtualenvs: Vec<Virtualenv>,
    /// Front ends whose packages pnpm installs.
    #[serde(rename = "frontend")]
    pub frontends: Vec<Frontend>,
    /// Directories that backups of databases are put into.
    pub backups: Vec<Backups>,
    /// Programs that check, as Nagios knows them.
    #[serde(rename = "plugin")]
    pub plugins: Vec<Plugin>,
    /// Changes of checks that come by default, and more checks, by name.
    pub check: BTreeMap<String, Change>,
}

impl Stack {
    /// Whether a check of that name is not switched off.
    pub fn checks(&self, name: &str) -> bool {
        !self.check.get(name).is_some_and(|change| change.off)
    }

    /// As [`Self::checks`], of a check for something with a name.
    pub fn checks_for(&self, kind: &str, name: &str) -> bool {
        self.checks(&format!("{kind}:{name}"))
    }
}

/// How often a check runs, and how sure one must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Time between two runs.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Time between two runs while a bad result is not hard yet.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Bad results in a row that make a hard state.
    pub attempts: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), retry: Duration::from_secs(20), attempts: 3 }
    }
}

/// A unit of systemd.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its name; `.service` may be left out.
    pub name: String,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// An HTTP endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Its name in the fleet.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Text that the answer must hold.
    #[serde(default)]
    pub expect: String,
    /// Status that is expected; every success and redirection when it is left out.
    #[serde(default)]
    pub status: Option<u32>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// A PostgreSQL server, and the database of it that matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Its name on this host.
    pub name: String,
    /// `postgres://USER@HOST:PORT/DATABASE`, or `postgres://USER@localhost/DATABASE?host=/run/postgresql`
    /// for its socket; without a password.
    pub url: String,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
    /// It was found, and nobody said how the agent is let in: it is not asked.
    #[serde(skip)]
    pub no_login: bool,
}

impl Postgres {
    /// A server that was found.
    pub(crate) fn found(name: &str, url: String, after: Vec<String>) -> Self {
        Self { name: name.to_owned(), url, password_file: None, after, no_login: true }
    }
}

/// A Redis or Valkey server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Its name on this host.
    pub name: String,
    /// `redis://HOST:PORT/DB`, `rediss://` for TLS, `unix:///PATH`; without a password.
    pub url: String,
    /// The user, where it is not the default one.
    #[serde(default)]
    pub username: Option<String>,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// File with the authority that signed the server's certificate; the system's when it is left
    /// out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// File with the agent's own certificate, where the server asks its clients for one.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// File with the key of that.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Name of the `[[redis]]` that is a replica of it: what reads every key goes there.
    #[serde(default)]
    pub replica: Option<String>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
    /// It was found, and nobody said how it is asked.
    #[serde(skip)]
    pub found: bool,
}

impl Redis {
    /// A server that was found at an address, as one that lets everybody in.
    pub(crate) fn at(name: &str, address: &str, db: i64, after: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            url: format!("redis://{address}/{db}"),
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            replica: None,
            after,
            found: true,
        }
    }
}

/// A Celery application: its broker is a `[[redis]]`, or Celery's own tool is asked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Celery {
    /// Its name on this host.
    pub name: String,
    /// Name of the `[[redis]]` that is its broker.
    #[serde(default)]
    pub broker: Option<String>,
    /// Where the broker is another one: the absolute path of the virtualenv's `celery`.
    #[serde(default)]
    pub command: Option<PathBuf>,
    /// The application, as `celery -A` takes it.
    #[serde(default)]
    pub app: Option<String>,
    /// Directory in which the application is found.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// The user as whom `command` runs; never root.
    #[serde(default)]
    pub user: Option<String>,
    /// Variables of the application, as systemd's EnvironmentFile has them.
    #[serde(default)]
    pub environment_file: Option<PathBuf>,
    /// Its `control_exchange`.
    #[serde(default = "celery")]
    pub exchange: String,
    /// Its queues, beside those that its workers tell.
    #[serde(default)]
    pub queues: Vec<String>,
    /// Checks that it needs to be well; its broker's always is one of them.
    #[serde(default)]
    pub after: Vec<String>,
}

/// How workers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'s> {
    /// Over the `[[redis]]` of that name.
    Redis(&'s str),
    /// By Celery's own tool.
    Tool {
        /// The virtualenv's `celery`.
        command: &'s Path,
        /// The application, for `-A`.
        app: &'s str,
        /// The user.
        user: &'s str,
    },
}

impl Celery {
    /// An application over a `[[redis]]`, with everything else as it is by default.
    pub(crate) fn over(name: &str, broker: &str, after: Vec<String>) -> Self {
        let (name, broker) = (name.to_owned(), Some(broker.to_owned()));
        Self { name, broker, exchange: celery(), after, ..Self::default() }
    }

    /// How its workers are asked.
    ///
    /// # Errors
    /// What is wrong with what the stack file says of it.
    pub fn way(&self) -> Result<Way<'_>, &'static str> {
        match (self.broker.as_deref(), &self.command, &self.app, &self.user) {
            (Some(broker), None, None, None) => Ok(Way::Redis(broker)),
            (Some(_), ..) => Err("it has a broker, and something of command, app and user as well"),
            (None, Some(command), Some(app), Some(user)) => match () {
                () if !command.is_absolute() => Err("its command is no absolute path"),
                // It would be taken for an option.
                () if app.is_empty() || app.starts_with('-') => Err("its app is no application"),
                () if user == "root" => {
                    Err("its user is root, as whom no application runs; name one that may read it")
                }
                () if self.directory.as_ref().is_some_and(|d| !d.is_absolute()) => {
                    Err("its directory is no absolute path")
                }
                () => Ok(Way::Tool { command, app, user }),
            },
            (None, ..) => Err("it needs broker, or else command, app and user"),
        }
    }
}

fn celery() -> String {
    "celery".to_owned()
}

/// Node applications under PM2.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pm2 {
    /// Names that must be there; all that are there are watched when none is given.
    pub apps: Vec<String>,
}

/// nginx.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nginx {
    /// Where `stub_status` is served.
    pub status_url: Option<String>,
    /// Its access log in the format `combined`.
    pub access_log: Option<String>,
}

/// A checkout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Its name on this host.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Log files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Their name on this host.
    pub name: String,
    /// Files, or patterns.
    pub paths: Vec<String>,
}

/// A Python environment of an application.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Virtualenv {
    /// Its name on this host.
    pub name: String,
    /// Its directory, that with `pyvenv.cfg`.
    pub path: PathBuf,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// A front end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    /// Its name on this host.
    pub name: String,
    /// Its directory, that with `package.json`.
    pub path: PathBuf,
    /// The pnpm to use, where it is none of the usual places; an absolute path.
    #[serde(default)]
    pub pnpm: Option<PathBuf>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// A directory that backups of one database, or of one whole server, are put into.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backups {
    /// Its name on this host.
    pub name: String,
    /// Where they are.
    pub directory: PathBuf,
    /// Names that they have.
    #[serde(default = "every")]
    pub pattern: String,
    /// The database that they are of.
    #[serde(default)]
    pub database: Option<String>,
    /// Age that the newest one must not reach.
    #[serde(with = "humantime_serde", default = "a_day_and_two_hours")]
    pub newer_than: Duration,
    /// Bytes that the newest one must have.
    #[serde(default)]
    pub smallest: u64,
    /// Whole ones that must be there.
    #[serde(default = "one")]
    pub keep: usize,
    /// Checks that they need to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

fn every() -> String {
    "*".to_owned()
}

fn a_day_and_two_hours() -> Duration {
    Duration::from_secs(26 * 3600)
}

fn one() -> usize {
    1
}

/// A program that checks, as Nagios knows them: exit status, a line of text, figures after a bar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name in the fleet.
    pub name: String,
    /// The program's absolute path and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// What is different about a check, or a check that does not come by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// It does not run.
    pub off: bool,
    /// The probe; needed for a check that does not come by default.
    pub operation: Option<String>,
    /// Parameters of the probe, in place of or beside those by default.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Time between two runs.
    #[serde(with = "humantime_serde")]
    pub interval: Option<Duration>,
    /// Time between two runs while a bad result is not hard yet.
    #[serde(with = "humantime_serde")]
    pub retry: Option<Duration>,
    /// Bad results in a row that make a hard state.
    pub attempts: Option<u32>,
    /// Checks that it needs to be well.
    pub after: Option<Vec<String>>,
}

/// The entry of that name among those of one kind; the only one when no name is given.
///
/// # Errors
/// When there is none, or a name is needed.
pub fn named<'s, T>(
    entries: &'s [T],
    kind: &str,
    name: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<&'s T, Failure> {
    let refused =
        |message: String, hint: String| Err(Failure::new(ErrorCode::NotFound, message).hint(hint));
    let names: Vec<&str> = entries.iter().map(&name_of).collect();
    match (entries, name) {
        ([], _) => refused(
            format!("this host's stack file has no [[{kind}]]"),
            match DISCOVERED.contains(&kind) {
                true => format!("add one to {STANDARD}, or let `hostler-agent discover` find it"),
                false => format!("add one to {STANDARD}"),
            },
        ),
        ([only], "") => Ok(only),
        (_, "") => refused(
            format!("this host's stack file has {} [[{kind}]]: which one?", entries.len()),
            format!("name one of {}", names.join(", ")),
        ),
        _ => match entries.iter().find(|e| name_of(e) == name) {
            Some(entry) => Ok(entry),
            None => refused(
                format!("this host's stack file has no [[{kind}]] \"{name}\""),
                match nearest(name, names.iter().copied()) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("there are {}", names.join(", ")),
                },
            ),
        },
    }
}

/// The entry of that name among those of one kind; all of them when no name is given.
///
/// # Errors
/// When there is none.
pub fn chosen<'s, T>(
    entries: &'s [T],
    kind: &str,
    name: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<Vec<&'s T>, Failure> {
    match name.is_empty() && !entries.is_empty() {
        true => Ok(entries.iter().collect()),
        false => named(entries, kind, name, name_of).map(|entry| vec![entry]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_entry_needs_no_name_and_one_of_several_does() {
        let of = |entries: &[&'static str], name: &str| {
            let found = named(entries, "redis", name, |e| e);
            found.copied().map_err(|failure| format!("{}; {}", failure.message, failure.hint))
        };
        assert_eq!(of(&["main"], ""), Ok("main"));
        assert_eq!(of(&["main", "cache"], "cache"), Ok("cache"));
        assert!(of(&["main", "cache"], "").expect_err("which").contains("name one of main, cache"));
        assert!(
            of(&["main", "cache"], "mian").expect_err("typo").contains("did you mean \"main\"?")
        );
        let none = of(&[], "").expect_err("none");
        assert!(none.contains("has no [[redis]]") && none.contains("discover"), "{none}");
        let none = named(&[], "plugin", "load", |e: &&str| e).expect_err("none");
        assert_eq!(none.hint, format!("add one to {STANDARD}"), "it cannot be discovered");
    }

    #[test]
    fn workers_are_asked_over_redis_or_by_celerys_own_tool() {
        let way = |text: &str| {
            let celery: Celery = toml::from_str(&format!("name = \"a\"\n{text}")).expect(text);
            celery.way().map(|w| matches!(w, Way::Tool { .. })).map_err(ToOwned::to_owned)
        };
        let tool = "command = \"/v/bin/celery\"\napp = \"a.b\"\nuser = \"shop\"";
        assert_eq!(way("broker = \"main\""), Ok(false));
        assert_eq!(way(tool), Ok(true));
        assert!(way("").expect_err("nothing").contains("needs broker"));
        assert!(way(&format!("broker = \"main\"\n{tool}")).is_err());
        assert!(way(&tool.replace("/v/bin", "bin")).expect_err("path").contains("absolute"));
        assert!(way(&tool.replace("a.b", "--help")).is_err());
        assert!(way(&tool.replace("\"shop\"", "\"root\"")).expect_err("root").contains("root"));
    }

    #[test]
    fn without_a_name_all_are_meant_but_there_must_be_one() {
        let of = |entries: &[&'static str], name: &str| {
            let found = chosen(entries, "virtualenv", name, |e| e);
            found.map(|all| all.into_iter().copied().collect::<Vec<_>>()).map_err(|f| f.message)
        };
        assert_eq!(of(&["a", "b"], ""), Ok(vec!["a", "b"]));
        assert_eq!(of(&["a", "b"], "b"), Ok(vec!["b"]));
        assert!(of(&["a", "b"], "c").is_err() && of(&[], "").is_err());
    }
}
