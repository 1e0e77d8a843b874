//! Why a PostgreSQL server does not do what it is asked, and what to do about it.

use std::fmt;

use sqlx::postgres::PgDatabaseError;

use super::turns::AT_ONCE;
use crate::host::why::{innermost, own_fault, untrusted};

/// Why a server does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers there.
    Unreachable(String),
    /// Nothing comes back from there.
    Silent(String),
    /// It takes connections, and answers nothing.
    Hung(String),
    /// Its certificate does not show that it is the one.
    Untrusted(String),
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
    /// A pooler stands before it that does not take what the agent sets for its session.
    Pooler(String),
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
            Self::Untrusted(why) => write!(f, "is not trusted: {why}"),
            Self::Denied(why) => write!(f, "does not let the agent in: {why}"),
            Self::Barred(why) => {
                write!(f, "does not let the agent's role into the database: {why}")
            }
            Self::Full(why) => write!(f, "has no free connection: {why}"),
            Self::Limited(why) => write!(f, "gives the agent no further connection: {why}"),
            Self::Taken => write!(f, "is asked by {AT_ONCE} other operations of this agent"),
            Self::Pooler(why) => {
                write!(f, "is behind a pooler that refuses the agent's settings: {why}")
            }
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
                "see whether it runs, in its unit and at its address"
            }
            Self::Hung(_) => "it hangs, or is stopped by a signal",
            Self::Untrusted(_) => {
                "clients that check its certificate refuse it as well; where none does, it is sslrootcert, \
                 or the host, in the url of its [[postgres]]"
            }
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
            Self::Pooler(_) => {
                "name the server itself in the url of its [[postgres]], or let the pooler ignore `options` \
                 (ignore_startup_parameters)"
            }
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
            // That code PgBouncer gives to all that it says itself, in English.
            Some("08P01") if said.starts_with("unsupported startup parameter") => {
                Self::Pooler(said)
            }
            Some(_) => Self::Refused(said),
            None => match error {
                sqlx::Error::Io(_) => match own_fault(&said) {
                    Some(fault) => Self::Stack(fault.to_owned()),
                    None if untrusted(&said) => Self::Untrusted(said),
                    None => Self::Unreachable(said),
                },
                sqlx::Error::Protocol(_) => Self::Unreachable(said),
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
