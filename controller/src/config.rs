//! The controller's configuration, `controller.toml`. Every key has a default.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use hostler_core::{
    dial::{InvalidAddress, check_address},
    link::{InvalidKeepalive, Keepalive},
};
use hostler_proto::name::{HostName, InvalidHostName};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    notify::{send, target::Target},
    selector::Selector,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Hosts on which one request may run at a time.
const MOST_PARALLEL: usize = 100_000;
/// The authority's own certificate lives no longer.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

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
    /// Silence after which an agent is asked whether it lives.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long it may take to answer.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Life of an agent's certificate.
    #[serde(with = "humantime_serde")]
    pub agent_certificate: Duration,
    /// Life of an operator's certificate.
    #[serde(with = "humantime_serde")]
    pub operator_certificate: Duration,
    /// How long after its expiry an agent's certificate may be renewed.
    #[serde(with = "humantime_serde")]
    pub renewal_grace: Duration,
    /// How long figures of checks are kept; changes of their states are kept for ever.
    #[serde(with = "humantime_serde")]
    pub figures: Duration,
    /// Hosts on which one request runs at a time.
    pub parallel: usize,
    /// Who is told of hard states that change.
    pub notify: Vec<Target>,
    /// Listening agents that are dialled while they are not linked: host to `HOST:PORT`.
    pub dial: BTreeMap<String, String>,
}

/// Values that cannot be used.
#[derive(Debug, Error)]
pub enum InvalidConfig {
    /// keepalive, keepalive_timeout
    #[error("keepalive and keepalive_timeout: {0}")]
    Keepalive(#[from] InvalidKeepalive),
    /// dial
    #[error("dial: {0}")]
    Dial(#[from] InvalidHostName),
    /// addresses
    #[error("{0}: {1}")]
    Address(&'static str, InvalidAddress),
    /// A time span, or a number, that is out of bounds.
    #[error("{0} must be from {1} to {2}")]
    Bounds(&'static str, String, String),
    /// store
    #[error("store names no database that can be used; it begins with sqlite: or postgres://")]
    Store,
    /// notify
    #[error("notify \"{0}\": {1}")]
    Notify(String, String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            metrics: None,
            state_dir: PathBuf::from("/var/lib/hostler-controller"),
            store: None,
            addresses: Vec::new(),
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(8),
            agent_certificate: 30 * DAY,
            operator_certificate: 90 * DAY,
            renewal_grace: 7 * DAY,
            figures: 90 * DAY,
            parallel: 512,
            notify: Vec::new(),
            dial: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Whether every value can be used.
    ///
    /// # Errors
    /// With the first that cannot.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.keepalive()?;
        self.dialled()?;
        self.bounds()?;
        let address = |key, text: &String| {
            check_address(text).map_err(|error| InvalidConfig::Address(key, error))
        };
        self.addresses.iter().try_for_each(|text| address("addresses", text))?;
        self.dial.values().try_for_each(|text| address("dial", text))?;
        let known = |url: &String| {
            ["sqlite:", "postgres://", "postgresql://"].iter().any(|begin| url.starts_with(begin))
        };
        // It may hold a password, so that it is not shown.
        if !self.store.as_ref().is_none_or(known) {
            return Err(InvalidConfig::Store);
        }
        let mut names = BTreeSet::new();
        for target in &self.notify {
            let wrong = |why: &str| Err(InvalidConfig::Notify(target.name.clone(), why.to_owned()));
            if !names.insert(&target.name) {
                return wrong("there are two of this name");
            }
            if let Err(why) = send::usable(target) {
                return wrong(&why);
            }
            if let Err(error) = target.zone() {
                return wrong(&error.to_string());
            }
            if target.on.as_ref().is_some_and(Selector::is_of_the_moment) {
                let no = Selector::OF_THE_MOMENT;
                return wrong(&format!("on selects hosts, however they are: {no}"));
            }
        }
        Ok(())
    }

    fn bounds(&self) -> Result<(), InvalidConfig> {
        for (key, value, least) in [
            ("agent_certificate", self.agent_certificate, SECOND),
            ("operator_certificate", self.operator_certificate, SECOND),
            ("renewal_grace", self.renewal_grace, Duration::ZERO),
            ("figures", self.figures, HOUR),
        ] {
            if value < least || value > LONGEST {
                let shown =
                    |d: Duration| humantime_serde::re::humantime::format_duration(d).to_string();
                return Err(InvalidConfig::Bounds(key, shown(least), "3650d".to_owned()));
            }
        }
        match self.parallel {
            1..=MOST_PARALLEL => Ok(()),
            _ => {
                let most = MOST_PARALLEL.to_string();
                Err(InvalidConfig::Bounds("parallel", "1".to_owned(), most))
            }
        }
    }

    /// The listening agents, and where they are.
    ///
    /// # Errors
    /// When a name is no host's.
    pub fn dialled(&self) -> Result<Vec<(HostName, String)>, InvalidConfig> {
        let entry = |(host, address): (&String, &String)| Ok((host.parse()?, address.clone()));
        self.dial.iter().map(entry).collect()
    }

    /// The keepalive of every link.
    ///
    /// # Errors
    /// When a value is below a second.
    pub fn keepalive(&self) -> Result<Keepalive, InvalidKeepalive> {
        Keepalive::new(self.keepalive, self.keepalive_timeout)
    }

    /// Where the store is.
    pub fn store_url(&self) -> String {
        let default = || format!("sqlite:{}", self.state_dir.join("store.sqlite").display());
        self.store.clone().unwrap_or_else(default)
    }

    /// Addresses to tell others. When none is configured, the listener's own, or this machine's name
    /// where it listens on all addresses.
    pub fn addresses(&self) -> Vec<String> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match name.trim() {
            name if self.listen.ip().is_unspecified() && !name.is_empty() => {
                vec![format!("{name}:{}", self.listen.port())]
            }
            _ => vec![self.listen.to_string()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_in_one_sentence() {
        for (text, words) in [
            ("agent_certificate = \"0s\"", "agent_certificate must be from 1s to 3650d"),
            ("agent_certificate = \"4000d\"", "agent_certificate must be"),
            ("operator_certificate = \"0s\"", "operator_certificate must be"),
            ("renewal_grace = \"30000d\"", "renewal_grace must be"),
            ("figures = \"1m\"", "figures must be from 1h"),
            ("parallel = 0", "parallel must be from 1"),
            ("store = \"mysql://me:hunter2@x\"", "begins with sqlite: or postgres://"),
            ("addresses = [\"nonsense\"]", "addresses: \"nonsense\" is no address"),
            ("[dial]\n\"web-1\" = \"web-1\"", "dial: \"web-1\" is no address"),
        ] {
            let config: Config = toml::from_str(text).expect(text);
            let said = config.check().expect_err(text).to_string();
            assert!(said.contains(words) && !said.contains("hunter2"), "{text}: {said}");
        }
        Config::default().check().expect("the defaults can be used");
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let sample = include_str!("../../deploy/controller.toml");
        let sample: Config = toml::from_str(sample).expect("the sample");
        assert_eq!(format!("{sample:?}"), format!("{:?}", Config::default()));
    }
}
