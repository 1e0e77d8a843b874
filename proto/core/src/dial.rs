//! Opens a connection whose other end proves who it is. Who that must be is the TLS configuration's
//! matter; what is spoken over it is the caller's.

use std::{io, sync::Arc, time::Duration};

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
