//! Tells people and other systems of hard states that changed. A notice is written down with the
//! change, and goes when it was delivered: it survives the controller, and may come twice.
//!
//! - [`target`]: who is told, of what, and when not; [`message`]: in which words
//! - [`send`]: webhook, Slack, SMTP, Alertmanager

pub mod message;
pub mod send;
pub mod target;

use std::{collections::HashMap, sync::Arc, time::Duration};

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
}

/// Says in a notice of a host that is away why that is so. False when another host's notice tells of
/// it: of those that cannot be reached for one reason, one is told.
fn said_of(notice: &mut NoticeRow, absences: &HashMap<HostName, Absence>) -> bool {
    match absences.get(&notice.host) {
        // That an agent was stopped on purpose is no emergency.
        Some(Absence::Stopped) => {
            notice.became = Status::Warning;
            "its agent was stopped on purpose".clone_into(&mut notice.summary);
            true
        }
        Some(Absence::Via(via)) => !absences.contains_key(via),
        Some(own @ Absence::Place(place)) => {
            let all: Vec<_> = absences.iter().filter(|(_, a)| *a == own).map(|(h, _)| h).collect();
            notice.summary =
                format!("{} hosts of {place} fell silent together: unreachable", all.len());
            all.iter().min().is_some_and(|first| **first == notice.host)
        }
        _ => true,
    }
}

impl Notifier {
    /// Delivers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
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

    async fn deliver(&self) -> Result<(), StoreError> {
        let now_us = self.clock.now().as_microsecond();
        let notices = self.store.due_notices(now_us, GROUP).await?;
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
        let away = |n: &NoticeRow| n.check.is_empty() && n.became == Status::Critical;
        let absences = match notices.iter().any(away) {
            true => {
                let hosts = self.store.hosts().await?;
                self.health.look(|health| absences(&hosts, health, now_us))
            }
            false => HashMap::new(),
        };
        for mut notice in notices {
            if away(&notice) && !said_of(&mut notice, &absences) {
                self.store.drop_notice(&notice.id).await?;
                continue;
            }
            self.one(&notice, &known, now_us).await?;
        }
        Ok(())
    }

    async fn one(&self, notice: &NoticeRow, known: &Known, now_us: i64) -> Result<(), StoreError> {
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
        let message = self.message(notice, &host);
        match self.sender.send(target, &message).await {
            Ok(()) => self.store.notice_told(notice, now_us).await,
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
