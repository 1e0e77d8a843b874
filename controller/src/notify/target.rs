//! Who is told, of what, and when not. Pure.

use std::{path::PathBuf, str::FromStr, time::Duration};

use hostler_proto::wire::Status;
use jiff::{Timestamp, civil::Time, tz::TimeZone};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    health::problems::severity,
    selector::Selector,
    store::{HostRow, NoticeRow, Told},
};

/// How soon it is looked again at a problem that somebody knows of.
const HANDLED_US: i64 = 60_000_000;

/// How a target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// JSON by POST.
    Webhook,
    /// What Slack, Mattermost and others take.
    Slack,
    /// Prometheus' Alertmanager.
    Alertmanager,
    /// Mail.
    Smtp,
}

/// The least that a target is told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Least {
    /// Warnings, unknown states and critical ones.
    #[default]
    Warning,
    /// Unknown states and critical ones.
    Unknown,
    /// Only critical ones.
    Critical,
}

/// A `[[notify]]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub kind: Kind,
    /// Where: a URL; `smtp://HOST:PORT` or `smtps://HOST:PORT` for mail. Credentials are in files.
    pub url: String,
    /// Of which hosts; all when it is left out.
    #[serde(default, deserialize_with = "selector")]
    pub on: Option<Selector>,
    /// The least that is told.
    #[serde(default)]
    pub least: Least,
    /// Shortest time between two notices of one problem.
    #[serde(default = "gap", with = "humantime_serde")]
    pub gap: Duration,
    /// Hours in which only critical states are told; others wait: `22:00-06:00`.
    #[serde(default)]
    pub quiet: Option<Quiet>,
    /// Zone of those hours: `Europe/Berlin`; UTC when it is left out.
    #[serde(default)]
    pub zone: Option<String>,
    /// The text, with places like {host}.
    #[serde(default)]
    pub template: Option<String>,
    /// File with a token that is sent as `Authorization: Bearer`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Sender of mail.
    #[serde(default)]
    pub from: Option<String>,
    /// Who gets mail.
    #[serde(default)]
    pub to: Vec<String>,
    /// User at the mail server.
    #[serde(default)]
    pub username: Option<String>,
    /// File with its password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

fn gap() -> Duration {
    Duration::from_secs(60)
}

fn selector<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Selector>, D::Error> {
    let text = String::deserialize(from)?;
    Selector::from_str(&text).map(Some).map_err(D::Error::custom)
}

/// Hours of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    from: Time,
    until: Time,
}

impl<'de> Deserialize<'de> for Quiet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong =
            || D::Error::custom(format!("\"{text}\" is no span of hours; write 22:00-06:00"));
        let (from, until) = text.split_once('-').ok_or_else(wrong)?;
        let time = |t: &str| Time::strptime("%H:%M", t.trim()).map_err(|_| wrong());
        let (from, until) = (time(from)?, time(until)?);
        if from == until {
            let said = format!(
                "quiet hours \"{text}\" end when they begin; write two times that differ, as in \
                 22:00-06:00, or leave quiet out"
            );
            return Err(D::Error::custom(said));
        }
        Ok(Self { from, until })
    }
}

impl Quiet {
    /// When they end, if it is one of them now.
    fn ends(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let now = now.to_zoned(zone.clone());
        let time = now.time();
        let over_midnight = self.from > self.until;
        let within = match over_midnight {
            true => time >= self.from || time < self.until,
            false => time >= self.from && time < self.until,
        };
        if !within {
            return None;
        }
        let day = if over_midnight && time >= self.from {
            now.date().tomorrow().ok()?
        } else {
            now.date()
        };
        // When clocks are set back that hour of the day comes twice.
        let end = zone.to_ambiguous_zoned(day.to_datetime(self.until));
        let first = end.clone().earlier().ok()?.timestamp();
        match first > now.timestamp() {
            true => Some(first),
            false => Some(end.later().ok()?.timestamp()).filter(|end| *end > now.timestamp()),
        }
    }
}

/// What is to become of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Now,
    /// Look at it again then.
    Later(i64),
    /// It is not told.
    Never,
}

