//! Where a server is, as the library reads its URL that connects to it: which host and port, or which
//! socket; whether that is this host, and whether somebody takes connections there.

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Longest for a connection to somebody who did not answer before.
const KNOCK: Duration = Duration::from_secs(1);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a port.
    Port {
        /// A name, or an address; one of IPv6 in brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// At a socket of this host.
    Socket(PathBuf),
}

impl Place {
    /// A port of a host, with or without the brackets of an address of IPv6.
    pub fn at(host: &str, port: u16) -> Self {
        let bare = host.contains(':') && !host.starts_with('[');
        Self::Port { host: if bare { format!("[{host}]") } else { host.to_owned() }, port }
    }

    /// The port, where it is one of this host, as far as its address tells; names of others are not looked
    /// up.
    pub fn port_here(&self) -> Option<u16> {
        let Self::Port { host, port } = self else { return None };
        let host = host.trim_matches(['[', ']']);
        let here = match host.parse::<IpAddr>() {
            // Only an address of its own can be bound.
            // One of IPv6 also where the kernel has no IPv6.
            Ok(address) => address.is_loopback() || UdpSocket::bind((address, 0)).is_ok(),
            Err(_) => host == "localhost",
        };
        here.then_some(*port)
    }

    /// Whether it is on this host, as far as its address tells.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Socket(_)) || self.port_here().is_some()
    }

    /// What tells who should answer there, as one would type it; nothing where that is no port of this host.
    pub fn whose(&self) -> String {
        self.port_here().map(|port| format!("net port-owner {port}")).unwrap_or_default()
    }

    /// Whether a connection comes about. The kernel makes it, also for a process that hangs.
    pub async fn takes_connections(&self) -> bool {
        match self {
            // No packets that could be lost.
            Self::Socket(_) => true,
            Self::Port { host, port } => {
                let host = host.trim_matches(['[', ']']);
                matches!(timeout(KNOCK, TcpStream::connect((host, *port))).await, Ok(Ok(_)))
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The process that listens at a socket of this host, where it can be told.
pub async fn listener(socket: &Path) -> Option<u32> {
    let connected = timeout(KNOCK, UnixStream::connect(socket)).await.ok()?.ok()?;
    u32::try_from(connected.peer_cred().ok()?.pid()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_place_is_known_where_it_is_of_this_host() {
        for (place, shown, here) in [
            (Place::at("127.0.0.1", 5433), "127.0.0.1:5433", Some(5433)),
            (Place::at("192.0.2.7", 6379), "192.0.2.7:6379", None),
            (Place::at("[::1]", 7000), "[::1]:7000", Some(7000)),
            (Place::at("::1", 7000), "[::1]:7000", Some(7000)),
            (Place::at("localhost", 8000), "localhost:8000", Some(8000)),
            (Place::at("db.example", 6379), "db.example:6379", None),
            (Place::Socket("/run/redis.sock".into()), "/run/redis.sock", None),
        ] {
            assert_eq!((place.to_string().as_str(), place.port_here()), (shown, here));
        }
        assert_eq!(Place::at("localhost", 8000).whose(), "net port-owner 8000");
        assert_eq!(Place::Socket("/run/redis.sock".into()).whose(), "");
    }

    #[tokio::test]
    async fn who_takes_connections_and_says_nothing_is_told_from_a_port_at_which_nobody_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = Place::at("127.0.0.1", listener.local_addr().expect("an address").port());
        assert!(place.takes_connections().await);
        drop(listener);
        assert!(!place.takes_connections().await);
    }

    #[tokio::test]
    async fn who_listens_at_a_socket_is_known() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        assert_eq!(listener(&path).await, None);
        let _listens = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        assert_eq!(listener(&path).await, Some(std::process::id()));
    }
}
