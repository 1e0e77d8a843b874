//! Where a server is that a URL names: which host and port, whether that is this host, and whether
//! somebody takes connections there.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

/// Longest for a connection to somebody who did not answer before.
const KNOCK: Duration = Duration::from_secs(1);

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A name, or an address; one of IPv6 in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Place {
    /// That of a URL, with the port that such servers usually have.
    pub fn of(url: &str, usual: u16) -> Self {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let port = place.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = port.unwrap_or((place, usual));
        Self { host: if host.is_empty() { "127.0.0.1" } else { host }.to_owned(), port }
    }

    /// Whether it is on this host, as far as its address tells; names of others are not looked up.
    pub fn is_here(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        match host.parse::<IpAddr>() {
            // Only an address of its own can be bound.
            Ok(address) => UdpSocket::bind((address, 0)).is_ok(),
            Err(_) => host == "localhost",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether a connection comes about. The kernel makes it, also for a process that hangs.
pub async fn takes_connections(host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']);
    matches!(timeout(KNOCK, TcpStream::connect((host, port))).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_of_a_url_are_known_and_whether_they_are_of_this_host() {
        for (url, expected, here) in [
            ("postgres://hostler@127.0.0.1:5433/postgres?sslmode=disable", "127.0.0.1:5433", true),
            ("redis://:pw@192.0.2.7/0", "192.0.2.7:6379", false),
            ("redis://[::1]:7000/0", "[::1]:7000", true),
            ("http://localhost:8000/health", "localhost:8000", true),
            ("postgres://hostler@/app?host=/run/postgresql", "127.0.0.1:6379", true),
            ("redis://db.example", "db.example:6379", false),
        ] {
            let place = Place::of(url, 6379);
            assert_eq!((place.to_string().as_str(), place.is_here()), (expected, here), "{url}");
        }
    }

    #[tokio::test]
    async fn who_takes_connections_and_says_nothing_is_told_from_a_port_at_which_nobody_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert!(takes_connections("127.0.0.1", port).await);
        drop(listener);
        assert!(!takes_connections("127.0.0.1", port).await);
    }
}