impl Target {
    /// The zone of its hours.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn zone(&self) -> Result<TimeZone, jiff::Error> {
        match &self.zone {
            Some(name) => TimeZone::get(name),
            None => Ok(TimeZone::UTC),
        }
    }

    /// Whether it is told of such a status.
    pub fn tells(&self, status: Status) -> bool {
        let least = match self.least {
            Least::Warning => Status::Warning,
            Least::Unknown => Status::Unknown,
            Least::Critical => Status::Critical,
        };
        severity(status) >= severity(least)
    }

    /// Whether it is told of such a host.
    pub fn is_for(&self, host: &HostRow) -> bool {
        self.on.as_ref().is_none_or(|on| on.matches(&host.candidate()))
    }

    /// Whether what it was told goes on, as far as it knows.
    pub fn goes_on(&self, told: &Told) -> bool {
        self.tells(told.status) || told.flapping || self.tells(told.attempted)
    }

    /// What is to become of a notice, by what the target was told before and what people know.
    pub fn verdict(
        &self,
        notice: &NoticeRow,
        host: &HostRow,
        told: Option<&Told>,
        handled: bool,
        now_us: i64,
    ) -> Verdict {
        if !self.is_for(host) {
            return Verdict::Never;
        }
        let heard_any = told.is_some_and(|t| t.last() != Status::Unspecified);
        // Who heard of a check hears that it flaps, too: how it changes is not told meanwhile.
        let problem = self.tells(notice.became) || (notice.flapping && heard_any);
        // Well again, or no longer bad enough to be told: worth a word to those who heard of it.
        let heard = told.is_some_and(|t| self.goes_on(t));
        if !problem && !heard {
            return Verdict::Never;
        }
        // When the downtime is over and it is still there somebody must hear of it.
        if problem && handled {
            return Verdict::Later(now_us + HANDLED_US);
        }
        let same = |t: &Told| t.status == notice.became && t.flapping == notice.flapping;
        // Unless it may have heard something else since.
        if told.is_some_and(|t| t.attempted == Status::Unspecified && same(t)) {
            return Verdict::Never;
        }
        let gap_us = i64::try_from(self.gap.as_micros()).unwrap_or(i64::MAX);
        if let Some(again) = told.map(|t| t.at_us.saturating_add(gap_us)).filter(|t| *t > now_us) {
            return Verdict::Later(again);
        }
        let quiet = self.quiet.filter(|_| notice.became != Status::Critical).and_then(|quiet| {
            quiet.ends(Timestamp::from_microsecond(now_us).ok()?, &self.zone().ok()?)
        });
        match quiet {
            Some(end) => Verdict::Later(end.as_microsecond()),
            None => Verdict::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Connection;

    const MINUTE: i64 = 60_000_000;
    /// 2026-11-26 23:00 in UTC, midnight in Berlin.
    const NIGHT: i64 = 1_795_734_000_000_000;

    fn target(more: &str) -> Target {
        let text = format!("name = \"ops\"\nkind = \"webhook\"\nurl = \"http://x\"\n{more}");
        toml::from_str(&text).expect(&text)
    }

    fn host() -> HostRow {
        HostRow {
            name: "web-1".parse().expect("name"),
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            certificate_until_us: 0,
            connection: Connection::Up,
            since_us: 0,
            reason: String::new(),
            ..HostRow::nobody()
        }
    }

    fn notice(became: Status) -> NoticeRow {
        NoticeRow {
            id: "n".into(),
            target: "ops".into(),
            host: "web-1".parse().expect("name"),
            check: "disk".into(),
            was: Status::Ok,
            became,
            flapping: false,
            at_us: 0,
            attempts: 0,
            failed_us: 0,
            summary: String::new(),
        }
    }

    fn of(target: &Target, became: Status, told: Option<(Status, i64)>, now_us: i64) -> Verdict {
        let told = told.map(|(status, at_us)| told_of(status, false, at_us));
        target.verdict(&notice(became), &host(), told.as_ref(), false, now_us)
    }

    fn told_of(status: Status, flapping: bool, at_us: i64) -> Told {
        let (since_us, summary, attempted) = Default::default();
        Told { status, flapping, at_us, since_us, summary, attempted }
    }

    #[test]
    fn of_flapping_the_begin_and_the_end_are_told_to_those_who_heard_of_the_check() {
        let ops = target("gap = \"0s\"\nleast = \"critical\"");
        let of = |became, flapping, told: Option<Told>| {
            let notice = NoticeRow { flapping, ..notice(became) };
            ops.verdict(&notice, &host(), told.as_ref(), false, MINUTE)
        };
        assert_eq!(of(Status::Warning, true, None), Verdict::Never);
        let well = told_of(Status::Ok, false, 0);
        assert_eq!(of(Status::Warning, true, Some(well)), Verdict::Now);
        let flaps = || Some(told_of(Status::Warning, true, 0));
        assert_eq!(of(Status::Warning, true, flaps()), Verdict::Never, "once");
        assert_eq!(of(Status::Ok, false, flaps()), Verdict::Now);
        assert_eq!(of(Status::Critical, false, flaps()), Verdict::Now);
    }

    #[test]
    fn a_problem_is_told_and_its_end_to_those_who_heard_of_it() {
        let ops = target("gap = \"1m\"");
        assert_eq!(of(&ops, Status::Critical, None, 0), Verdict::Now);
        assert_eq!(of(&ops, Status::Ok, None, 0), Verdict::Never, "nobody heard of it");
        assert_eq!(of(&ops, Status::Ok, Some((Status::Critical, 0)), 2 * MINUTE), Verdict::Now);
        assert_eq!(
            of(&ops, Status::Critical, Some((Status::Critical, 0)), 2 * MINUTE),
            Verdict::Never
        );
        let critical = target("least = \"critical\"");
        assert_eq!(of(&critical, Status::Warning, None, 0), Verdict::Never);
        let better = of(&critical, Status::Warning, Some((Status::Critical, 0)), 2 * MINUTE);
        assert_eq!(better, Verdict::Now, "it is no longer critical");
    }

    #[test]
    fn what_may_have_been_heard_is_taken_back() {
        let ops = target("gap = \"1m\"");
        let of = |became, status, attempted| {
            let told = Told { attempted, ..told_of(status, false, 0) };
            ops.verdict(&notice(became), &host(), Some(&told), false, 2 * MINUTE)
        };
        let none = Status::Unspecified;
        assert_eq!(of(Status::Ok, none, Status::Critical), Verdict::Now);
        assert_eq!(of(Status::Ok, Status::Ok, Status::Critical), Verdict::Now);
        assert_eq!(of(Status::Critical, Status::Critical, Status::Ok), Verdict::Now);
        assert_eq!(of(Status::Ok, Status::Ok, none), Verdict::Never);
        assert_eq!(of(Status::Ok, none, none), Verdict::Never, "it was certainly not heard");
    }

    #[test]
    fn between_two_notices_of_one_problem_there_is_a_gap() {
        let ops = target("gap = \"5m\"");
        let told = Some((Status::Warning, MINUTE));
        assert_eq!(of(&ops, Status::Critical, told, 2 * MINUTE), Verdict::Later(6 * MINUTE));
    }

    #[test]
    fn in_quiet_hours_only_what_is_critical_is_told_and_the_rest_waits_for_the_morning() {
        let ops = target("quiet = \"22:00-06:00\"\nzone = \"Europe/Berlin\"");
        assert_eq!(of(&ops, Status::Critical, None, NIGHT), Verdict::Now);
        // Six in the morning of the 27th in Berlin.
        let morning = NIGHT + 6 * 60 * MINUTE;
        assert_eq!(of(&ops, Status::Warning, None, NIGHT), Verdict::Later(morning));
        assert_eq!(of(&ops, Status::Warning, None, NIGHT - 60 * MINUTE), Verdict::Later(morning));
        assert_eq!(of(&ops, Status::Warning, None, NIGHT + 7 * 60 * MINUTE), Verdict::Now);
    }

    #[test]
    fn quiet_hours_end_later_and_never_before_where_an_hour_comes_twice() {
        let ops = target("quiet = \"22:00-02:30\"\nzone = \"Europe/Berlin\"");
        // 2026-10-25 02:10 in Berlin, for the first and for the second time.
        let first = 1_792_887_000_000_000;
        let second = first + 60 * MINUTE;
        let of = |at| of(&ops, Status::Warning, None, at);
        assert_eq!(of(first), Verdict::Later(first + 20 * MINUTE));
        assert_eq!(of(first + 30 * MINUTE), Verdict::Now);
        assert_eq!(of(second), Verdict::Later(second + 20 * MINUTE));
    }

    #[test]
    fn what_somebody_knows_of_and_other_hosts_are_not_told() {
        let ops = target("on = \"role=db\"");
        assert_eq!(of(&ops, Status::Critical, None, 0), Verdict::Never);
        let web = target("on = \"role=web\"");
        let handled = web.verdict(&notice(Status::Critical), &host(), None, true, 0);
        assert_eq!(handled, Verdict::Later(MINUTE));
    }

    #[test]
    fn hours_that_are_none_are_refused() {
        for (hours, why) in [("22-6", "22:00-06:00"), ("05:00-05:00", "end when they begin")] {
            let text = format!("name = 'x'\nkind = 'slack'\nurl = 'http://x'\nquiet = '{hours}'");
            let said = toml::from_str::<Target>(&text).expect_err(hours).to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
