//! The controller's configuration, `controller.toml`. Every key has a default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hostler_core::link::{InvalidKeepalive, Keepalive};
use serde::Deserialize;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where agents and operators connect.
    pub listen: SocketAddr,
    /// Where metrics are served over plain HTTP; nowhere when it is left out.
    pub metrics: Option<SocketAddr>,
    /// Where keys and the SQLite store are kept.
    pub state_dir: PathBuf,
    /// `sqlite:PATH` or `postgres://…`; SQLite in the state directory when it is left out.
    pub store: Option<String>,
    /// Addresses under which it can be reached, for operators' contexts and agents.
    pub addresses: Vec<String>,
    /// Silence after which an agent is asked whether it lives, in seconds.
    pub keepalive_s: u64,
    /// How long it may take to answer, in seconds.
    pub keepalive_timeout_s: u64,
    /// Life of an agent's certificate, in hours.
    pub agent_certificate_h: u64,
    /// Life of an operator's certificate, in days.
    pub operator_certificate_d: u64,
    /// How long after its expiry an agent's certificate may be renewed, in hours.
    pub renewal_grace_h: u64,
    /// Hosts on which one request runs at a time.
    pub parallel: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            metrics: None,
            state_dir: PathBuf::from("/var/lib/hostler-controller"),
            store: None,
            addresses: Vec::new(),
            keepalive_s: 20,
            keepalive_timeout_s: 8,
            agent_certificate_h: 30 * 24,
            operator_certificate_d: 90,
            renewal_grace_h: 7 * 24,
            parallel: 512,
        }
    }
}

impl Config {
    /// The keepalive of every link.
    ///
    /// # Errors
    /// When a value is below a second.
    pub fn keepalive(&self) -> Result<Keepalive, InvalidKeepalive> {
        let seconds = Duration::from_secs;
        Keepalive::new(seconds(self.keepalive_s), seconds(self.keepalive_timeout_s))
    }

    /// Where the store is.
    pub fn store_url(&self) -> String {
        let default = || format!("sqlite:{}", self.state_dir.join("store.sqlite").display());
        self.store.clone().unwrap_or_else(default)
    }

    /// Addresses to tell others; the listener's own when none is configured.
    pub fn addresses(&self) -> Vec<String> {
        match self.addresses.is_empty() {
            true => vec![self.listen.to_string()],
            false => self.addresses.clone(),
        }
    }
}
