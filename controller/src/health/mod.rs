//! How the hosts are, as their agents tell it.
//!
//! - [`Fleet`]: how every check stands now; [`hear`]: how it hears of that; [`recorder`]: what of it
//!   is written down
//! - [`absence`]: why hosts are away; [`clock`]: whose clock is wrong
//! - [`problems`]: what deserves attention, worst first, with what follows from what
//! - [`silence`]: downtimes and acknowledgements
//! - [`figures`]: numbers over time; [`outlook`]: what will run out; [`past`]: what is over

pub mod absence;
pub mod clock;
pub mod figures;
mod hear;
pub mod outlook;
pub mod past;
pub mod problems;
pub mod recorder;
pub mod silence;
mod standing;
mod standings;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hostler_proto::{
    name::HostName,
    wire::{HealthRequest, Status, Turn},
};

pub(crate) use self::hear::harmless;
pub use self::{standing::Standing, standings::Standings};

/// How every check of every host stands. A clone is the same fleet.
#[derive(Debug, Clone, Default)]
pub struct Fleet(Arc<Mutex<HashMap<HostName, Host>>>);

/// How a host's checks stand.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The agent's memory from which turns were had.
    pub memory: String,
    /// The last of them.
    pub last_turn: u64,
    /// When it was heard of last.
    pub heard_us: i64,
    /// Whether its agent said that it is being stopped.
    pub left: Left,
    /// When it was linked last.
    pub linked_us: i64,
    /// By how much its clock is behind this one, when that is worth a word.
    pub skew_us: i64,
    /// Whether it was told that its agent tells nothing of its checks, though it is linked.
    pub silent: bool,
    /// The checks by name.
    pub checks: Standings,
}

/// Whether an agent said that it is being stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Left {
    /// No.
    #[default]
    No,
    /// It alone.
    Agent,
    /// With its host, which is shut down or booted anew.
    Host,
}

impl Left {
    /// What is said of its host meanwhile; none when it said nothing.
    pub fn said(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::Agent => Some("its agent was stopped on purpose"),
            Self::Host => Some("the host is going down: it was shut down or is booting anew"),
        }
    }

    /// As it is stored.
    pub fn number(self) -> i64 {
        match self {
            Self::No => 0,
            Self::Agent => 1,
            Self::Host => 2,
        }
    }

    /// What was stored.
    pub fn from_number(number: i64) -> Self {
        match number {
            0 => Self::No,
            2 => Self::Host,
            _ => Self::Agent,
        }
    }
}

/// A change of a host itself, as history keeps it: of a check without a name.
pub(crate) fn of_host(was: Status, became: Status, summary: &str, at_us: i64) -> Turn {
    Turn {
        was: was.into(),
        became: became.into(),
        hard: true,
        at_us,
        summary: summary.to_owned(),
        ..Turn::default()
    }
}

impl Fleet {
    /// The fleet as it was written down last.
    pub fn new(hosts: HashMap<HostName, Host>) -> Self {
        Self(Arc::new(Mutex::new(hosts)))
    }

    /// What to ask an agent for: what came after what is known.
    pub fn request(&self, host: &HostName) -> HealthRequest {
        let fleet = self.lock();
        let known = fleet.get(host);
        HealthRequest {
            memory: known.map(|h| h.memory.clone()).unwrap_or_default(),
            after: known.map_or(0, |h| h.last_turn),
        }
    }

    /// A host is linked again: that its agent was being stopped is over, and that it tells nothing. Gives
    /// whether it was, and whether that had been told.
    pub fn arrived(&self, host: &HostName, now_us: i64) -> (Left, bool) {
        let mut fleet = self.lock();
        let Some(known) = fleet.get_mut(host) else { return (Left::No, false) };
        // The link speaks for the host from here on.
        known.linked_us = now_us;
        (std::mem::take(&mut known.left), std::mem::take(&mut known.silent))
    }

    /// Whether a host's agent said that it is being stopped.
    pub fn left(&self, host: &HostName) -> Left {
        self.lock().get(host).map_or(Left::No, |known| known.left)
    }

    /// Forgets a host.
    pub fn forget(&self, host: &HostName) {
        self.lock().remove(host);
    }

    /// How a host's checks stand.
    pub fn host(&self, host: &HostName) -> Option<Host> {
        self.lock().get(host).cloned()
    }

    /// Looks at all of them at once; nothing is told meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&HashMap<HostName, Host>) -> T) -> T {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
