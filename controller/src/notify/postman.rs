//! Brings one target its notices, and tries again what it did not take.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use hostler_proto::{name::HostName, wire::Status};
use tokio_util::sync::CancellationToken;

use super::{
    Notifier, cause,
    message::Message,
    send::Unconfirmed,
    target::{Kind, Target, Verdict},
};
use crate::{
    health::{
        Left, Standing,
        absence::{Absence, GOING_DOWN_US, absences},
        problems::{Known, next_of_check, next_of_host, severity},
    },
    store::{Connection, Fate, HostRow, NoticeRow, StoreError, Told},
};

/// How often it is looked for notices.
const BEAT: Duration = Duration::from_secs(1);
/// Notices that are looked at together.
const GROUP: u32 = 200;
/// Waits of a notice between attempts: from this on, doubled each time, up to ten minutes.
const RETRY_US: i64 = 5_000_000;
/// How often such a wait is doubled, at most: that of a notice, and that of its target.
const DOUBLED: (i64, i64) = (7, 4);
/// How long one of a check waits whose host is away, until it is looked at again.
const AWAY_US: i64 = 30_000_000;
/// How long a notice waits whose reason was told with another host's.
const REASON_US: i64 = 120_000_000;
/// How long one waits that is told with its cause, until it is looked at again.
const CAUSE_US: i64 = 10_000_000;
/// A notice that could not be delivered for so long, however often it was tried, is given up.
const OLD: (i64, i64) = (24 * 3_600_000_000, 20);
/// How often Alertmanager is told again of what goes on, and how long one such word counts.
const REPEAT_US: i64 = 120_000_000;
const ALERT_US: i64 = 5 * REPEAT_US;
/// Alerts that are told together.
const ALERTS: usize = 500;

/// Delivers to one target.
#[derive(Debug)]
pub(super) struct Postman {
    target: Target,
    office: Notifier,
    /// Reasons for which hosts cannot be reached, of which it was told. After a start of the
    /// controller that is told once more.
    told: HashSet<String>,
    /// Attempts in a row that failed, whichever notice they were for.
    failures: i64,
    /// When it was told again of what goes on.
    repeated_us: i64,
    /// What became of notices that were delivered, as long as it cannot be written down: none of them
    /// is sent again.
    unwritten: Vec<Fate>,
    /// How often that was tried in vain, and when it is tried next.
    unwritable: (i64, i64),
}

/// What is known when notices are looked at.
#[derive(Debug, Default)]
struct Sight {
    absences: HashMap<HostName, Absence>,
    known: Known,
    now_us: i64,
}

/// What came of one notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// The next one.
    Next,
    /// The target takes nothing now.
    Refused,
    /// The controller is stopping.
    Stopped,
}

/// Whether a problem of a host as it is linked now is told. Of one that is away only that is. What waits
/// of one that was never linked is of the machine that had its name before.
fn tells(host: &HostRow, check: &str) -> bool {
    match host.connection {
        Connection::Up => true,
        Connection::Down => check.is_empty(),
        Connection::Never | Connection::Revoked => false,
    }
}

/// The one reason for which several hosts cannot be reached.
fn reason(absence: Option<&Absence>) -> Option<String> {
    match absence? {
        Absence::Place(place) => Some(place.clone()),
        Absence::Via(via) => Some(format!("via {via}")),
        Absence::Missing(place) => Some(format!("missing {}", place.as_ref()?)),
        _ => None,
    }
}

/// Says in a notice of a host that is away why that is so.
fn explain(
    notice: &mut NoticeRow,
    absence: Option<&Absence>,
    absences: &HashMap<HostName, Absence>,
) {
    match absence {
        // That an agent was stopped on purpose is no emergency.
        Some(Absence::Stopped) => {
            notice.became = Status::Warning;
            Left::Agent.said().unwrap_or_default().clone_into(&mut notice.summary);
        }
        Some(Absence::ShutDown) => {
            "it was shut down and did not come back".clone_into(&mut notice.summary);
        }
        Some(Absence::Via(via)) => {
            notice.summary = format!("unreachable: {via}, through which it is reached, is away");
        }
        Some(own @ (Absence::Place(place) | Absence::Missing(Some(place)))) => {
            let all = absences.values().filter(|absence| *absence == own).count();
            notice.summary = match own {
                Absence::Place(_) => {
                    format!("{all} hosts of {place} fell silent together: unreachable")
                }
                _ => format!(
                    "{all} hosts of {place}, all that there are, did not come back after the \
                     controller did; how they went nobody saw"
                ),
            };
        }
        _ => {}
    }
}

