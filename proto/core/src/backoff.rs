//! How long to wait before trying again: exponential, with full jitter.
//!
//! Full jitter (a wait drawn evenly from zero to the growing ceiling) is what keeps ten thousand
//! agents from coming back to a restarted controller in the same second.

use std::time::Duration;

use rand::Rng;
use thiserror::Error;

/// A connection that held for so long was no failure.
const GOOD: Duration = Duration::from_secs(30);

/// Why two durations make no backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidBackoff {
    /// The first ceiling is zero: retries would spin.
    #[error("the first wait must be longer than zero")]
    Zero,
    /// The last ceiling is below the first.
    #[error("the longest wait must not be shorter than the first")]
    Shrinks,
}

/// The bounds of a backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits of up to `first`, then up to twice that, and so on, but never above `longest`.
    ///
    /// # Errors
    /// When `first` is zero or above `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Result<Self, InvalidBackoff> {
        if first.is_zero() {
            return Err(InvalidBackoff::Zero);
        }
        if longest.as_nanos() < first.as_nanos() {
            return Err(InvalidBackoff::Shrinks);
        }
        Ok(Self { first, longest })
    }

    /// The longest that the wait before retry number `attempt` (from 0) can be.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 2_u32.checked_pow(attempt).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// A series of waits that starts anew.
    pub fn start(self) -> Waits {
        Waits { backoff: self, attempt: 0 }
    }
}

impl Default for Backoff {
    /// Up to half a second at first, up to a minute in the end.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(60) }
    }
}

/// One series of waits; forget it on success.
#[derive(Debug, Clone)]
pub struct Waits {
    backoff: Backoff,
    attempt: u32,
}

impl Waits {
    /// The wait after a connection that held for so long. One that was good begins the series anew; one
    /// that is refused each time does not.
    pub fn after(&mut self, held: Duration, rng: &mut impl Rng) -> Duration {
        if held >= GOOD {
            self.attempt = 0;
        }
        self.next(rng)
    }

    /// The next wait.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.backoff.ceiling(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// How many waits were given out.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_backoff_that_would_spin_or_shrink_cannot_be_made() {
        assert_eq!(Backoff::new(Duration::ZERO, SECOND), Err(InvalidBackoff::Zero));
        assert_eq!(Backoff::new(SECOND * 2, SECOND), Err(InvalidBackoff::Shrinks));
    }

    #[test]
    fn after_a_good_connection_the_first_wait_is_short_again_and_after_a_refused_one_it_is_not() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut waits = Backoff::default().start();
        for attempt in 1..=10 {
            waits.after(Duration::from_millis(1), &mut rng);
            assert_eq!(waits.attempts(), attempt);
        }
        let wait = waits.after(GOOD, &mut rng);
        assert_eq!(waits.attempts(), 1);
        assert!(wait <= Backoff::default().ceiling(0), "{wait:?}");
    }

    #[test]
    fn ten_thousand_agents_do_not_come_back_in_the_same_second() {
        let backoff = Backoff::new(SECOND, SECOND * 60).expect("valid");
        let mut in_second = [0_u32; 65];
        for seed in 0..10_000 {
            let mut waits = backoff.start();
            let mut rng = SmallRng::seed_from_u64(seed);
            // A controller that is away for about a minute: the sixth or seventh wait is running.
            let wait = (0..7).map(|_| waits.next(&mut rng)).last().expect("seven");
            in_second[usize::try_from(wait.as_secs()).expect("small")] += 1;
        }
        let busiest = in_second.iter().max().expect("not empty");
        assert!(*busiest < 300, "{busiest} agents in one second, where even is 167");
    }

    #[test]
    fn ten_thousand_agents_spread_out_after_a_quick_restart_with_the_default_waits() {
        // How long the controller is away, and the most of them in any second and any tenth of one.
        for (away_s, in_second, in_tenth) in
            [(1, 7_000, 1_500), (2, 5_500, 800), (5, 2_900, 400), (30, 550, 90)]
        {
            let away = SECOND * away_s;
            let mut tenths = vec![0_u32; 1_000];
            for seed in 0..10_000 {
                let mut waits = Backoff::default().start();
                let mut rng = SmallRng::seed_from_u64(seed);
                let mut at = Duration::ZERO;
                while at < away {
                    at += waits.next(&mut rng);
                }
                let late = (at - away).as_millis() / 100;
                tenths[usize::try_from(late).expect("small")] += 1;
            }
            let second = tenths.windows(10).map(|w| w.iter().sum::<u32>()).max().expect("some");
            let tenth = *tenths.iter().max().expect("some");
            assert!(second < in_second && tenth < in_tenth, "{away_s} s: {second}, {tenth}");
        }
    }

    proptest! {
        #[test]
        fn waits_stay_below_a_ceiling_that_never_falls(
            first in 1_u64..100_000, more in 0_u64..10_000_000, seed: u64, attempts in 1_u32..200,
        ) {
            let longest = Duration::from_millis(first + more);
            let backoff = Backoff::new(Duration::from_millis(first), longest).expect("valid");
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut waits = backoff.start();
            let mut last = Duration::ZERO;
            for attempt in 0..attempts {
                let ceiling = backoff.ceiling(attempt);
                prop_assert!(ceiling >= last && ceiling <= longest);
                prop_assert!(waits.next(&mut rng) <= ceiling);
                last = ceiling;
            }
            prop_assert_eq!(waits.attempts(), attempts);
        }
    }
}
