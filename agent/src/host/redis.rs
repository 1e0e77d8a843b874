//! The way to a Redis or Valkey server that the stack file names. Secrets are read here, and go
//! nowhere but to the server.

use std::{fmt, time::Duration};

use hostler_proto::wire::{ErrorCode, Failure};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisError, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UnixStream},
};

use super::{files, place::Place};
use crate::stack::Redis;

/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a server may take for what it says unasked, and how much of it is heard.
const UNASKED: Duration = Duration::from_millis(500);
const HEARD: u64 = 256;

/// A server that is connected.
#[derive(Clone)]
pub struct Server {
    connection: MultiplexedConnection,
    client: Client,
    /// Where it is, as people may see it.
    pub place: String,
    /// The database that is selected.
    pub db: i64,
    /// What it was asked; of very many commands the first.
    asked: Vec<String>,
}

/// Commands that are kept as evidence, and how much of each of their words.
const KEPT: usize = 32;
const WORD: usize = 100;

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("place", &self.place).finish_non_exhaustive()
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
    /// Its certificate does not show that it is the one.
    Untrusted(String),
    /// It does not let us in: no password, a wrong one, no such user.
    Denied(String),
    /// It has as many clients as it takes.
    Full(String),
    /// It let us in, and does not allow this.
    Forbidden(String),
    /// It reads its data and answers later.
    Loading,
    /// It answers with an error.
    Refused(String),
    /// What the stack file says cannot be used.
    Stack(String),
    /// Nobody waits for the answer any more.
    Cancelled,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Silent(why) | Self::Hung(why) => {
                write!(f, "does not answer: {why}")
            }
            Self::Untrusted(why) => write!(f, "is not trusted: {why}"),
            Self::Denied(why) => write!(f, "does not let the agent in: {why}"),
            Self::Full(why) => write!(f, "has no free connection: {why}"),
            Self::Forbidden(why) => write!(f, "does not allow this to the agent: {why}"),
            Self::Loading => f.write_str("still loads its data and serves nobody"),
            Self::Refused(why) => write!(f, "answers with an error: {why}"),
            Self::Stack(why) => write!(f, "cannot be asked: {why}"),
            Self::Cancelled => f.write_str("was not heard to the end: the operation was cancelled"),
        }
    }
}

impl Trouble {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Silent(_) => {
                "see whether it runs: systemd status redis-server"
            }
            Self::Hung(_) => {
                "it hangs, is stopped by a signal, or one command keeps it from all others"
            }
            Self::Untrusted(_) => "look at ca_file of its [[redis]], and at the host in its url",
            Self::Denied(_) => {
                "look at username and password_file of its [[redis]] in the stack file"
            }
            Self::Full(_) => {
                "new clients are turned away: on the host `ss -tnp` shows who holds its connections; \
                 a pool in that program, or more maxclients, keeps it from coming back"
            }
            Self::Forbidden(_) => "docs/checks.md has the ACL that the agent needs",
            Self::Loading => "wait until it has; its log says how far it is",
            Self::Refused(_) => "look at the server's log",
            Self::Stack(_) => "look at its [[redis]] in the stack file",
            Self::Cancelled => "ask again",
        }
    }

    /// The failure of an operation that cannot go on.
    pub fn failure(&self, server: &str) -> Failure {
        let code = match self {
            Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Hung(_)
            | Self::Loading
            | Self::Full(_) => ErrorCode::Unreachable,
            // It is not the policy that forbids it: what the server is told of the agent is to be mended.
            Self::Denied(_) | Self::Forbidden(_) | Self::Stack(_) => ErrorCode::PreconditionFailed,
            Self::Untrusted(_) => ErrorCode::Unreachable,
            Self::Refused(_) => ErrorCode::HostFault,
            Self::Cancelled => ErrorCode::Cancelled,
        };
        Failure::new(code, format!("redis \"{server}\" {self}")).hint(self.hint())
    }
}

