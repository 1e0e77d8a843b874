//! Hears how the checks of linked hosts stand, and notices when it hears nothing.

use std::{sync::Arc, time::Duration};

use hostler_proto::wire::HealthReport;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::Api;
use crate::{health::harmless, links::Link};

/// Waits before an agent is asked again that stopped telling how its checks stand, doubled each time
/// up to the longest.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_LATEST: Duration = Duration::from_secs(60);
/// An agent tells something every minute, if only that there is nothing new.
const REPORTS: Duration = Duration::from_secs(180);
/// How often it is looked for checks that are heard of no more.
const WATCH: Duration = Duration::from_secs(15);

impl Api {
    /// Hears how the checks of a linked host stand, until its link is over.
    pub(crate) async fn hear(&self, link: &Arc<Link>, over: CancellationToken) {
        ask(&over, || async {
            let heard = self.hear_once(link, &over).await;
            if let Some(said) = heard.as_ref().err().filter(|_| !over.is_cancelled()) {
                let host = &link.host;
                tracing::warn!(%host, said, "the agent does not tell how its checks stand");
            }
            heard
        })
        .await;
    }

    /// Asks once and hears until that ends; how many reports came.
    async fn hear_once(&self, link: &Arc<Link>, over: &CancellationToken) -> Result<u64, String> {
        let request = self.0.health.request(&link.host);
        let reports = link.health(&request).await;
        let mut reports = match reports {
            Ok(reports) => reports,
            // It will not learn it as long as this link stands.
            Err(status) if status.code() == Code::Unimplemented => {
                over.cancelled().await;
                return Ok(0);
            }
            Err(status) => return Err(status.message().to_owned()),
        };
        let mut heard = 0;
        loop {
            let report = match tokio::time::timeout(REPORTS, reports.message()).await {
                Ok(Ok(Some(report))) => report,
                Ok(Ok(None) | Err(_)) => return Ok(heard),
                Err(_) => return Err("no report in time".to_owned()),
            };
            let report = HealthReport::decode(report);
            let mut report = report.map_err(|e| format!("it tells what is no report: {e}"))?;
            report.checks = report.checks.into_iter().filter_map(harmless).collect();
            heard += 1;
            let now = self.0.clock.now().as_microsecond();
            self.0.figures.take(&link.host, &report.checks, now);
            if let Some(news) = self.0.health.hear(&link.host, report, now) {
                self.0.recorder.tell(news).await;
            }
        }
    }

    /// Tells of checks of linked hosts that are heard of no more, until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        while tokio::time::timeout(WATCH, stop.cancelled()).await.is_err() {
            let now = self.0.clock.now().as_microsecond();
            for news in self.0.health.lapse(&self.0.links.hosts(), now) {
                let (host, checks) = (&news.host, news.turns.len());
                tracing::warn!(%host, checks, "checks of a linked host are heard of no more");
                self.0.recorder.tell(news).await;
            }
        }
    }
}

/// Asks again and again until it is over, whatever ended what was asked: a stream can be reset alone,
/// on a link that stands. Once something was heard the waits begin anew.
async fn ask<F>(over: &CancellationToken, mut once: impl FnMut() -> F)
where
    F: Future<Output = Result<u64, String>>,
{
    let mut wait = ASK_AGAIN;
    loop {
        if once().await.is_ok_and(|heard| heard > 0) {
            wait = ASK_AGAIN;
        }
        if tokio::time::timeout(wait, over.cancelled()).await.is_ok() {
            return;
        }
        wait = (wait * 2).min(ASK_LATEST);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_stops_telling_is_asked_again_for_as_long_as_its_link_stands() {
        let (over, begun) = (CancellationToken::new(), Instant::now());
        let mut asked = Vec::new();
        ask(&over, || {
            asked.push(begun.elapsed().as_secs());
            if asked.len() == 12 {
                over.cancel();
            }
            let told = asked.len() == 10;
            async move { if told { Ok(3) } else { Err("reset".to_owned()) } }
        })
        .await;
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 244, 246]);
    }
}
