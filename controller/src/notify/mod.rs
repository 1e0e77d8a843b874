//! Tells people and other systems of hard states that changed. A notice is written down with the
//! change, and goes when it was delivered: it survives the controller, and may come twice.
//!
//! - [`target`]: who is told, of what, and when not; [`message`]: in which words
//! - [`send`]: webhook, Slack, SMTP, Alertmanager

pub mod message;
pub mod send;
pub mod target;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hostler_core::clock::Clock;
use hostler_proto::{name::HostName, wire::Status};
use tokio_util::sync::CancellationToken;

use self::{
    message::Message,
    send::Sender,
    target::{Target, Verdict},
};
use crate::{
    health::{
        Fleet,
        absence::{Absence, absences},
        problems::Known,
    },
    store::{HostRow, NoticeRow, Store, StoreError},
};

/// How often it is looked for notices.
const BEAT: Duration = Duration::from_secs(1);
/// Notices that are looked at together.
const GROUP: u32 = 200;
/// Waits between attempts: from this on, doubled each time, up to ten minutes.
const RETRY_US: i64 = 5_000_000;
/// How long a notice waits whose reason was told with another host's.
const REASON_US: i64 = 120_000_000;
/// A notice that could not be delivered for so long is given up.
const OLD_US: i64 = 24 * 3_600_000_000;

/// Delivers notices.
#[derive(Debug)]
pub struct Notifier {
    /// Who is told.
    pub targets: Vec<Target>,
    /// Where notices are.
    pub store: Store,
    /// How checks stand.
    pub health: Fleet,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How they are sent.
    pub sender: Sender,
    /// Which targets were told that hosts cannot be reached, and for which reason. After a start of
    /// the controller that is told once more.
    pub told: HashSet<(String, String)>,
}

/// The one reason for which several hosts cannot be reached.
fn reason(absence: Option<&Absence>) -> Option<String> {
    match absence? {
        Absence::Place(place) => Some(place.clone()),
        Absence::Via(via) => Some(format!("via {via}")),
        Absence::Stopped | Absence::AgentDied | Absence::Down | Absence::Returning => None,
    }
}

/// Says in a notice of a host that is away why that is so.
fn explain(notice: &mut NoticeRow, absences: &HashMap<HostName, Absence>) {
    match absences.get(&notice.host) {
        // That an agent was stopped on purpose is no emergency.
        Some(Absence::Stopped) => {
            notice.became = Status::Warning;
            "its agent was stopped on purpose".clone_into(&mut notice.summary);
        }
        Some(Absence::Via(via)) => {
            notice.summary = format!("unreachable: {via}, through which it is reached, is away");
        }
        Some(own @ Absence::Place(place)) => {
            let all = absences.values().filter(|absence| *absence == own).count();
            notice.summary = format!("{all} hosts of {place} fell silent together: unreachable");
        }
        _ => {}
    }
}

