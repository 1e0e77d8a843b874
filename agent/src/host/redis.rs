//! The way to a Redis or Valkey server that the stack file names. Secrets are read here, and go
//! nowhere but to the server.

mod trouble;

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisError, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UnixStream},
};

pub use self::trouble::Trouble;
use super::{files, place::Place, why::innermost};
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

/// Whether the library reads a URL, and there can be its database.
///
/// # Errors
/// Why not, without the URL.
pub fn readable(url: &str) -> Result<(), String> {
    let info = url.into_connection_info().map_err(|error| error.to_string())?;
    match info.redis_settings().db() {
        db if db < 0 => Err("no database is below 0".to_owned()),
        _ => Ok(()),
    }
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

/// What a server says unasked to whoever it does not take; none where it waits for a question.
async fn turned_away(addr: &ConnectionAddr) -> Option<Trouble> {
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
        Trouble::of_stranger(said.trim().trim_start_matches('-'))
    };
    tokio::time::timeout(UNASKED, heard).await.ok().flatten()
}

/// Whether it took the connection, and ended it.
fn ended(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

/// The certificates that the stack file names; none where it leaves that to the system.
async fn certificates(entry: &Redis) -> Result<Option<TlsCertificates>, String> {
    let root_cert = match &entry.ca_file {
        None => None,
        Some(file) => Some(files::of_stack(file).await?),
    };
    let client_tls = match (&entry.cert_file, &entry.key_file) {
        (Some(certificate), Some(key)) => {
            let client_cert = files::of_stack(certificate).await?;
            Some(ClientTlsConfig { client_cert, client_key: files::of_stack(key).await? })
        }
        _ => None,
    };
    let any = root_cert.is_some() || client_tls.is_some();
    Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
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
        let client = match certificates(entry).await.map_err(Trouble::Stack)? {
            None => Client::open(info)?,
            Some(certificates) => Client::build_with_tls(info, certificates)?,
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
                // Any other no is for whoever asks next; after these the connection ends.
                let last = |e: &RedisError| match Trouble::from(e.clone()) {
                    Trouble::Full(_) => true,
                    trouble => trouble.is_protected(),
                };
                if let Err(error) = asked
                    && (error.is_io_error() || last(&error))
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
            // What a server says unasked is lost with the connection, or taken for a wrong password.
            Err(error) => match turned_away(client.get_connection_info().addr()).await {
                Some(trouble) => Err(trouble),
                None if ended(&error) => Err(Trouble::Ended(innermost(&error))),
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

/// A server that is played.
#[cfg(test)]
pub(crate) mod played {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use crate::stack::Redis;

    /// One that gives these answers in turn, whatever it is asked, and ends the connection at the next word.
    pub(crate) async fn server(answers: &'static [&'static str]) -> Redis {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                for answer in answers {
                    if stream.read(&mut asked).await.is_ok_and(|n| n > 0) {
                        stream.write_all(answer.as_bytes()).await.expect("answered");
                    }
                }
                let _ = stream.read(&mut asked).await;
            }
        });
        let entry = format!("name = \"main\"\nurl = \"redis://127.0.0.1:{port}/0\"");
        toml::from_str(&entry).expect("an entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_ends_connections_is_told_from_one_that_is_not_there() {
        let entry = played::server(&[]).await;
        let ended = Server::connect(&entry).await.expect_err("no connection");
        assert!(matches!(ended, Trouble::Ended(_)), "{ended:?}");
        let gone = Redis::at("main", "127.0.0.1:1", 0, Vec::new());
        let gone = Server::connect(&gone).await.expect_err("no connection");
        assert!(matches!(gone, Trouble::Unreachable(_)), "{gone:?}");
        let said = "-DENIED Redis is running in protected mode because it has no password\r\n";
        let entry = played::server(Vec::leak(vec![said])).await;
        let protected = Server::connect(&entry).await.expect_err("no connection");
        let said = "DENIED Redis is running in protected mode".to_owned();
        assert_eq!(protected, Trouble::Denied(said));
        // Later it is no sign of how it wants to be asked.
        let entry = played::server(&["+PONG\r\n"]).await;
        let mut server = Server::connect(&entry).await.expect("a connection");
        let lost = server.ask::<String>(&["INFO"]).await.expect_err("no answer");
        assert!(matches!(lost, Trouble::Unreachable(_)), "{lost:?}");
    }

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
}
