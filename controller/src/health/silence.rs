//! What people know already: downtimes that were announced, problems that somebody works on.

use std::collections::HashMap;

use globset::{Glob, GlobMatcher};
use hostler_proto::name::HostName;

use crate::{authz::Candidate, selector::Selector};

/// A time in which problems are expected.
#[derive(Debug, Clone)]
pub struct Downtime {
    /// Its id.
    pub id: String,
    /// Whose.
    pub hosts: Selector,
    /// Of which checks.
    pub checks: Checks,
    /// When it begins.
    pub begins_us: i64,
    /// When it ends; of a flexible one, until when a problem may begin.
    pub ends_us: i64,
    /// How long a flexible one lasts on a host from its first problem, once.
    pub lasts_us: Option<i64>,
    /// When it began where it did.
    pub begun: HashMap<HostName, i64>,
    /// Who announced it.
    pub made_by: String,
    /// Why.
    pub comment: String,
}

/// Checks, by a pattern over their names. The link of a host goes by the empty name, which only the
/// pattern for everything matches.
#[derive(Debug, Clone)]
pub struct Checks {
    text: String,
    matcher: GlobMatcher,
}

impl Checks {
    /// The checks of a pattern; all of them when it is empty.
    ///
    /// # Errors
    /// When it is no pattern.
    pub fn new(pattern: &str) -> Result<Self, globset::Error> {
        let text = if pattern.is_empty() { "*" } else { pattern };
        Ok(Self { text: text.to_owned(), matcher: Glob::new(text)?.compile_matcher() })
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, check: &str) -> bool {
        self.matcher.is_match(check)
    }
}

impl Downtime {
    /// Whether it covers a problem of a check that has been there since some time.
    pub fn covers(&self, host: &Candidate<'_>, check: &str, since_us: i64, now_us: i64) -> bool {
        let in_time = match self.lasts_us {
            None => self.begins_us <= now_us && now_us < self.ends_us,
            Some(lasts) => {
                // A problem of which nothing was written down yet is the first.
                let begun_us = self.begun.get(host.name).copied().unwrap_or(since_us);
                self.begins_us <= since_us
                    && begun_us < self.ends_us
                    && now_us < begun_us.saturating_add(lasts)
            }
        };
        in_time && self.is_for(host, check)
    }

    /// Whether it is for a check of a host.
    pub fn is_for(&self, host: &Candidate<'_>, check: &str) -> bool {
        self.checks.matches(check) && self.hosts.matches(host)
    }

    /// How a flexible one whose window has begun stands on its hosts.
    pub fn course<'h>(&self, hosts: impl Iterator<Item = &'h HostName>, now_us: i64) -> Course {
        let mut course = Course::default();
        for host in hosts {
            match self.begun.get(host) {
                None => course.waiting += u32::from(now_us < self.ends_us),
                Some(begun_us) => {
                    let until_us = begun_us.saturating_add(self.lasts_us.unwrap_or(0));
                    if now_us < until_us {
                        course.running += 1;
                        course.until_us = course.until_us.max(until_us);
                    }
                }
            }
        }
        course
    }
}

/// How a flexible downtime stands. Where it is neither of both it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Course {
    /// Hosts on which it has begun.
    pub running: u32,
    /// When it will have ended on all of them.
    pub until_us: i64,
    /// Hosts on which it waits for a problem.
    pub waiting: u32,
}

/// Somebody knows of a problem.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    /// The host.
    pub host: String,
    /// The check; empty for the host's link.
    pub check: String,
    /// When it was given.
    pub at_us: i64,
    /// How bad the problem was: one that gets worse is another.
    pub severity: u8,
    /// Until when it counts; none for until it recovers.
    pub expires_us: Option<i64>,
    /// By whom.
    pub made_by: String,
    /// What they say.
    pub comment: String,
}

