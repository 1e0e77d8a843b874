//! What people know already: downtimes that were announced, problems that somebody works on.

use globset::{Glob, GlobMatcher};

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
    /// How long a flexible one lasts from the beginning of a problem.
    pub lasts_us: Option<i64>,
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
                self.begins_us <= since_us
                    && since_us < self.ends_us
                    && now_us < since_us.saturating_add(lasts)
            }
        };
        in_time && self.checks.matches(check) && self.hosts.matches(host)
    }
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

    use hostler_proto::name::HostName;

    use super::*;

    fn downtime(checks: &str, lasts_us: Option<i64>) -> Downtime {
        Downtime {
            id: "1".into(),
            hosts: "web-*".parse().expect("selector"),
            checks: Checks::new(checks).expect("pattern"),
            begins_us: 100,
            ends_us: 200,
            lasts_us,
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
