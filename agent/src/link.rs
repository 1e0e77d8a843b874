//! Keeps one link to each controller: dial, serve, and dial again when it is lost.

use std::{io, sync::Arc, time::Duration};

use hostler_core::{
    backoff::Backoff,
    link::{self, Keepalive},
    tls::{Credentials, Expected, Protocol, TlsError, Trust},
};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::serve::Server;

/// Longest for a TCP connection and a handshake.
const DIAL: Duration = Duration::from_secs(10);
/// A link that stood this long was a good one: waits begin anew after it.
const GOOD: Duration = Duration::from_secs(30);

/// Why a controller cannot be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// No connection.
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
    /// No handshake is possible.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What every dial of one agent needs.
#[derive(Debug, Clone)]
pub struct Dialler {
    /// Whom to trust.
    pub trust: Trust,
    /// Whose certificate to show.
    pub credentials: Arc<Credentials>,
}

impl Dialler {
    /// A connection to a controller, whose identity is proven.
    ///
    /// # Errors
    /// When it cannot be reached or is not a controller of this fleet.
    pub async fn dial(
        &self,
        address: &str,
        protocol: Protocol,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let config = self.trust.dial(protocol, &self.credentials, Expected::Controller)?;
        connect(address, TlsConnector::from(config)).await
    }
}

/// A connection over TLS to an address.
///
/// # Errors
/// When it is not there within ten seconds.
pub async fn connect(
    address: &str,
    connector: TlsConnector,
) -> Result<TlsStream<TcpStream>, DialError> {
    let failed = |source| DialError::Connect { address: address.to_owned(), source };
    let dial = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Peers are known by the URI in their certificate; the name here is only for the protocol.
        let name = ServerName::try_from("controller").map_err(io::Error::other)?;
        connector.connect(name, stream).await
    };
    match tokio::time::timeout(DIAL, dial).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(DialError::Slow(address.to_owned())),
    }
}

/// Keeps a link to one controller until `stop`.
pub async fn keep(
    address: String,
    dialler: Dialler,
    server: Server,
    keepalive: Keepalive,
    backoff: Backoff,
    stop: CancellationToken,
    mut rng: impl rand::Rng + Send,
) {
    let mut waits = backoff.start();
    loop {
        let began = tokio::time::Instant::now();
        let linked = async {
            match dialler.dial(&address, Protocol::Link).await {
                Err(error) => tracing::warn!(%error, "no link"),
                Ok(stream) => {
                    let draining = stop.clone();
                    let ended = link::serve(stream, server.clone(), keepalive, async move {
                        draining.cancelled().await;
                    });
                    match ended.await {
                        Ok(()) => tracing::info!(address, "the link was closed"),
                        Err(error) => tracing::warn!(address, %error, "the link was lost"),
                    }
                }
            }
        };
        linked.await;
        if stop.is_cancelled() {
            return;
        }
        if began.elapsed() >= GOOD {
            waits = backoff.start();
        }
        let wait = waits.next(&mut rng);
        tracing::info!(address, wait_ms = wait.as_millis(), "dialling again later");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}
