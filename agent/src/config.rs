//! The agent's configuration, `/etc/hostler/agent.toml`. Every key has a default.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use hostler_core::{
    backoff::{Backoff, InvalidBackoff},
    link::{InvalidKeepalive, Keepalive},
};
use serde::Deserialize;
use thiserror::Error;

use crate::policy::Policy;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where controllers listen: `host:port`. Those that enrolment told are used when it is empty.
    pub controllers: Vec<String>,
    /// Where key, certificate and journal are kept.
    pub state_dir: PathBuf,
    /// What selectors can ask this host for.
    pub labels: BTreeMap<String, String>,
    /// What the host's owner allows.
    pub policy: Policy,
    /// The link to the controllers.
    pub link: Link,
    /// Where the agent itself listens for controllers; nowhere when it is left out.
    pub listen: Option<SocketAddr>,
    /// How long running operations may go on when the agent is stopped, in seconds.
    pub stop_s: u64,
}

/// How the link is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Silence after which the other end is asked whether it lives, in seconds.
    pub keepalive_s: u64,
    /// How long it may take to answer, in seconds.
    pub keepalive_timeout_s: u64,
    /// Longest wait before the first new attempt, in milliseconds.
    pub reconnect_first_ms: u64,
    /// Longest wait before any attempt, in seconds.
    pub reconnect_longest_s: u64,
}

/// Values that do not go together.
#[derive(Debug, Error)]
pub enum InvalidConfig {
    /// link.keepalive_*
    #[error("link.keepalive_s and link.keepalive_timeout_s: {0}")]
    Keepalive(#[from] InvalidKeepalive),
    /// link.reconnect_*
    #[error("link.reconnect_first_ms and link.reconnect_longest_s: {0}")]
    Backoff(#[from] InvalidBackoff),
}

impl Link {
    /// The keepalive of both ends.
    ///
    /// # Errors
    /// When a value is below a second.
    pub fn keepalive(&self) -> Result<Keepalive, InvalidConfig> {
        let seconds = Duration::from_secs;
        Ok(Keepalive::new(seconds(self.keepalive_s), seconds(self.keepalive_timeout_s))?)
    }

    /// The waits between attempts.
    ///
    /// # Errors
    /// When the first is zero or above the longest.
    pub fn backoff(&self) -> Result<Backoff, InvalidConfig> {
        let first = Duration::from_millis(self.reconnect_first_ms);
        Ok(Backoff::new(first, Duration::from_secs(self.reconnect_longest_s))?)
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            keepalive_s: 20,
            keepalive_timeout_s: 8,
            reconnect_first_ms: 500,
            reconnect_longest_s: 60,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: Vec::new(),
            state_dir: PathBuf::from("/var/lib/hostler-agent"),
            labels: BTreeMap::new(),
            policy: Policy::default(),
            link: Link::default(),
            listen: None,
            stop_s: 20,
        }
    }
}
