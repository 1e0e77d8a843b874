//! The way to a PostgreSQL server that the stack file names: a short-lived session that can only
//! read, waits for no lock for long, and says who it is.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    Connection as _, Executor as _,
    postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgRow},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{files, place::Place};
use crate::stack::Postgres;

/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest for a statement, and for a lock. An application's lock holds no probe up.
const STATEMENT: &str = "10s";
const LOCK: &str = "2s";
/// Sessions that this agent has with one server at a time, whatever asks for them.
const AT_ONCE: usize = 2;
/// Longest that an operation waits for one of them.
const TURN: Duration = Duration::from_secs(8);
/// Statements of a session that are kept as evidence.
const KEPT: usize = 20;

/// A session.
pub struct Session {
    connection: PgConnection,
    /// Where it is, as people may see it.
    pub place: String,
    /// `server_version_num`: 150018 is 15.18.
    pub version: u32,
    /// The role may see other roles' sessions and statements.
    pub sees_all: bool,
    /// Until it was let in.
    pub took: Duration,
    /// What it was asked, word for word; of very many statements the first.
    pub asked: Vec<String>,
    _turn: OwnedSemaphorePermit,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Why a server does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers there.
    Unreachable(String),
    /// Nothing comes back from there.
    Silent(String),
    /// It takes connections, and answers nothing.
    Hung(String),
    /// It does not let us in.
    Denied(String),
    /// It knows the role, which may not connect to this database.
    Barred(String),
    /// It has no free connection left.
    Full(String),
    /// The role, or the database, has as many connections as it may have; the server has more.
    Limited(String),
    /// The agent itself has all the sessions that it takes.
    Taken,
    /// It is starting, stopping or recovering.
    Busy(String),
    /// A statement took too long, or waited too long for a lock.
    Slow(String),
    /// The role may not see this.
    Forbidden(String),
    /// It answers with an error.
    Refused(String),
    /// What the stack file says cannot be used.
    Stack(String),
    /// Nobody said how the agent is let in.
    NoLogin,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Silent(why) | Self::Hung(why) => {
                write!(f, "does not answer: {why}")
            }
            Self::Denied(why) => write!(f, "does not let the agent in: {why}"),
            Self::Barred(why) => {
                write!(f, "does not let the agent's role into the database: {why}")
            }
            Self::Full(why) => write!(f, "has no free connection: {why}"),
            Self::Limited(why) => write!(f, "gives the agent no further connection: {why}"),
            Self::Taken => write!(f, "is asked by {AT_ONCE} other operations of this agent"),
            Self::Busy(why) => write!(f, "serves nobody yet: {why}"),
            Self::Slow(why) => write!(f, "did not answer in time: {why}"),
            Self::Forbidden(why) => write!(f, "does not allow this to the agent: {why}"),
            Self::Refused(why) => write!(f, "answers with an error: {why}"),
            Self::Stack(why) => write!(f, "cannot be asked: {why}"),
            Self::NoLogin => f.write_str("cannot be looked into: the agent has no login"),
        }
    }
}

impl Trouble {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Silent(_) => {
                "see whether it runs: systemd status postgresql"
            }
            Self::Hung(_) => "it hangs, or is stopped by a signal",
            Self::Denied(_) => "look at its [[postgres]] in the stack file, and at pg_hba.conf",
            Self::Barred(_) => {
                "GRANT CONNECT ON DATABASE ... TO the role of the stack file, or name another database in \
                 the url of its [[postgres]]"
            }
            Self::Full(_) => {
                "on the host a superuser still gets in (psql as postgres, by \
                 superuser_reserved_connections): see pg_stat_activity, end what idles with \
                 pg_terminate_backend(pid); a pool or more max_connections keeps it from coming back"
            }
            Self::Limited(_) => {
                "the server has free connections, and a limit of the role or the database is reached: \
                 end sessions of it, or raise it with ALTER ROLE or ALTER DATABASE ... CONNECTION LIMIT"
            }
            Self::Taken => "wait until they have ended, and ask again",
            Self::Busy(_) => "its log says how far it is",
            Self::Slow(_) => "see what runs: postgres activity",
            Self::Forbidden(_) => "give the role pg_monitor: docs/checks.md has the grants",
            Self::Refused(_) => "look at the server's log",
            Self::Stack(_) => "look at its [[postgres]] in the stack file",
            Self::NoLogin => {
                "full connections, locks and lag are not seen: CREATE ROLE hostler LOGIN PASSWORD '...'; GRANT \
                 pg_monitor TO hostler; then `hostler-agent discover` writes the stack file that names it"
            }
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let said = match &error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            other => innermost(other),
        };
        let code = error.as_database_error().and_then(|e| e.code());
        match code.as_deref() {
            Some("53300") if own_limit(&error) => Self::Limited(said),
            Some("53300") => Self::Full(said),
            Some("28P01" | "28000" | "3D000") => Self::Denied(said),
            Some("57P01" | "57P02" | "57P03") => Self::Busy(said),
            Some("57014" | "55P03") => Self::Slow(said),
            Some("42501") => Self::Forbidden(said),
            Some(_) => Self::Refused(said),
            None => match error {
                sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Self::Unreachable(said),
                sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => Self::Stack(said),
                _ => Self::Refused(said),
            },
        }
    }
}

