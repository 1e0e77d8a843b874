//! The figures of hosts over time, and what they lead to.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hostler_core::trend;
use hostler_proto::{name::HostName, wire::Series};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Api, unstored};
use crate::{
    health::figures::{self, Key, Point, joined},
    store::{Connection, HostRow},
};

/// How far back it is looked for a trend.
const PAST_US: i64 = 7 * 86_400_000_000;
/// Until the first round after the start: by then hosts are linked again, and have told their figures.
const FIRST: Duration = Duration::from_secs(20);
/// Between two rounds over all hosts, and between two hosts of a round: of ten thousand hosts each is
/// looked at about once an hour, and nobody notices.
const ROUND: Duration = Duration::from_secs(600);
const BETWEEN: Duration = Duration::from_millis(300);

impl Api {
    /// The figures of a host since some time: hours from the store, then the last spans.
    pub(super) async fn series(
        &self,
        host: &HostName,
        check: Option<&str>,
        since_us: i64,
    ) -> Result<Vec<Series>, Status> {
        let hours = self.0.store.hours(host, since_us).await.map_err(unstored)?;
        Ok(series(self.0.figures.of(host), hours, check, since_us))
    }

    /// Looks ahead for every host that is up, again and again, until `stop`.
    pub(crate) async fn foresee(self, stop: CancellationToken) {
        let passes = |wait: Duration| tokio::time::timeout(wait, stop.cancelled());
        let mut wait = FIRST;
        while passes(std::mem::replace(&mut wait, ROUND)).await.is_err() {
            let hosts = match self.0.store.hosts().await {
                Ok(hosts) => hosts,
                Err(error) => {
                    tracing::error!(%error, "what runs out soon cannot be told");
                    continue;
                }
            };
            let up = |h: &&Arc<HostRow>| h.connection == Connection::Up;
            for host in hosts.iter().filter(up) {
                let now = self.0.clock.now().as_microsecond();
                match self.series(&host.name, None, now - PAST_US).await {
                    Ok(series) => self.0.outlooks.take(&host.name, &series, now),
                    Err(error) => {
                        let (host, error) = (&host.name, error.message());
                        tracing::error!(%host, error, "what runs out soon cannot be told");
                    }
                }
                if passes(BETWEEN).await.is_ok() {
                    return;
                }
            }
        }
    }
}

/// Hours that were written down, and what is in memory, of one check or of all, as one series each.
fn series(
    figures: Vec<(figures::Series, Vec<Point>)>,
    mut hours: HashMap<Key, Vec<Point>>,
    check: Option<&str>,
    since_us: i64,
) -> Vec<Series> {
    let mut all = Vec::new();
    for (series, recent) in figures {
        let key = &series.key;
        if check.is_some_and(|c| c != key.check) {
            continue;
        }
        let points = joined(hours.remove(&**key).unwrap_or_default(), recent, since_us);
        let means = points.iter().map(|p| trend::Point { at_us: p.at_us, value: p.mean });
        let trend = series.limit().and_then(|limit| trend::trend(means, limit));
        all.push(Series {
            check: key.check.clone(),
            name: key.name.clone(),
            subject: key.subject.clone(),
            unit: key.unit.clone(),
            at_us: points.iter().map(|p| p.at_us).collect(),
            mean: points.iter().map(|p| p.mean).collect(),
            most: points.iter().map(|p| p.most).collect(),
            last: series.last,
            limit: series.limit(),
            runs_out_s: trend.map(|t| t.runs_out_s),
            confidence: trend.map_or(0.0, |t| t.confidence),
        });
    }
    // What nobody told since the controller was started.
    let mut past: Vec<_> =
        hours.into_iter().filter(|(key, _)| check.is_none_or(|c| c == key.check)).collect();
    past.sort_by(|a, b| a.0.cmp(&b.0));
    let past = past.into_iter().map(|(key, hours)| (key, joined(hours, Vec::new(), since_us)));
    all.extend(past.map(|(key, points)| Series {
        at_us: points.iter().map(|p| p.at_us).collect(),
        mean: points.iter().map(|p| p.mean).collect(),
        most: points.iter().map(|p| p.most).collect(),
        last: points.last().map_or(0.0, |p| p.mean),
        check: key.check,
        name: key.name,
        subject: key.subject,
        unit: key.unit,
        limit: None,
        runs_out_s: None,
        confidence: 0.0,
    }));
    all
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{CheckState, Figure};

    use super::*;
    use crate::health::figures::{Figures, HOUR_US, SPAN_US};

    #[test]
    fn hours_and_minutes_of_what_fills_up_lead_to_its_end() {
        let host: HostName = "web-1".parse().expect("a name");
        let figures = Figures::default();
        // One percent an hour, for twenty hours: the first eighteen are in the store.
        let now = 20 * HOUR_US;
        let at = |at_us: i64| {
            #[expect(clippy::cast_precision_loss, reason = "some hours")]
            let hours = at_us as f64 / HOUR_US as f64;
            50.0 + hours
        };
        for at_us in (18 * HOUR_US..now).step_by(60_000_000) {
            let figure = Figure { name: "used".into(), value: at(at_us), ..Figure::default() };
            let figures_of = vec![figure.limited(100.0)];
            let state =
                CheckState { check: "disk".into(), figures: figures_of, ..CheckState::default() };
            figures.take(&host, &[state], at_us);
        }
        let of = figures.of(&host);
        let key = (*of[0].0.key).clone();
        let hour = |n: i64| {
            let mean = at(n * HOUR_US + HOUR_US / 2);
            Point { at_us: n * HOUR_US, mean, most: mean }
        };
        let gone = Key { check: "gone".into(), ..key.clone() };
        let hours = HashMap::from([(key, (0..18).map(hour).collect()), (gone, vec![hour(3)])]);
        let all = series(of, hours, None, 0);
        let told: Vec<_> = all.iter().map(|s| (s.check.as_str(), s.at_us.len())).collect();
        assert_eq!(told, [("disk", 18 + 24), ("gone", 1)]);
        assert_eq!(all[0].at_us.last(), Some(&(now - SPAN_US / 2)));
        // 30 percent are left.
        let hours_left = all[0].runs_out_s.expect("it ends") / 3600.0;
        assert!((hours_left - 30.0).abs() < 0.2, "{hours_left}");
        assert!(all[0].confidence > 0.99, "{}", all[0].confidence);
        assert_eq!((all[0].limit, all[1].runs_out_s), (Some(100.0), None));
    }
}
