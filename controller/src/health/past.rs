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
            if let Err(error) = self.tidy(now_us, &stop).await {
                tracing::warn!(%error, "what is over could not be brought to its days");
            }
        }
    }

    async fn tidy(&self, now_us: i64, stop: &CancellationToken) -> Result<(), StoreError> {
        let kept_us = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        self.store.forget_figures(now_us.saturating_sub(kept_us)).await?;
        let hour_us = now_us - now_us.rem_euclid(HOUR_US);
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