/// Whether it is a limit of the role or the database that keeps us out, and not the server's. Its
/// words are in the server's language, the names of its functions are not.
fn own_limit(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    let place = error.and_then(PgDatabaseError::routine).unwrap_or_default();
    ["InitializeSessionUserId", "CheckMyDatabase"].contains(&place)
}

/// The turns of the operations that ask the server at an address.
fn turns(address: &str) -> Arc<Semaphore> {
    static TURNS: LazyLock<Mutex<HashMap<String, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let of = turns.entry(address.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
    Arc::clone(of)
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What a URL says, as the library reads it. That takes no user before an empty host, as there is one in
/// `postgres://USER@/DATABASE?host=/run/postgresql`.
///
/// # Errors
/// When it is none.
pub fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    PgConnectOptions::from_str(&user_last(url))
}

/// A user before an empty host becomes a parameter.
fn user_last(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        Some((scheme, authority.strip_suffix('@')?, rest.split('#').next()?))
    });
    let Some((scheme, user, rest)) = parts else { return url.to_owned() };
    // In a parameter these two mean something else.
    let plain = |text: &str| text.replace('+', "%2B").replace('&', "%26");
    let joint = if rest.contains('?') { '&' } else { '?' };
    match user.split_once(':') {
        None => format!("{scheme}://{rest}{joint}user={}", plain(user)),
        Some((user, password)) => {
            let (user, password) = (plain(user), plain(password));
            format!("{scheme}://{rest}{joint}user={user}&password={password}")
        }
    }
}

