//! The stack file, `/etc/hostler/stack.toml`: what is on this host, and how it is checked.
//!
//! Secrets are named, never held: a password stands in a file of its own.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

/// Where the stack file is, unless the configuration says otherwise.
pub const STANDARD: &str = "/etc/hostler/stack.toml";

/// What is on this host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stack {
    /// How checks run unless they say otherwise.
    pub defaults: Pace,
    /// Units that must run.
    #[serde(rename = "unit")]
    pub units: Vec<Unit>,
    /// HTTP endpoints that must answer.
    pub http: Vec<Http>,
    /// Programs that check, as Nagios knows them.
    #[serde(rename = "plugin")]
    pub plugins: Vec<Plugin>,
    /// Changes of checks that come by default, and more checks, by name.
    pub check: BTreeMap<String, Change>,
}

/// How often a check runs, and how sure one must be.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Time between two runs.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Time between two runs while a bad result is not hard yet.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Bad results in a row that make a hard state.
    pub attempts: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), retry: Duration::from_secs(20), attempts: 3 }
    }
}

/// A unit of systemd.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its name; `.service` may be left out.
    pub name: String,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// An HTTP endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Its name in the fleet.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Text that the answer must hold.
    #[serde(default)]
    pub expect: String,
    /// Status that is expected; every success and redirection when it is left out.
    #[serde(default)]
    pub status: Option<u32>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// A program that checks, as Nagios knows them: exit status, a line of text, figures after a bar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name in the fleet.
    pub name: String,
    /// The program's absolute path and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Checks that it needs to be well.
    #[serde(default)]
    pub after: Vec<String>,
}

/// What is different about a check, or a check that does not come by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// It does not run.
    pub off: bool,
    /// The probe; needed for a check that does not come by default.
    pub operation: Option<String>,
    /// Parameters of the probe, in place of or beside those by default.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Time between two runs.
    #[serde(with = "humantime_serde")]
    pub interval: Option<Duration>,
    /// Time between two runs while a bad result is not hard yet.
    #[serde(with = "humantime_serde")]
    pub retry: Option<Duration>,
    /// Bad results in a row that make a hard state.
    pub attempts: Option<u32>,
    /// Checks that it needs to be well.
    pub after: Option<Vec<String>>,
}