impl Acknowledgement {
    /// Whether it counts for a problem that is so bad. It goes for good when the problem does, or
    /// gets worse: that is a matter of the store, which writes down how problems change.
    pub fn counts(&self, severity: u8, now_us: i64) -> bool {
        severity <= self.severity && self.expires_us.is_none_or(|end| now_us < end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn downtime(checks: &str, lasts_us: Option<i64>) -> Downtime {
        Downtime {
            id: "1".into(),
            hosts: "web-*".parse().expect("selector"),
            checks: Checks::new(checks).expect("pattern"),
            begins_us: 100,
            ends_us: 200,
            lasts_us,
            begun: HashMap::new(),
            made_by: "eve".into(),
            comment: String::new(),
        }
    }

    fn covers(downtime: &Downtime, host: &str, check: &str, since: i64, now: i64) -> bool {
        let (name, none): (HostName, _) = (host.parse().expect("name"), BTreeMap::new());
        let host =
            Candidate { name: &name, labels: &none, facts: &none, state: "up", health: &none };
        downtime.covers(&host, check, since, now)
    }

    #[test]
    fn a_fixed_downtime_covers_its_hosts_and_checks_for_as_long_as_it_lasts() {
        let fixed = downtime("disk*", None);
        assert!(covers(&fixed, "web-1", "disk", 5, 100));
        assert!(!covers(&fixed, "web-1", "disk", 5, 99));
        assert!(!covers(&fixed, "web-1", "disk", 5, 200));
        assert!(!covers(&fixed, "db-1", "disk", 5, 150));
        assert!(!covers(&fixed, "web-1", "units", 5, 150));
        assert!(!covers(&fixed, "web-1", "", 5, 150), "the link is no disk");
        assert!(covers(&downtime("", None), "web-1", "", 5, 150));
    }

    #[test]
    fn a_flexible_downtime_begins_with_the_problem() {
        let flexible = downtime("*", Some(50));
        assert!(covers(&flexible, "web-1", "disk", 190, 239));
        assert!(!covers(&flexible, "web-1", "disk", 190, 240));
        assert!(!covers(&flexible, "web-1", "disk", 99, 110), "it was there before");
        assert!(!covers(&flexible, "web-1", "disk", 200, 210), "it came too late");
    }

    #[test]
    fn a_flexible_downtime_lasts_once_on_each_host_however_often_problems_come() {
        let mut flexible = downtime("*", Some(50));
        let name = |name: &str| name.parse::<HostName>().expect("name");
        flexible.begun = HashMap::from([(name("web-1"), 180)]);
        assert!(covers(&flexible, "web-1", "disk", 229, 229), "it got worse");
        assert!(covers(&flexible, "web-1", "http", 210, 229), "another check, after the window");
        assert!(!covers(&flexible, "web-1", "disk", 229, 230), "it began at 180");
        assert!(!covers(&flexible, "web-1", "disk", 99, 190), "it was there before");
        assert!(covers(&flexible, "web-2", "disk", 190, 239), "there it has not begun yet");
        let hosts = [name("web-1"), name("web-2")];
        let of = |now_us| flexible.course(hosts.iter(), now_us);
        assert_eq!(of(190), Course { running: 1, until_us: 230, waiting: 1 });
        assert_eq!(of(200), Course { running: 1, until_us: 230, waiting: 0 });
        assert_eq!(of(230), Course::default(), "it is over");
    }

    #[test]
    fn an_acknowledgement_counts_until_its_time_is_over_and_for_nothing_that_is_worse() {
        let acknowledgement = Acknowledgement {
            host: "web-1".into(),
            check: "disk".into(),
            at_us: 100,
            severity: 2,
            expires_us: Some(200),
            made_by: "eve".into(),
            comment: "on it".into(),
        };
        assert!(acknowledgement.counts(2, 199));
        assert!(acknowledgement.counts(1, 199), "it got better, and is not well yet");
        assert!(!acknowledgement.counts(2, 200));
        assert!(!acknowledgement.counts(3, 150));
        assert!(Acknowledgement { expires_us: None, ..acknowledgement }.counts(1, i64::MAX));
    }
}
