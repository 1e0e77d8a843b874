//! Time and ids. They are given to whoever needs them when it is built; nothing else reads them.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use uuid::Uuid;

/// Where wall-clock time and fresh ids come from. Waiting is done with tokio's timers instead.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
    /// An id that was never given out before, ordered by time.
    fn id(&self) -> Uuid;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where ids come from")]
    fn id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A clock that stands still until it is moved, and counts its ids.
#[derive(Debug, Clone)]
pub struct FixedClock {
    micros: Arc<AtomicI64>,
    ids: Arc<AtomicU64>,
}

impl FixedClock {
    /// A clock that stands at that time.
    pub fn at(time: Timestamp) -> Self {
        Self {
            micros: Arc::new(AtomicI64::new(time.as_microsecond())),
            ids: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Moves the clock on.
    pub fn advance(&self, by: std::time::Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.micros.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
    }

    fn id(&self) -> Uuid {
        let seconds = u64::try_from(self.now().as_second()).unwrap_or(0);
        let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        let base = Uuid::new_v7(time).as_u128() & !u128::from(u32::MAX);
        // Only the timestamp and the version remain of the base: the rest is the count.
        let kept = base & (u128::MAX << 76) | 0x8 << 60;
        Uuid::from_u128(kept | u128::from(count))
    }
}

/// Identifies one request to run one operation, on one or many hosts, from end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(Uuid);

impl InvocationId {
    /// A fresh one.
    pub fn new(clock: &dyn Clock) -> Self {
        Self(clock.id())
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no invocation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no invocation id; it has the form 0191f2d4-7c5e-7000-8000-000000000000")]
pub struct InvalidInvocationId(String);

impl FromStr for InvocationId {
    type Err = InvalidInvocationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Uuid::parse_str(text) {
            Ok(id) if id.get_version_num() == 7 => Ok(Self(id)),
            _ => Err(InvalidInvocationId(text.chars().take(60).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_stands_until_it_is_moved_and_its_ids_are_v7_and_distinct() {
        let clock = FixedClock::at("2026-03-29T00:59:59Z".parse().expect("time"));
        assert_eq!(clock.now(), clock.now());
        clock.advance(std::time::Duration::from_secs(1));
        assert_eq!(clock.now().to_string(), "2026-03-29T01:00:00Z");
        let (a, b) = (InvocationId::new(&clock), InvocationId::new(&clock));
        assert!(a < b);
        assert_eq!(a.to_string().parse(), Ok(a));
    }

    #[test]
    fn an_invocation_id_is_a_time_ordered_uuid_and_nothing_else() {
        assert!("".parse::<InvocationId>().is_err());
        assert!("936da01f-9abd-4d9d-80c7-02af85c822a8".parse::<InvocationId>().is_err());
    }
}
