//! How one check stands, and what of that was told.

use hostler_proto::wire::{CheckState, Status, Turn};
use prost::Message as _;

use super::problems::severity;

/// An agent tells of every check within this time after it ran.
pub(super) const HEARTBEAT_US: i64 = 60_000_000;

/// How a check stands, and since when that was heard. Of ten thousand hosts there are hundreds of
/// thousands: all but what is asked for all the time is kept as it came.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Checks that it needs to be well.
    pub after: Box<[String]>,
    /// When the agent told it.
    pub heard_us: i64,
    /// Since when it is so.
    pub since_us: i64,
    /// The hard state, and whether it flaps, that history and people were told of last.
    pub(super) told: (Status, bool),
    hard: Status,
    status: Status,
    soft: bool,
    pending: bool,
    flapping: bool,
    figures: u16,
    interval_s: u32,
    encoded: Box<[u8]>,
}

/// Whether a check has no state yet. One that never ran counts as well for its agent.
fn pending(state: &CheckState) -> bool {
    match state.hard() {
        Status::Unspecified => true,
        Status::Ok => state.checked_us == 0,
        _ => false,
    }
}

impl Standing {
    /// A state that was told.
    pub fn new(mut state: CheckState, heard_us: i64) -> Self {
        let after = std::mem::take(&mut state.after).into_boxed_slice();
        Self {
            after,
            heard_us,
            since_us: state.since_us,
            told: (state.hard(), state.flapping),
            soft: state.attempt > 0,
            pending: pending(&state),
            hard: state.hard(),
            // Of one that never ran its agent says that it is unknown.
            status: if state.checked_us > 0 { state.status() } else { Status::Unspecified },
            flapping: state.flapping,
            figures: u16::try_from(state.figures.len()).unwrap_or(u16::MAX),
            interval_s: state.interval_s,
            encoded: state.encode_to_vec().into_boxed_slice(),
        }
    }

    /// As the agent told it.
    pub fn state(&self) -> CheckState {
        // It was encoded here.
        let state = CheckState::decode(&*self.encoded).unwrap_or_default();
        CheckState { after: self.after.to_vec(), ..state }
    }

    /// How many figures it has.
    pub fn figures(&self) -> u16 {
        self.figures
    }

    /// What tells one state from another.
    pub(super) fn face(&self) -> (Status, Status, i64, bool) {
        (self.status, self.hard, self.since_us, self.flapping)
    }

    /// Whether it has no state yet: it never ran, or what it saw is not sure.
    pub fn pending(&self) -> bool {
        self.pending && !self.flapping
    }

    /// Since when it flaps; 0 when it does not.
    pub(super) fn flapping_since_us(&self) -> i64 {
        if self.flapping { self.state().flapping_since_us } else { 0 }
    }

    /// Whether it should have been heard of since: then nobody knows how it stands.
    pub fn stale(&self, now_us: i64) -> bool {
        now_us - self.heard_us > self.patience_us()
    }

    /// How long it may be silent.
    pub(super) fn patience_us(&self) -> i64 {
        let interval = i64::from(self.interval_s) * 1_000_000;
        interval.saturating_mul(2) + 2 * HEARTBEAT_US
    }

    /// What people are told of it now.
    pub fn hard(&self, now_us: i64) -> Status {
        if self.stale(now_us) { Status::Unknown } else { self.hard }
    }

    /// How people should look at it: one that changes again and again is not well, also in the
    /// moments in which it is.
    pub fn shown(&self, now_us: i64) -> Status {
        match self.hard(now_us) {
            Status::Ok | Status::Unspecified if self.flapping => Status::Warning,
            hard => hard,
        }
    }

    /// The worse of what is told and what its last run saw.
    pub fn worst(&self, now_us: i64) -> Status {
        let shown = self.shown(now_us);
        if severity(self.status) > severity(shown) { self.status } else { shown }
    }

    /// What is to be told so that the last that was told is how it stands.
    pub(super) fn untold(&mut self, summary: &str, at_us: i64) -> Vec<Turn> {
        let mut turns = Vec::new();
        let (told, flapped) = self.told;
        // An agent that forgot everything counts a check as well until its first results are hard.
        let begins = self.soft && severity(self.hard) == 0 && severity(told) > 0;
        if self.hard == Status::Unspecified || begins {
            return turns;
        }
        let turn = |check: &str, was: Status, hard, summary: String| Turn {
            check: check.to_owned(),
            was: was.into(),
            became: self.hard.into(),
            hard,
            flapping: self.flapping,
            at_us,
            summary,
            ..Turn::default()
        };
        let check = self.state().check;
        if told != self.hard && severity(told) + severity(self.hard) > 0 {
            turns.push(turn(&check, told, true, summary.to_owned()));
        }
        if flapped != self.flapping {
            let said = if self.flapping { "it began to flap" } else { "it no longer flaps" };
            turns.push(turn(&check, self.hard, false, format!("{said}: {summary}")));
        }
        self.told = (self.hard, self.flapping);
        turns
    }
}
