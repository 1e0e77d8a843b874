//! Brings what is over to where it is kept: figures of past hours, and changes, to their days.

use std::{sync::Arc, time::Duration};

use hostler_core::clock::Clock;
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, HOUR_US};
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

impl Past {
    /// Goes on until `stop`, and then once more.
    pub async fn keep(self, stop: CancellationToken) {
        // Out of memory, and not in the store yet.
        let mut hours = Vec::new();
        let mut tidied_us = i64::MIN;
        loop {
            let stopping = tokio::time::timeout(BEAT, stop.cancelled()).await.is_ok();
            let now_us = self.clock.now().as_microsecond();
            // What was counted of this hour would be lost with the process.
            let until = if stopping { i64::MAX } else { now_us };
            if let Err(error) = self.figures.write_down(&self.store, until, &mut hours).await {
                tracing::error!(%error, "figures could not be stored");
            }
            if stopping {
                return;
            }
            if let Err(error) = self.tidy(now_us, &mut tidied_us, &stop).await {
                tracing::warn!(%error, "what is over could not be brought to its days");
            }
        }
    }

    /// Tidies up; what is kept for a time is looked through once an hour, as `tidied_us` says.
    async fn tidy(
        &self,
        now_us: i64,
        tidied_us: &mut i64,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let hour_us = now_us - now_us.rem_euclid(HOUR_US);
        if *tidied_us != hour_us {
            let kept_us = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
            self.store.forget_figures(now_us.saturating_sub(kept_us)).await?;
            *tidied_us = hour_us;
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

    use super::*;

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
        let (mut tidied_us, stop) = (i64::MIN, CancellationToken::new());
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
