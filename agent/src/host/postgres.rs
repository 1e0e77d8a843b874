//! The way to a PostgreSQL server that the stack file names: a short-lived session that can only
//! read, waits for no lock for long, and says who it is.

mod trouble;
mod turns;
mod url;

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    Connection as _, Executor as _,
    postgres::{PgConnectOptions, PgConnection, PgRow},
};
use tokio::time::{Instant, timeout};

pub use self::{
    trouble::Trouble,
    url::{named_files, options, unread},
};
use self::{
    turns::{Turn, turns},
    url::unreadable,
};
use super::{files, place::Place};
use crate::stack::Postgres;

/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest for a statement, and for a lock. An application's lock holds no probe up.
const STATEMENT: &str = "10s";
const LOCK: &str = "2s";
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
    _turn: Turn,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("place", &self.place).finish_non_exhaustive()
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
            // It says how numbers become texts, and they come as numbers; poolers refuse it.
            .extra_float_digits(None)
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
        let turn = turns(&address).next().await?;
        let began = Instant::now();
        let connected = connected(&options, &entry.url).await;
        turn.took(connected.as_ref().err());
        let (connection, took) = (connected?, began.elapsed());
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

/// Connects, or tells why there is no connection.
async fn connected(options: &PgConnectOptions, url: &str) -> Result<PgConnection, Trouble> {
    let place = place_of(options);
    let Ok(connected) = timeout(CONNECT, PgConnection::connect_with(options)).await else {
        let after = CONNECT.as_secs();
        return Err(match place.takes_connections().await {
            true => {
                Trouble::Hung(format!("it takes connections, and said nothing within {after} s"))
            }
            false => Trouble::Silent(format!("no connection within {after} s")),
        });
    };
    let error = match connected {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    // A call to a port never ends so: it is a file of TLS, which is read when the server agrees to that.
    if let sqlx::Error::Io(io) = &error
        && matches!(
            io.kind(),
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory
        )
        && matches!(place, Place::Port { .. })
        && let Some(why) = unreadable(url).await
    {
        return Err(Trouble::Stack(why));
    }
    Err(match Trouble::from(error) {
        // Nothing was asked yet: it is the database that it may not use.
        Trouble::Forbidden(said) => Trouble::Barred(said),
        trouble => trouble,
    })
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
    whole(row, column).unwrap_or(0)
}

fn whole(row: &PgRow, column: &str) -> Option<i64> {
    sqlx::Row::try_get::<Option<i64>, _>(row, column).ok().flatten()
}

/// A column as a count; 0 when it is NULL or none.
pub fn count(row: &PgRow, column: &str) -> u64 {
    u64::try_from(integer(row, column)).unwrap_or(0)
}

/// A column as a count; none when it is NULL or none.
pub fn counted(row: &PgRow, column: &str) -> Option<u64> {
    whole(row, column).and_then(|n| u64::try_from(n).ok())
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