impl Session {
    /// Opens a session for an operation, by whose name the server knows it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(entry: &Postgres, operation: &str) -> Result<Self, Trouble> {
        // A login that is refused would stand in the server's log each time.
        if entry.no_login {
            return Err(Trouble::NoLogin);
        }
        let mut options = options(&entry.url)
            .map_err(|e| Trouble::Stack(e.to_string()))?
            .application_name(&format!("hostler/{operation}"))
            // A pooler between hands each statement to another session.
            .statement_cache_capacity(0)
            .options([
                ("statement_timeout", STATEMENT),
                ("lock_timeout", LOCK),
                ("idle_in_transaction_session_timeout", "30s"),
                ("default_transaction_read_only", "on"),
                ("search_path", ""),
            ]);
        if let Some(file) = &entry.password_file {
            options = options.password(&files::password(file).await.map_err(Trouble::Stack)?);
        }
        let (address, place) = (place_of(&options).to_string(), shown(&options));
        let turn = timeout(TURN, turns(&address).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Trouble::Taken) };
        let began = Instant::now();
        let connecting = timeout(CONNECT, PgConnection::connect_with(&options));
        let Ok(connected) = connecting.await else {
            let after = CONNECT.as_secs();
            return Err(match place_of(&options).takes_connections().await {
                true => Trouble::Hung(format!(
                    "it takes connections, and said nothing within {after} s"
                )),
                false => Trouble::Silent(format!("no connection within {after} s")),
            });
        };
        let connection = connected.map_err(|error| match Trouble::from(error) {
            // Nothing was asked yet: it is the database that it may not use.
            Trouble::Forbidden(said) => Trouble::Barred(said),
            trouble => trouble,
        })?;
        let took = began.elapsed();
        let asked = Vec::new();
        let mut session =
            Self { connection, place, version: 0, sees_all: false, took, asked, _turn: turn };
        let row = session
            .row(
                "SELECT current_setting('server_version_num')::int8 AS version, \
                 pg_catalog.pg_has_role(current_user, 'pg_monitor', 'usage') \
                 OR current_setting('is_superuser')::bool AS sees_all",
            )
            .await?;
        session.version = u32::try_from(integer(&row, "version")).unwrap_or(0);
        session.sees_all = flag(&row, "sees_all");
        Ok(session)
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<PgRow>, Trouble> {
        self.keep(sql);
        Ok(self.connection.fetch_all(sqlx::query(sql).persistent(false)).await?)
    }

    /// The rows of a statement with one number in it, in the place of `$1`: it is sent as somebody
    /// could type it.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn rows_with(&mut self, sql: &str, number: i64) -> Result<Vec<PgRow>, Trouble> {
        self.rows(&sql.replace("$1", &number.to_string())).await
    }

    /// The one row of a statement.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn row(&mut self, sql: &str) -> Result<PgRow, Trouble> {
        self.keep(sql);
        Ok(self.connection.fetch_one(sqlx::query(sql).persistent(false)).await?)
    }

    fn keep(&mut self, sql: &str) {
        if self.asked.len() < KEPT {
            self.asked.push(sql.to_owned());
        }
    }

    /// What is wrong when the role sees only its own sessions.
    pub fn visibility(&self) -> &'static str {
        if self.sees_all { "all" } else { "own" }
    }

    /// Ends the session in good order; a server without free connections gets one back at once.
    pub async fn close(self) {
        // It is gone in any case.
        let _ = timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}

/// Where a server is; none when its URL cannot be read.
pub fn whereabouts(entry: &Postgres) -> Option<Place> {
    Some(place_of(&options(&entry.url).ok()?))
}

/// Where the library connects to with these.
pub fn place_of(options: &PgConnectOptions) -> Place {
    let (host, port) = (options.get_host(), options.get_port());
    // The directory of the server's sockets can stand in the place of a host, as in libpq.
    let directory = host.starts_with('/').then(|| Path::new(host));
    match options.get_socket().map(PathBuf::as_path).or(directory) {
        Some(directory) => Place::Socket(directory.join(format!(".s.PGSQL.{port}"))),
        None => Place::at(host, port),
    }
}

/// Where a server is and which of its databases is meant, for people.
pub fn shown(options: &PgConnectOptions) -> String {
    format!("{}, database {}", place_of(options), database(options))
}

fn database(options: &PgConnectOptions) -> &str {
    options.get_database().unwrap_or(options.get_username())
}

/// A column as a whole number; 0 when it is NULL or none.
pub fn integer(row: &PgRow, column: &str) -> i64 {
    sqlx::Row::try_get::<Option<i64>, _>(row, column).ok().flatten().unwrap_or(0)
}

/// A column as a count; 0 when it is NULL or none.
pub fn count(row: &PgRow, column: &str) -> u64 {
    u64::try_from(integer(row, column)).unwrap_or(0)
}

/// A column as a number; none when it is NULL or none.
pub fn number(row: &PgRow, column: &str) -> Option<f64> {
    sqlx::Row::try_get::<Option<f64>, _>(row, column).ok().flatten()
}

/// A column as text; empty when it is NULL or none.
pub fn text(row: &PgRow, column: &str) -> String {
    sqlx::Row::try_get::<Option<String>, _>(row, column).ok().flatten().unwrap_or_default()
}

/// A column as yes or no; no when it is NULL or none.
pub fn flag(row: &PgRow, column: &str) -> bool {
    sqlx::Row::try_get::<Option<bool>, _>(row, column).ok().flatten().unwrap_or(false)
}

/// A column as process numbers.
pub fn pids(row: &PgRow, column: &str) -> Vec<u32> {
    let pids = sqlx::Row::try_get::<Option<Vec<i32>>, _>(row, column).ok().flatten();
    pids.unwrap_or_default().into_iter().filter_map(|p| u32::try_from(p).ok()).collect()
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
