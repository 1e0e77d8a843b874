//! Keeps one link to each controller: dial, serve, and dial again when it is lost.

use std::sync::Arc;

use hostler_core::{
    backoff::Backoff,
    dial::{DialError, dial},
    link::{self, Keepalive},
    tls::{Credentials, Expected, Protocol, Trust},
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::serve::Server;

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
        dial(address, config).await
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
        let wait = waits.after(began.elapsed(), &mut rng);
        tracing::info!(address, wait_ms = wait.as_millis(), "dialling again later");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}
