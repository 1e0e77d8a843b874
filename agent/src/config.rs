//! The agent's configuration, `/etc/hostler/agent.toml`. Every key has a default.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_core::{
    backoff::{Backoff, InvalidBackoff},
    config::{self, ConfigError},
    dial::{InvalidAddress, check_address},
    link::{InvalidKeepalive, Keepalive},
    program,
};
use hostler_proto::{
    catalogue::{Catalogue, CatalogueError},
    name::{InvalidLabel, check_label},
};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    checks::definition,
    discover::checked::Checked,
    policy::{InvalidPolicy, Policy},
    stack::{self, Stack},
};

/// Where the configuration is, unless the command line says otherwise.
pub const STANDARD: &str = "/etc/hostler/agent.toml";
/// Where the agent keeps its state, unless the configuration says otherwise.
pub const STATE: &str = "/var/lib/hostler-agent";

/// Labels that a controller takes from one host.
const LABELS: usize = 64;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where controllers listen: `host:port`. Those that enrolment told are used when it is empty.
    pub controllers: Vec<String>,
    /// Whether links to controllers are dialled; without, only controllers that dial in have one.
    pub dial: bool,
    /// Where key, certificate and journal are kept.
    pub state_dir: PathBuf,
    /// What selectors can ask this host for.
    pub labels: BTreeMap<String, String>,
    /// What the host's owner allows.
    pub policy: Policy,
    /// What is on this host and how it is checked; the file need not exist.
    pub stack: PathBuf,
    /// The link to the controllers.
    pub link: Link,
    /// Where the agent itself listens for controllers; nowhere when it is left out.
    pub listen: Option<SocketAddr>,
    /// How long running operations may go on when the agent is stopped.
    #[serde(with = "humantime_serde")]
    pub stop: Duration,
}

/// How the link is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Silence after which the other end is asked whether it lives.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long it may take to answer.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Longest wait before the first new attempt.
    #[serde(with = "humantime_serde")]
    pub reconnect_first: Duration,
    /// Longest wait before any attempt.
    #[serde(with = "humantime_serde")]
    pub reconnect_longest: Duration,
}

/// Values that do not go together.
#[derive(Debug, Error)]
pub enum InvalidConfig {
    /// link.keepalive_*
    #[error("link.keepalive and link.keepalive_timeout: {0}")]
    Keepalive(#[from] InvalidKeepalive),
    /// link.reconnect_*
    #[error("link.reconnect_first and link.reconnect_longest: {0}")]
    Backoff(#[from] InvalidBackoff),
    /// policy
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// policy.operations, policy.deny
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// controllers
    #[error("controllers: {0}")]
    Controllers(#[from] InvalidAddress),
    /// labels
    #[error("labels: {0}")]
    Label(#[from] InvalidLabel),
    /// labels
    #[error("labels: there are {0}; a controller takes {most} at most", most = LABELS)]
    Labels(usize),
    /// dial, listen
    #[error("dial is false and there is no listen: nobody could reach this host; set one of them")]
    Unreachable,
}

impl Config {
    /// What a file says; the defaults when it is the standard one, and not there.
    ///
    /// # Errors
    /// When it cannot be read, or holds what is no configuration.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = program::configured(file, STANDARD)?;
        config.policy.file = file.to_owned();
        config.policy.state_dir.clone_from(&config.state_dir);
        Ok(config)
    }

    /// Whether every value can be used.
    ///
    /// # Errors
    /// With the first that cannot.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.link.keepalive()?;
        self.link.backoff()?;
        let known: Vec<&str> = Catalogue::names().collect();
        self.policy.check(&known)?;
        self.controllers.iter().try_for_each(|address| check_address(address))?;
        self.labels.iter().try_for_each(|(key, value)| check_label(key, value))?;
        if self.labels.len() > LABELS {
            return Err(InvalidConfig::Labels(self.labels.len()));
        }
        match self.dial || self.listen.is_some() {
            true => Ok(()),
            false => Err(InvalidConfig::Unreachable),
        }
    }
}

impl Config {
    /// What the stack file says, and its checks; where there is none, what is remembered of what was found
    /// without it.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub async fn checked(&self, catalogue: &Catalogue) -> Result<Checked, program::Error> {
        if !self.stack.exists() {
            return Ok(Checked::at_start(&self.state_dir, &self.policy, catalogue).await?);
        }
        let stack: Stack = config::read(&self.stack)?;
        let checks = definition::checks(&stack, definition::has_systemd(), catalogue)?;
        Ok(Checked { stack, checks, left_out: BTreeSet::new() })
    }
}

impl Link {
    /// The keepalive of both ends.
    ///
    /// # Errors
    /// When a value is below a second.
    pub fn keepalive(&self) -> Result<Keepalive, InvalidConfig> {
        Ok(Keepalive::new(self.keepalive, self.keepalive_timeout)?)
    }

    /// The waits between attempts.
    ///
    /// # Errors
    /// When the first is zero or above the longest.
    pub fn backoff(&self) -> Result<Backoff, InvalidConfig> {
        Ok(Backoff::new(self.reconnect_first, self.reconnect_longest)?)
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(8),
            reconnect_first: Duration::from_millis(500),
            reconnect_longest: Duration::from_secs(60),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: Vec::new(),
            dial: true,
            state_dir: PathBuf::from(STATE),
            labels: BTreeMap::new(),
            policy: Policy::default(),
            stack: PathBuf::from(stack::STANDARD),
            link: Link::default(),
            listen: None,
            stop: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_would_refuse_or_nobody_could_reach_is_told_beforehand() {
        let said = |text: &str| {
            let config: Config = toml::from_str(text).expect(text);
            config.check().expect_err(text).to_string()
        };
        for (text, words) in [
            ("controllers = [\"\"]", "controllers: \"\" is no address"),
            ("controllers = [\"ctl\"]", "HOST:PORT"),
            ("[labels]\nstate = \"a\"", "labels: \"state=a\" is no label"),
            ("[labels]\nrole = \"a b\"", "is no label"),
            ("[policy]\ndeny = [\"systemd.stpo\"]", "did you mean \"systemd.stop\"?"),
            ("[policy]\npaths = [\"relative\"]", "no absolute path"),
            ("dial = false", "nobody could reach this host"),
        ] {
            assert!(said(text).contains(words), "{text}: {}", said(text));
        }
        let labels: Vec<_> = (0..65).map(|i| format!("l{i} = \"a\"")).collect();
        assert!(said(&format!("[labels]\n{}", labels.join("\n"))).contains("64 at most"));
        Config::default().check().expect("the defaults can be used");
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let sample = include_str!("../../deploy/agent.toml");
        let sample: Config = toml::from_str(sample).expect("the sample");
        assert_eq!(format!("{sample:?}"), format!("{:?}", Config::default()));
    }
}
