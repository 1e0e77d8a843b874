//! Brings what is over to where it is kept: figures of past hours, and changes, to their days.

use std::{sync::Arc, time::Duration};

use hostler_core::clock::Clock;
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, HOUR_US, Hour};
use crate::store::{Store, StoreError};

/// How often it is looked whether an hour is over.
const BEAT: Duration = Duration::from_secs(30);
/// Hosts whose changes are brought to their days at a time; the store takes nothing else meanwhile.
const GROUP: u32 = 64;

/// What it takes.
#[derive(Debug)]
pub struct Past {
    /// The figures in memory.
    pub figures: Figures,
    /// Where they go.
    pub store: Store,
    /// Which hour it is.
    pub clock: Arc<dyn Clock>,
    /// For how long figures are kept.
    pub retention: Duration,
}

/// What one round leaves to the next.
#[derive(Debug, Default)]
struct Open {
    /// Out of memory, and not in the store yet.
    hours: Vec<Hour>,
    /// The hour in which what is kept for a time was looked through last.
    tidied_us: Option<i64>,
}

impl Past {
    /// Goes on until `stop`, and then once more.
    pub async fn keep(self, stop: CancellationToken) {
        let mut open = Open::default();
        loop {
            let stopping = tokio::time::timeout(BEAT, stop.cancelled()).await.is_ok();
            let now_us = self.clock.now().as_microsecond();
            // What was counted of this hour would be lost with the process.
            let until = if stopping { i64::MAX } else { now_us };
            self.round(now_us, until, &mut open, &stop).await;
            if stopping {
                return;
            }
        }
    }

    /// Writes down the hours that are over at some time, and tidies up unless it is to stop.
    async fn round(&self, now_us: i64, until: i64, open: &mut Open, stop: &CancellationToken) {
        if let Err(error) = self.figures.write_down(&self.store, until, &mut open.hours).await {
            tracing::error!(%error, "figures could not be stored");
        }
        if stop.is_cancelled() {
            return;
        }
        if let Err(error) = self.tidy(now_us, &mut open.tidied_us, stop).await {
            tracing::warn!(%error, "what is over could not be brought to its days");
        }
    }

    /// Tidies up; what is kept for a time is looked through once an hour.
    async fn tidy(
        &self,
        now_us: i64,
        tidied_us: &mut Option<i64>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let hour_us = now_us - now_us.rem_euclid(HOUR_US);
        if *tidied_us != Some(hour_us) {
            let kept_us = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
            self.store.forget_figures(now_us.saturating_sub(kept_us)).await?;
            *tidied_us = Some(hour_us);
        }
        let mut after = String::new();
        while !stop.is_cancelled() {
            match self.store.pack_turns(hour_us, &after, GROUP).await? {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::FixedClock;
    use hostler_proto::wire::{CheckState, Figure};

    use super::*;
    use crate::store::tests::with_host;

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn figures_are_kept_for_as_long_as_they_are_to_be_and_no_longer() {
        let directory = tempfile::tempdir().expect("a directory");
        let (store, host) = with_host(directory.path(), "web-1").await;
        let clock = FixedClock::at("2026-11-26T12:00:00Z".parse().expect("time"));
        let past = Past {
            figures: Figures::default(),
            store: store.clone(),
            clock: Arc::new(clock.clone()),
            retention: 3 * DAY,
        };
        let kept = async || {
            let hours = store.hours(&host, 0).await.expect("read");
            hours.into_values().map(|points| points.len()).sum::<usize>()
        };
        let mut seen = Vec::new();
        for _ in 0..6 {
            let now_us = clock.now().as_microsecond();
            let figure = Figure { name: "used".into(), value: 1.0, ..Figure::default() };
            let figures = vec![figure];
            let state = CheckState { check: "disk".into(), figures, ..CheckState::default() };
            past.figures.take(&host, &[state], now_us);
            clock.advance(DAY);
            let now_us = clock.now().as_microsecond();
            past.round(now_us, now_us, &mut Open::default(), &CancellationToken::new()).await;
            seen.push(kept().await);
        }
        // Whole days: of the one in which the three days ago are, what is older is kept as well.
        assert_eq!(seen, [1, 2, 3, 3, 3, 3]);
        clock.advance(10 * DAY);
        let now_us = clock.now().as_microsecond();
        past.round(now_us, now_us, &mut Open::default(), &CancellationToken::new()).await;
        assert_eq!(kept().await, 0);
    }

    #[tokio::test]
    async fn what_is_kept_for_a_time_is_looked_through_once_an_hour() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}", dir.path().join("store").display());
        let store = Store::open(&url).await.expect("store");
        let pool = sqlx::AnyPool::connect(&url).await.expect("pool");
        let clock = FixedClock::at("2026-11-26T12:00:00Z".parse().expect("time"));
        let past = Past {
            figures: Figures::default(),
            store,
            clock: Arc::new(clock.clone()),
            retention: Duration::from_secs(86_400),
        };
        let (mut tidied_us, stop) = (None, CancellationToken::new());
        let old = "INSERT INTO figure_days (host, day_us, data) VALUES ('web-1', 0, '')";
        let mut left = Vec::new();
        // In the same hour, and then in the next one.
        for wait_s in [0, 30, 3600] {
            clock.advance(Duration::from_secs(wait_s));
            sqlx::query(&format!("{old} ON CONFLICT DO NOTHING"))
                .execute(&pool)
                .await
                .expect("written");
            let now_us = clock.now().as_microsecond();
            past.tidy(now_us, &mut tidied_us, &stop).await.expect("tidied");
            let rows = sqlx::query("SELECT host FROM figure_days").fetch_all(&pool).await;
            left.push(rows.expect("read").len());
        }
        assert_eq!(left, [0, 1, 0]);
    }
}