/// How a server begins that has as many clients as it takes.
const FULL: &str = "max number of clients";

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        // Of many questions the first refusal counts; together they have no code.
        let refusals = error.clone().into_server_errors();
        if let Some((_, first)) = refusals.as_deref().and_then(<[_]>::first) {
            return Self::refused(first.code(), first.details());
        }
        if let Some(code) = error.code() {
            return Self::refused(code, error.detail());
        }
        let said = || error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
        if error.is_timeout() {
            return Self::Hung("it takes connections, and gave no answer in time".to_owned());
        }
        match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Self::Denied(said()),
            redis::ErrorKind::InvalidClientConfig => Self::Stack(said()),
            _ if error.is_io_error() => match innermost(&error) {
                why if why.contains("certificate") => Self::Untrusted(why),
                why => Self::Unreachable(why),
            },
            _ => Self::Refused(said()),
        }
    }
}

impl Trouble {
    /// What a server's own no means.
    fn refused(code: &str, detail: Option<&str>) -> Self {
        let said = detail.map_or_else(|| code.to_owned(), |detail| format!("{code} {detail}"));
        match (code, detail.unwrap_or_default()) {
            ("NOAUTH" | "WRONGPASS", _) => Self::Denied(said),
            ("NOPERM", _) => Self::Forbidden(said),
            ("LOADING", _) => Self::Loading,
            (_, detail) if detail.starts_with(FULL) => Self::Full(said),
            // The library gives the refusal of a database no code.
            (_, detail) if detail.starts_with("Authentication required") => Self::Denied(said),
            _ => Self::Refused(said),
        }
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Whether the library reads a URL.
///
/// # Errors
/// Why it does not, without the URL.
pub fn readable(url: &str) -> Result<(), String> {
    url.into_connection_info().map(|_| ()).map_err(|error| error.to_string())
}

/// Where a server is; none when its URL cannot be read.
pub fn whereabouts(entry: &Redis) -> Option<Place> {
    place_of(entry.url.as_str().into_connection_info().ok()?.addr())
}

/// Where the library connects to; none for what is no place.
pub fn place_of(addr: &ConnectionAddr) -> Option<Place> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some(Place::at(host, *port))
        }
        ConnectionAddr::Unix(path) => Some(Place::Socket(path.clone())),
        _ => None,
    }
}

/// Why there is no connection in time: it may not come about, or nothing may be said on it.
async fn silence(info: &ConnectionInfo) -> Trouble {
    let taken = match place_of(info.addr()) {
        Some(place) => place.takes_connections().await,
        None => true,
    };
    let after = CONNECT.as_secs();
    match taken {
        true => Trouble::Hung(format!("it takes connections, and said nothing within {after} s")),
        false => Trouble::Silent(format!("no connection within {after} s")),
    }
}

/// What a full server says to whoever comes, unasked; none where it waits for a question.
async fn turned_away(addr: &ConnectionAddr) -> Option<String> {
    let heard = async {
        let mut said = Vec::new();
        match addr {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
                stream.take(HEARD).read_to_end(&mut said).await.ok()?;
            }
            ConnectionAddr::Unix(path) => {
                let stream = UnixStream::connect(path).await.ok()?;
                stream.take(HEARD).read_to_end(&mut said).await.ok()?;
            }
            // Before the handshake nothing can be said.
            _ => return None,
        }
        let said = String::from_utf8_lossy(&said);
        said.contains(FULL).then(|| said.trim().trim_start_matches('-').to_owned())
    };
    tokio::time::timeout(UNASKED, heard).await.ok().flatten()
}

