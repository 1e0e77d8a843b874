//! Whose clock is wrong: that of a host, or this controller's own. Pure.

use std::collections::HashMap;

use hostler_proto::name::HostName;

use super::{Host, standing::HEARTBEAT_US};

/// From this on a clock is told to be wrong: new certificates begin five minutes in the past.
pub(super) const WRONG_US: i64 = 60_000_000;
/// Hosts that were heard of within this time say how their clocks go.
const LATELY_US: i64 = 4 * HEARTBEAT_US;
/// With fewer hosts than these nobody can say which clock is wrong.
const HOSTS: usize = 3;

/// By how much this controller's clock is ahead, when most hosts say so; 0 when they do not.
fn ahead(health: &HashMap<HostName, Host>, now_us: i64) -> i64 {
    let lately = health.values().filter(|host| now_us - host.heard_us < LATELY_US);
    let mut behind: Vec<i64> = lately.map(|host| host.skew_us).collect();
    behind.sort_unstable();
    let middle = behind.get(behind.len() / 2).copied().unwrap_or(0);
    let alike = behind.iter().filter(|skew| skew.abs_diff(middle) < WRONG_US.unsigned_abs());
    let most = behind.len() >= HOSTS && alike.count() * 2 > behind.len();
    if most && wrong(middle) { middle } else { 0 }
}

fn wrong(off_us: i64) -> bool {
    off_us.unsigned_abs() >= WRONG_US.unsigned_abs()
}

/// What most hosts say of this controller's clock, which is asked for once for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    ahead_us: i64,
}

impl Clock {
    /// What the hosts say that were heard of lately.
    pub fn new(health: &HashMap<HostName, Host>, now_us: i64) -> Self {
        Self { ahead_us: ahead(health, now_us) }
    }

    /// What is wrong with this controller's clock, if anything is.
    pub fn wrong(self) -> Option<String> {
        let seconds = self.ahead_us.unsigned_abs() / 1_000_000;
        let way = if self.ahead_us > 0 { "ahead of" } else { "behind" };
        (seconds > 0).then(|| format!("the controller's clock is {seconds} s {way} most hosts'"))
    }

    /// What is wrong with a host's clock, if anything is but this controller's. Neither certificates nor
    /// times of changes can be trusted then.
    pub fn wrong_of(self, host: &Host) -> Option<String> {
        let off_us = host.skew_us.saturating_sub(self.ahead_us);
        let seconds = off_us.unsigned_abs() / 1_000_000;
        let way = if off_us > 0 { "behind" } else { "ahead of" };
        let whose = if self.ahead_us == 0 { "the controller's" } else { "most hosts'" };
        wrong(off_us).then(|| format!("its clock is {seconds} s {way} {whose}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000 * HEARTBEAT_US;

    fn host(behind_s: i64) -> Host {
        Host { heard_us: NOW, skew_us: behind_s * 1_000_000, ..Host::default() }
    }

    fn clock(hosts: impl IntoIterator<Item = Host>) -> Clock {
        let name = |n: usize| format!("web-{n}").parse().expect("a name");
        let named = hosts.into_iter().enumerate().map(|(n, host)| (name(n), host));
        Clock::new(&named.collect(), NOW)
    }

    #[test]
    fn a_clock_from_which_most_hosts_differ_alike_is_wrong_itself_and_theirs_are_not() {
        let clock = clock([70, 71, 75, 0, 7200].map(host));
        assert_eq!(
            clock.wrong().as_deref(),
            Some("the controller's clock is 71 s ahead of most hosts'")
        );
        let of = |behind_s| clock.wrong_of(&host(behind_s));
        assert_eq!((of(70), of(75)), (None, None));
        assert_eq!(of(0).as_deref(), Some("its clock is 71 s ahead of most hosts'"));
        assert_eq!(of(7200).as_deref(), Some("its clock is 7129 s behind most hosts'"));
    }

    #[test]
    fn a_clock_that_most_hosts_share_is_right_and_so_is_one_of_which_nobody_can_say() {
        let away = Host { heard_us: NOW - LATELY_US, ..host(70) };
        for hosts in [
            vec![host(0), host(0), host(70)],
            vec![host(0), host(0), host(70), host(70)],
            vec![host(70), host(70)],
            vec![host(70), host(0), host(-70)],
            vec![host(70), host(-70), host(600)],
            vec![host(0), away.clone(), away],
        ] {
            let clock = clock(hosts);
            assert_eq!(clock.wrong(), None);
            let wrong = clock.wrong_of(&host(-3600));
            assert_eq!(wrong.as_deref(), Some("its clock is 3600 s ahead of the controller's"));
        }
    }
}
