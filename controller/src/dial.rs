//! Dials agents that listen, while they have not linked themselves. What comes of a connection is
//! the same as with one that the agent dialled.

use std::{sync::Arc, time::Duration};

use hostler_core::{
    backoff::Backoff,
    dial::{DialError, dial},
    identity::{Identity, Principal},
    tls::{Credentials, Expected, Protocol, Trust},
};
use hostler_proto::name::HostName;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// How often it is looked whether a host that linked itself is still linked.
const LOOK: Duration = Duration::from_secs(5);

/// What every dial of this controller needs.
#[derive(Debug, Clone)]
pub struct Dialler {
    /// Whom to trust.
    pub trust: Trust,
    /// Whose certificate to show.
    pub credentials: Arc<Credentials>,
}

impl Dialler {
    /// Keeps one listening agent linked until `stop`.
    pub async fn keep(self, host: HostName, address: String, api: Api, stop: CancellationToken) {
        let backoff = Backoff::default();
        let mut rng = SmallRng::from_os_rng();
        let mut waits = backoff.start();
        let keeping = async {
            loop {
                let wait = if api.0.links.get(&host).is_some() {
                    waits = backoff.start();
                    LOOK
                } else {
                    let began = Instant::now();
                    match self.link(&host, &address, &api).await {
                        Ok(()) => tracing::info!(%host, address, "the dialled link ended"),
                        Err(error) => tracing::warn!(%host, %error, "an agent cannot be dialled"),
                    }
                    waits.after(began.elapsed(), &mut rng)
                };
                tokio::time::sleep(wait).await;
            }
        };
        let _ = stop.run_until_cancelled(keeping).await;
    }

    /// One link, until it ends.
    async fn link(&self, host: &HostName, address: &str, api: &Api) -> Result<(), DialError> {
        let identity =
            Identity { fleet: api.0.fleet.clone(), principal: Principal::Agent(host.clone()) };
        let expected = Expected::Exactly(identity);
        let config = self.trust.dial(Protocol::Grpc, &self.credentials, expected)?;
        let stream = dial(address, config).await?;
        let at = stream.get_ref().0.peer_addr();
        let at = at.map_err(|source| DialError::Connect { address: address.into(), source })?;
        let leaf = stream.get_ref().1.peer_certificates();
        // As an agent that dialled: the verifier has seen who it is.
        let peer = self.trust.peer(Protocol::Link, leaf)?;
        api.linked(peer, stream.into(), at).await;
        Ok(())
    }
}
