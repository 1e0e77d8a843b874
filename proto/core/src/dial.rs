//! Opens a connection whose other end proves who it is. Who that must be is the TLS configuration's
//! matter; what is spoken over it is the caller's.

use std::{io, net::Ipv6Addr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::tls::TlsError;

/// Longest for a TCP connection and a handshake.
const LONGEST: Duration = Duration::from_secs(10);

/// Why a peer cannot be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// No connection, or no handshake.
    #[error("{address} cannot be reached: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing happened for too long.
    #[error("{0} did not answer within 10 s")]
    Slow(String),
    /// No handshake can be prepared.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is no address; it has the form HOST:PORT, with an IPv6 address in brackets")]
pub struct InvalidAddress(String);

/// Whether a text can be dialled, as far as that can be told without asking anybody.
///
/// # Errors
/// When it is no `HOST:PORT`.
pub fn check_address(text: &str) -> Result<(), InvalidAddress> {
    let name = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let host = |host: &str| match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        // A link-local address names its interface.
        Some(host) => host.split('%').next().is_some_and(|h| h.parse::<Ipv6Addr>().is_ok()),
        None => name(host),
    };
    let fits = text
        .rsplit_once(':')
        .is_some_and(|(name, port)| host(name) && port.parse::<u16>().is_ok_and(|port| port != 0));
    if fits { Ok(()) } else { Err(InvalidAddress(text.chars().take(80).collect())) }
}

/// A connection over TLS to an address, `HOST:PORT`.
///
/// # Errors
/// When it is not there within ten seconds.
pub async fn dial(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Peers are known by the URI in their certificate; a name is only for the protocol.
        let name = ServerName::try_from("hostler").map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    };
    match tokio::time::timeout(LONGEST, connect).await {
        Ok(result) => {
            result.map_err(|source| DialError::Connect { address: address.to_owned(), source })
        }
        Err(_) => Err(DialError::Slow(address.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for text in
            ["ctl:1", "ctl.example.org:7443", "127.0.0.1:7443", "[::1]:7443", "[fe80::1%eth0]:1"]
        {
            check_address(text).expect(text);
        }
        for text in
            ["", "nonsense", "ctl:", ":7443", "ctl:0", "ctl:99999", "::1:7443", "https://ctl:1"]
        {
            assert!(check_address(text).is_err(), "{text}");
        }
    }
}
