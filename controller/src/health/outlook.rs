//! What runs out soon if it goes on as it does: disks, transaction ids, connections, memory of Redis.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_proto::{
    name::HostName,
    wire::{self, Series},
};

use super::Host;
use crate::health::problems::severity;

/// What runs out later than this is nobody's business today.
const SOON_S: f64 = 7.0 * 86_400.0;
/// What the past explains less well than this is no trend.
const SURE: f64 = 0.5;
/// Most that is told at once.
const TOLD: usize = 20;

/// A figure that reaches its end.
#[derive(Debug, Clone)]
struct End {
    check: String,
    name: String,
    subject: String,
    /// When.
    at_us: i64,
    confidence: f64,
}

/// What runs out soon, by host. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Outlooks(Arc<Mutex<HashMap<HostName, Vec<End>>>>);

impl Outlooks {
    /// Takes in the figures of a host over the last days.
    pub fn take(&self, host: &HostName, series: &[Series], now_us: i64) {
        let ends: Vec<_> = series.iter().filter_map(|series| end(series, now_us)).collect();
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.is_empty() {
            true => drop(hosts.remove(host)),
            false => drop(hosts.insert(host.clone(), ends)),
        }
    }

    /// Forgets a host.
    pub fn forget(&self, host: &HostName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// What runs out soon on hosts, the first first. What is a problem already is told as such.
    pub fn of<'h>(
        &self,
        hosts: impl Iterator<Item = &'h HostName>,
        health: &HashMap<HostName, Host>,
        now_us: i64,
    ) -> Vec<wire::Outlook> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for host in hosts {
            let Some(ends) = ends.get(host) else { continue };
            let Some(health) = health.get(host) else { continue };
            let well = |check: &str| {
                health.checks.get(check).is_some_and(|s| severity(s.shown(now_us)) == 0)
            };
            let ends = ends.iter().filter(|end| well(&end.check));
            found.extend(ends.map(|end| outlook(host, end, now_us)));
        }
        found.sort_by(|a, b| a.runs_out_s.total_cmp(&b.runs_out_s));
        found.truncate(TOLD);
        found
    }
}

fn end(series: &Series, now_us: i64) -> Option<End> {
    let soon = series.runs_out_s.filter(|left| *left <= SOON_S && series.confidence >= SURE)?;
    #[expect(clippy::cast_possible_truncation, reason = "a week at most")]
    let left_us = (soon * 1e6) as i64;
    Some(End {
        check: series.check.clone(),
        name: series.name.clone(),
        subject: series.subject.clone(),
        at_us: now_us + left_us,
        confidence: series.confidence,
    })
}

fn outlook(host: &HostName, end: &End, now_us: i64) -> wire::Outlook {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a week")]
    let runs_out_s = (end.at_us - now_us).max(0) as f64 / 1e6;
    wire::Outlook {
        host: host.to_string(),
        check: end.check.clone(),
        name: end.name.clone(),
        subject: end.subject.clone(),
        runs_out_s,
        confidence: end.confidence,
        next: format!("hostlerctl history {host} {}", end.check),
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{CheckState, Status};

    use super::*;
    use crate::health::{Standing, Standings};

    const DAY_S: f64 = 86_400.0;
    const NOW: i64 = 1_000_000_000_000;

    fn series(subject: &str, days: Option<f64>, confidence: f64) -> Series {
        Series {
            check: "disk".into(),
            name: "used".into(),
            subject: subject.into(),
            runs_out_s: days.map(|days| days * DAY_S),
            confidence,
            ..Series::default()
        }
    }

    fn health(host: &HostName, hard: Status) -> HashMap<HostName, Host> {
        let state = CheckState { hard: hard.into(), interval_s: 60, ..CheckState::default() };
        let checks = Standings::from_iter([("disk", Standing::new(state, NOW))]);
        HashMap::from([(host.clone(), Host { checks, ..Host::default() })])
    }

    #[test]
    fn what_runs_out_within_a_week_and_for_sure_is_told_the_first_first() {
        let host: HostName = "web-1".parse().expect("name");
        let outlooks = Outlooks::default();
        let all = [
            series("/", Some(3.0), 0.9),
            series("/srv", Some(0.5), 0.8),
            series("/far", Some(8.0), 1.0),
            series("/unsure", Some(1.0), 0.3),
            series("/steady", None, 0.0),
        ];
        outlooks.take(&host, &all, NOW);
        let of = |hard, now| outlooks.of([&host].into_iter(), &health(&host, hard), now);
        let told = of(Status::Ok, NOW);
        let subjects: Vec<_> = told.iter().map(|o| o.subject.as_str()).collect();
        assert_eq!(subjects, ["/srv", "/"]);
        assert_eq!(told[0].next, "hostlerctl history web-1 disk");
        let later = of(Status::Ok, NOW + 60_000_000);
        assert!((told[0].runs_out_s - later[0].runs_out_s - 60.0).abs() < 1.0, "it comes nearer");
        assert!(of(Status::Critical, NOW).is_empty(), "it is a problem already");
        outlooks.take(&host, &all[2..], NOW);
        assert!(of(Status::Ok, NOW).is_empty(), "it does not any more");
    }
}
