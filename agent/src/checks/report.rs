//! What a controller is told of the checks: everything at first, then each change as it comes and
//! all other results with a heartbeat.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hostler_proto::wire::{self, CheckState, HealthReport, HealthRequest};
use tokio::sync::mpsc;

use super::{Checks, Course, Health, State, definition::Check, memory::Words};

/// Results that changed nothing are told this often.
const HEARTBEAT: Duration = Duration::from_secs(60);

impl Checks {
    /// Tells everything until nobody listens, or the agent is stopped: then that, at last.
    pub async fn tell(&self, request: HealthRequest, reports: mpsc::Sender<HealthReport>) {
        let mut saved = self.0.saved.subscribe();
        let mut beat = tokio::time::interval(HEARTBEAT);
        let (mut told, mut run) = match request.memory == self.state().memory.id {
            true => (request.after, 0),
            false => (0, 0),
        };
        // Which list of checks was told.
        let mut list = None;
        loop {
            tokio::select! {
                // What is told of a stop must not be taken back by what was due as well.
                biased;
                () = self.0.leaving.cancelled() => {
                    let last = HealthReport {
                        leaving: true,
                        host_stopping: self.0.host_stopping.load(Ordering::Relaxed),
                        ..self.report(told, run, false).0
                    };
                    for part in last.parts() {
                        let _ = reports.send(part).await;
                    }
                    return;
                }
                () = reports.closed() => return,
                changed = saved.changed(), if list.is_some() => if changed.is_err() { return },
                _ = beat.tick() => {}
            }
            // Which checks are there no more can be told by all that are.
            let renewals = self.state().renewals;
            let (report, runs, last) = self.report(told, run, list != Some(renewals));
            for part in report.parts() {
                if reports.send(part).await.is_err() {
                    return;
                }
            }
            (told, run, list) = (last, runs, Some(renewals));
        }
    }

    /// What came after a turn and a run, with the count of runs and the last turn of it.
    pub(super) fn report(&self, told: u64, run: u64, whole: bool) -> (HealthReport, u64, u64) {
        let until = *self.0.saved.borrow();
        let state = self.state();
        let (turns, forgotten) = state.memory.turns(told, until);
        let news = |check: &&Arc<Check>| {
            whole || state.seen.get(check.name.as_str()).is_some_and(|seen| seen.run > run)
        };
        let checks = state.checks.iter().filter(news).map(|c| state.of(c)).collect();
        let report = HealthReport {
            memory: state.memory.id.clone(),
            checks,
            whole,
            turns,
            forgotten,
            leaving: false,
            host_stopping: false,
            last_turn: state.memory.last(),
            now_us: self.0.clock.now().as_microsecond(),
            others: Vec::new(),
        };
        (report, state.runs, until.max(told))
    }
}

impl State {
    pub(super) fn of(&self, check: &Check) -> CheckState {
        let name = check.name.as_str();
        let course = self.memory.courses.get(name);
        let seen = self.seen.get(name);
        // After a restart a hard state keeps its words until the check has run.
        let before = || self.memory.said.get(name);
        // Before its first run nothing is known of it, whatever was before the restart.
        let now = match (seen, course) {
            (Some(_), Some(course)) => course.now,
            _ => Health::Unknown,
        };
        CheckState {
            check: name.to_owned(),
            operation: check.operation.clone(),
            status: wire::Status::from(now).into(),
            // A check that never had a hard state has none that people could be told.
            hard: course
                .and_then(Course::stands)
                .map_or(wire::Status::Unspecified, Into::into)
                .into(),
            since_us: course.map_or(0, |c| c.since_us),
            attempt: course.map_or(0, |c| c.attempt),
            attempts: check.pace.attempts,
            flapping: course.is_some_and(|c| c.flapping),
            checked_us: seen.map_or(0, |s| s.at_us),
            interval_s: u32::try_from(check.pace.interval.as_secs()).unwrap_or(u32::MAX),
            summary: match (seen, before()) {
                (Some(seen), _) => seen.summary.clone(),
                (None, Some(words)) => words.summary.clone(),
                (None, None) => "has not run yet".to_owned(),
            },
            findings: match seen {
                Some(seen) => seen.findings.clone(),
                None => before().map(Words::findings).unwrap_or_default(),
            },
            figures: seen.map(|s| s.figures.clone()).unwrap_or_default(),
            after: check.after.clone(),
            flapping_since_us: 0,
        }
    }
}