impl Notifier {
    /// Delivers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        if self.targets.is_empty() {
            return;
        }
        loop {
            if let Err(error) = self.deliver().await {
                tracing::error!(%error, "notices cannot be read from the store");
            }
            if tokio::time::timeout(BEAT, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn deliver(&mut self) -> Result<(), StoreError> {
        let now_us = self.clock.now().as_microsecond();
        let notices = self.store.due_notices(now_us, GROUP).await?;
        let away = |n: &NoticeRow| n.check.is_empty() && n.became == Status::Critical;
        let absences = match !self.told.is_empty() || notices.iter().any(away) {
            true => {
                let hosts = self.store.hosts().await?;
                self.health.look(|health| absences(&hosts, health, now_us))
            }
            false => HashMap::new(),
        };
        // What is over is told anew when it comes again.
        let reasons: HashSet<_> = absences.values().filter_map(|a| reason(Some(a))).collect();
        self.told.retain(|(_, reason)| reasons.contains(reason));
        if notices.is_empty() {
            return Ok(());
        }
        let given = self.store.acknowledgements(now_us).await?;
        let known = Known {
            downtimes: self.store.downtimes(now_us).await?,
            acknowledgements: given
                .into_iter()
                .map(|a| ((a.host.clone(), a.check.clone()), a))
                .collect(),
        };
        for mut notice in notices {
            if away(&notice) {
                explain(&mut notice, &absences);
            }
            self.one(&notice, &absences, &known, now_us).await?;
        }
        Ok(())
    }

    /// Whether a target heard already why a host that cannot be reached is away. Then the notice of
    /// this host waits: it goes when the host is back, and is told when the reason is another one.
    async fn heard_why(
        &self,
        notice: &NoticeRow,
        absence: Option<&Absence>,
    ) -> Result<bool, StoreError> {
        let Some(reason) = reason(absence) else { return Ok(false) };
        if self.told.contains(&(notice.target.clone(), reason)) {
            return Ok(true);
        }
        let Some(Absence::Via(via)) = absence else { return Ok(false) };
        let told = self.store.told(&notice.target, via, "").await?;
        Ok(told.is_some_and(|told| told.status == Status::Critical))
    }

    async fn one(
        &mut self,
        notice: &NoticeRow,
        absences: &HashMap<HostName, Absence>,
        known: &Known,
        now_us: i64,
    ) -> Result<(), StoreError> {
        let host = self.store.host(&notice.host).await?;
        let target = self.targets.iter().find(|t| t.name == notice.target);
        let (Some(host), Some(target)) = (host, target) else {
            return self.store.drop_notice(&notice.id).await;
        };
        // A check that is not there any more has no problem.
        let gone = !notice.check.is_empty()
            && self.health.host(&host.name).is_some_and(|h| !h.checks.contains_key(&notice.check));
        if gone || host.revoked_us.is_some() {
            return self.store.drop_notice(&notice.id).await;
        }
        let told = self.store.told(&notice.target, &notice.host, &notice.check).await?;
        let handled = known.of(&host, &notice.check, notice.at_us, now_us);
        match target.verdict(notice, &host, told, !handled.is_empty(), now_us) {
            Verdict::Never => return self.store.drop_notice(&notice.id).await,
            Verdict::Later(due_us) => {
                return self.store.defer_notice(&notice.id, due_us, false).await;
            }
            Verdict::Now => {}
        }
        let absence = absences.get(&notice.host).filter(|_| notice.check.is_empty());
        if self.heard_why(notice, absence).await? {
            return self.store.defer_notice(&notice.id, now_us + REASON_US, false).await;
        }
        let message = self.message(notice, &host);
        match self.sender.send(target, &message).await {
            Ok(()) => {
                self.told.extend(reason(absence).map(|reason| (notice.target.clone(), reason)));
                self.store.notice_told(notice, now_us).await
            }
            Err(error) if now_us - notice.at_us > OLD_US => {
                let (target, host, check) = (&notice.target, &notice.host, &notice.check);
                tracing::error!(%error, target, %host, check, "a notice was given up after a day");
                self.store.drop_notice(&notice.id).await
            }
            Err(error) => {
                let (target, host, check) = (&notice.target, &notice.host, &notice.check);
                tracing::warn!(%error, target, %host, check, "a notice could not be delivered yet");
                let wait = RETRY_US << notice.attempts.clamp(0, 7);
                self.store.defer_notice(&notice.id, now_us + wait, true).await
            }
        }
    }

    fn message(&self, notice: &NoticeRow, host: &HostRow) -> Message {
        let next = self.health.host(&host.name).and_then(|health| {
            let state = health.checks.get(&notice.check)?.state();
            let next = &state.findings.first()?.next;
            (!next.is_empty()).then(|| format!("hostlerctl {next} --on {}", host.name))
        });
        let next = match notice.became {
            Status::Ok | Status::Unspecified => String::new(),
            _ => next.unwrap_or_else(|| format!("hostlerctl health {}", host.name)),
        };
        Message {
            host: notice.host.to_string(),
            check: notice.check.clone(),
            was: notice.was,
            became: notice.became,
            summary: notice.summary.clone(),
            next,
            at_us: notice.at_us,
            labels: host.labels.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().expect("name")
    }

    #[test]
    fn a_notice_says_why_its_host_is_away_and_what_it_shares_with_others() {
        let place = || Absence::Place("site paris".into());
        let absences = HashMap::from([
            (host("a-1"), place()),
            (host("a-2"), place()),
            (host("b-1"), Absence::Via(host("gw"))),
            (host("c-1"), Absence::Stopped),
            (host("d-1"), Absence::Down),
        ]);
        let told = |name: &str| {
            let mut notice = NoticeRow {
                id: name.into(),
                target: "ops".into(),
                host: host(name),
                check: String::new(),
                was: Status::Ok,
                became: Status::Critical,
                at_us: 1,
                attempts: 0,
                summary: "it fell silent".into(),
            };
            explain(&mut notice, &absences);
            (notice.became, notice.summary, reason(absences.get(&host(name))))
        };
        assert!(told("a-1").1.starts_with("2 hosts of site paris fell silent together"));
        assert_eq!(told("a-1").2, told("a-2").2);
        assert_eq!(told("b-1").2.as_deref(), Some("via gw"));
        assert_eq!((told("c-1").0, told("c-1").2), (Status::Warning, None));
        assert_eq!(told("d-1"), (Status::Critical, "it fell silent".into(), None));
    }
}