impl Postman {
    pub(super) fn new(target: Target, office: Notifier) -> Self {
        Self {
            target,
            office,
            told: HashSet::new(),
            failures: 0,
            repeated_us: i64::MIN,
            unwritten: Vec::new(),
            unwritable: (0, i64::MIN),
        }
    }

    /// Delivers until `stop`, also when that comes while something is being sent.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = match self.round(&stop).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%error, "notices cannot be read from the store");
                    BEAT
                }
            };
            if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Looks once for notices and delivers those that are due; how long to wait until the next time.
    async fn round(&mut self, stop: &CancellationToken) -> Result<Duration, StoreError> {
        let now_us = self.office.clock.now().as_microsecond();
        self.write_rest(now_us).await;
        let store = &self.office.store;
        // Those that were delivered and could not be written down yet are no reason not to see others.
        let delivered = u32::try_from(self.unwritten.len()).unwrap_or(u32::MAX);
        let most = GROUP.saturating_add(delivered);
        let mut notices = store.due_notices(&self.target.name, now_us, most).await?;
        let more = notices.len() >= most as usize;
        notices.retain(|notice| !self.is_delivered(&notice.id));
        let of_host = |n: &NoticeRow| n.check.is_empty();
        let mut sight = Sight { now_us, ..Sight::default() };
        if !self.told.is_empty() || notices.iter().any(of_host) {
            let hosts = store.hosts().await?;
            sight.absences = self.office.health.look(|health| absences(&hosts, health, now_us));
        }
        // What is over is told anew when it comes again.
        let reasons: HashSet<_> = sight.absences.values().filter_map(|a| reason(Some(a))).collect();
        self.told.retain(|reason| reasons.contains(reason));
        if !notices.is_empty() {
            sight.known = Known::read(store, now_us).await?;
        }
        // Of those that are not sent it is written down together: there may be thousands.
        let (mut fates, mut done) = (Vec::new(), Done::Next);
        let many = !notices.is_empty();
        for notice in notices {
            done = self.one(notice, &sight, &mut fates, stop).await?;
            if done != Done::Next {
                break;
            }
        }
        let written = self.office.store.settle_notices(&fates).await;
        if let Err(error) = &written {
            tracing::error!(%error, target = self.target.name, "what becomes of notices cannot be written");
        }
        match done {
            Done::Next => {}
            Done::Stopped => return Ok(Duration::ZERO),
            Done::Refused => {
                let wait = RETRY_US << self.failures.clamp(0, DOUBLED.1);
                self.failures += 1;
                return Ok(Duration::from_micros(u64::try_from(wait).unwrap_or(0)));
            }
        }
        if more && many && written.is_ok() {
            return Ok(Duration::ZERO);
        }
        if self.target.kind == Kind::Alertmanager && now_us >= self.repeated_us {
            self.repeated_us = now_us + REPEAT_US;
            self.repeat(now_us, stop).await?;
        }
        Ok(BEAT)
    }

    /// Looks at one notice, and delivers it when it is time. What is to be written down of one that
    /// was not delivered goes to `fates`.
    async fn one(
        &mut self,
        mut notice: NoticeRow,
        sight: &Sight,
        fates: &mut Vec<Fate>,
        stop: &CancellationToken,
    ) -> Result<Done, StoreError> {
        let (store, now_us) = (&self.office.store, sight.now_us);
        let Some(host) = store.host(&notice.host).await?.filter(|h| h.revoked_us.is_none()) else {
            fates.push(Fate::Dropped { notice, forget: false });
            return Ok(Done::Next);
        };
        let ends = severity(notice.became) == 0;
        let health = self.office.health.host(&host.name);
        // Of a check that is not there any more only the end is told.
        let gone = !notice.check.is_empty()
            && health.as_ref().is_some_and(|h| !h.checks.contains(&notice.check));
        // Links and what is told over them are written down by two. Its agent was linked anew before
        // this came to be written, and nothing will tell the end of it.
        let speaks = notice.check.is_empty()
            && notice.became == Status::Unknown
            && host.connection == Connection::Up
            && health.as_ref().is_none_or(|h| !h.silent);
        if speaks {
            fates.push(Fate::Dropped { notice, forget: false });
            return Ok(Done::Next);
        }
        let absence = sight.absences.get(&notice.host).filter(|_| notice.check.is_empty());
        if !ends {
            explain(&mut notice, absence, &sight.absences);
        }
        let told = store.told(&notice.target, &notice.host, &notice.check).await?;
        let problem = (notice.became, notice.at_us);
        let handled = !sight.known.of(&host, &notice.check, problem, now_us).is_empty();
        let verdict = match gone && !ends {
            true => Verdict::Never,
            false => self.target.verdict(&notice, &host, told.as_ref(), handled, now_us),
        };
        let later = match verdict {
            Verdict::Never => {
                fates.push(Fate::Dropped { notice, forget: gone });
                return Ok(Done::Next);
            }
            Verdict::Later(due_us) => Some(due_us),
            Verdict::Now if ends => None,
            Verdict::Now if !tells(&host, &notice.check) => Some(now_us + AWAY_US),
            // Most hosts that go down boot anew, and are back.
            Verdict::Now if absence == Some(&Absence::GoingDown) => {
                Some(host.since_us.saturating_add(GOING_DOWN_US))
            }
            Verdict::Now if self.heard_why(&notice, absence).await? => Some(now_us + REASON_US),
            Verdict::Now => {
                let waits = |h| cause::waits(h, &notice.check, notice.at_us, now_us);
                health.as_ref().is_some_and(waits).then_some(now_us + CAUSE_US)
            }
        };
        if let Some(due_us) = later {
            fates.push(Fate::Later { notice, due_us });
            return Ok(Done::Next);
        }
        if !self.mark(&notice, now_us).await {
            return Ok(Done::Next);
        }
        let before = told.as_ref().map(Told::last);
        let message = self.message(&notice, &host, before, now_us);
        let sending = self.office.sender.send(&self.target, &message, now_us + ALERT_US, now_us);
        let sent = tokio::select! {
            sent = sending => sent,
            () = stop.cancelled() => return Ok(Done::Stopped),
        };
        let Err(error) = sent else {
            self.failures = 0;
            self.told.extend(reason(absence));
            let forget = gone.then(|| Fate::Dropped { notice: notice.clone(), forget: true });
            self.unwritten.push(Fate::Told { notice, at_us: now_us });
            self.unwritten.extend(forget);
            self.write_rest(now_us).await;
            return Ok(Done::Next);
        };
        // What was attempted before stands, unless it is certain that this was not heard.
        let attempted = told.as_ref().map_or(Status::Unspecified, |told| told.attempted);
        let unheard = (!error.is::<Unconfirmed>()).then_some(attempted);
        let (target, host, check) = (&notice.target, &notice.host, &notice.check);
        if notice.failed_us > 0 && now_us - notice.failed_us > OLD.0 && notice.attempts >= OLD.1 {
            tracing::error!(%error, target, %host, check, "a notice was given up after a day");
            // Of an end: the same problem, when it comes again, would seem to be told already.
            fates.push(Fate::Dropped { notice, forget: ends });
        } else {
            tracing::warn!(%error, target, %host, check, "a notice could not be delivered yet");
            let wait_us = RETRY_US << notice.attempts.clamp(0, DOUBLED.0);
            let due_us = now_us + wait_us;
            fates.push(Fate::Failed { notice, due_us, at_us: now_us, unheard });
        }
        Ok(Done::Refused)
    }

    /// Writes down that a notice is being sent; false when it is not to be, since another one took its
    /// place. What cannot be written down is told all the same.
    async fn mark(&self, notice: &NoticeRow, now_us: i64) -> bool {
        if now_us < self.unwritable.1 {
            return true;
        }
        self.office.store.notice_attempted(notice).await.unwrap_or_else(|error| {
            tracing::error!(%error, target = self.target.name, "that a notice is sent cannot be written");
            true
        })
    }

    fn is_delivered(&self, id: &str) -> bool {
        self.unwritten
            .iter()
            .any(|fate| matches!(fate, Fate::Told { notice, .. } if notice.id == id))
    }

    /// Writes down what became of delivered notices, or leaves that for later.
    async fn write_rest(&mut self, now_us: i64) {
        let (failures, again_us) = self.unwritable;
        if self.unwritten.is_empty() || now_us < again_us {
            return;
        }
        match self.office.store.settle_notices(&self.unwritten).await {
            Ok(()) => {
                self.unwritten.clear();
                self.unwritable = (0, i64::MIN);
            }
            Err(error) => {
                tracing::error!(%error, target = self.target.name, "delivered notices cannot be written down");
                let wait_us = RETRY_US << failures.clamp(0, DOUBLED.1);
                self.unwritable = (failures + 1, now_us + wait_us);
            }
        }
    }

    /// Whether the target heard already why a host that cannot be reached is away. Then the notice of
    /// this host waits: it goes when the host is back, and is told when the reason is another one.
    async fn heard_why(
        &self,
        notice: &NoticeRow,
        absence: Option<&Absence>,
    ) -> Result<bool, StoreError> {
        let Some(reason) = reason(absence) else { return Ok(false) };
        if self.told.contains(&reason) {
            return Ok(true);
        }
        let Some(Absence::Via(via)) = absence else { return Ok(false) };
        let told = self.office.store.told(&notice.target, via, "").await?;
        Ok(told.is_some_and(|told| told.status == Status::Critical))
    }

    /// Tells Alertmanager again of all that goes on: what is told no more it takes to be over. So do
    /// alerts of hosts that are there no more end.
    async fn repeat(&self, now_us: i64, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut alerts = Vec::new();
        for (name, check, told) in self.office.store.told_problems(&self.target.name).await? {
            let host = self.office.store.host(&name).await?;
            let Some(host) = host.filter(|h| h.revoked_us.is_none()) else { continue };
            if !self.target.goes_on(&told) || !self.target.is_for(&host) {
                continue;
            }
            let notice = NoticeRow {
                id: String::new(),
                target: self.target.name.clone(),
                host: name,
                check,
                was: told.status,
                became: told.status,
                flapping: told.flapping,
                at_us: told.since_us,
                attempts: 0,
                failed_us: 0,
                summary: told.summary,
            };
            let message = self.message(&notice, &host, None, now_us);
            alerts.extend(message.to_alerts(true, now_us + ALERT_US, now_us));
        }
        for alerts in alerts.chunks(ALERTS) {
            let sent = tokio::select! {
                sent = self.office.sender.alert(&self.target, alerts) => sent,
                () = stop.cancelled() => return Ok(()),
            };
            if let Err(error) = sent {
                let target = &self.target.name;
                tracing::warn!(%error, target, "alerts that go on could not be told again");
                return Ok(());
            }
        }
        Ok(())
    }

    fn message(
        &self,
        notice: &NoticeRow,
        host: &HostRow,
        before: Option<Status>,
        now_us: i64,
    ) -> Message {
        let health = self.office.health.host(&host.name);
        let ends = severity(notice.became) == 0;
        let state = health.as_ref().and_then(|health| health.checks.get(&notice.check));
        let next = match notice.check.as_str() {
            _ if ends => String::new(),
            "" => next_of_host(&host.name),
            _ => {
                let state = state.map(Standing::state).unwrap_or_default();
                next_of_check(&host.name, &state, notice.became)
            }
        };
        let follows = match health.filter(|_| !ends && !notice.check.is_empty()) {
            Some(health) => cause::followers(&health, &notice.check, now_us),
            None => Vec::new(),
        };
        Message {
            host: notice.host.to_string(),
            check: notice.check.clone(),
            was: notice.was,
            became: notice.became,
            before,
            flapping: notice.flapping,
            summary: notice.summary.clone(),
            next,
            follows,
            at_us: notice.at_us,
            labels: host.labels.clone(),
        }
    }
}

#[cfg(test)]
#[path = "postman_tests.rs"]
mod tests;