impl Server {
    /// Connects, proves who we are, and selects the database.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn connect(entry: &Redis) -> Result<Self, Trouble> {
        let info: ConnectionInfo = entry.url.as_str().into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = &entry.username {
            settings = settings.set_username(username);
        }
        if let Some(file) = &entry.password_file {
            let password = files::password(file).await.map_err(Trouble::Stack)?;
            settings = settings.set_password(password);
        }
        let db = settings.db();
        let info = info.set_redis_settings(settings);
        let place = info.addr().to_string();
        let client = match &entry.ca_file {
            None => Client::open(info)?,
            Some(file) => {
                let root = files::of_stack(file).await.map_err(Trouble::Stack)?;
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(info, certificates)?
            }
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let connected = async {
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await?;
            if entry.password_file.is_none() && db == 0 {
                // Nothing was asked so far, and what the server said unasked was not heard.
                let asked = redis::cmd("PING").query_async::<String>(&mut connection).await;
                // Any other no is for whoever asks next.
                let full = |e: &RedisError| matches!(Trouble::from(e.clone()), Trouble::Full(_));
                if let Err(error) = asked
                    && (error.is_io_error() || full(&error))
                {
                    return Err(error);
                }
            }
            Ok(connection)
        };
        match connected.await {
            Ok(connection) => Ok(Self { connection, client, place, db, asked: Vec::new() }),
            // That time is for the connection and for what is said on it at first.
            Err(error) if error.is_timeout() => Err(silence(client.get_connection_info()).await),
            // What a full server says is lost with the connection, or taken for a wrong password.
            Err(error) => match turned_away(client.get_connection_info().addr()).await {
                Some(said) => Err(Trouble::Full(said)),
                None => Err(error.into()),
            },
        }
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T, Trouble> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let answer = command.query_async(&mut self.connection).await.map_err(Trouble::from);
        let refused = match &answer {
            Err(Trouble::Forbidden(_) | Trouble::Refused(_)) => " (refused)",
            _ => "",
        };
        self.note(&format!("{}{refused}", words.join(" ")));
        answer
    }

    /// Keeps what was asked where that is put together elsewhere: as evidence, once.
    pub fn note(&mut self, asked: &str) {
        let plain = |c: char| if c.is_control() { '?' } else { c };
        let word = |word: &str| word.chars().take(WORD).map(plain).collect::<String>();
        let told: Vec<_> = asked.split(' ').map(word).collect();
        let told = told.join(" ");
        if self.asked.len() < KEPT && !self.asked.contains(&told) {
            self.asked.push(told);
        }
    }

    /// Where it is, and what it was really asked.
    pub fn evidence(&self) -> String {
        format!("{}: {}", self.place, self.asked.join("; "))
    }

    /// Asks something that is put together elsewhere, and noted there.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn query<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Trouble> {
        Ok(command.query_async(&mut self.connection).await?)
    }

    /// Asks many things at once; they are noted where they are put together.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn pipeline<T: FromRedisValue>(&mut self, asked: &Pipeline) -> Result<T, Trouble> {
        Ok(asked.query_async(&mut self.connection).await?)
    }

    /// Allows more time for each answer, for what blocks.
    pub fn patient(&mut self, longest: Duration) {
        self.connection.set_response_timeout(longest);
    }

    /// A connection on which every command of every client is told.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn monitor(mut self) -> Result<redis::aio::Monitor, Trouble> {
        // The library takes a refusal for the beginning: this connection learns it, and ends.
        let _: String = self.ask(&["MONITOR"]).await?;
        drop(self.connection);
        Ok(self.client.get_async_monitor().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_where_the_library_connects_to() {
        for (url, expected) in [
            ("redis://:pw@192.0.2.7/0", Some("192.0.2.7:6379")),
            ("rediss://127.0.0.1:7000/0", Some("127.0.0.1:7000")),
            ("redis://[::1]:7000/0", Some("[::1]:7000")),
            ("unix:///run/redis.sock?db=1", Some("/run/redis.sock")),
            ("redis+unix:///run/redis.sock", Some("/run/redis.sock")),
            ("/run/redis.sock", None),
        ] {
            let entry = format!("name = \"main\"\nurl = \"{url}\"");
            let entry: Redis = toml::from_str(&entry).expect("an entry");
            let place = whereabouts(&entry).map(|place| place.to_string());
            assert_eq!(place.as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_server_that_refuses_the_agent_is_not_taken_for_the_hosts_policy() {
        let said = "WRONGPASS invalid username-password pair".to_owned();
        for trouble in [Trouble::Denied(said.clone()), Trouble::Forbidden(said)] {
            let failure = trouble.failure("main");
            assert_eq!(failure.code(), ErrorCode::PreconditionFailed, "{failure}");
            assert!(!failure.hint.is_empty());
        }
    }
}
