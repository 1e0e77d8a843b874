//! Database servers of the stack: whether they answer, their units where they do not, and what slows
//! them down.

use hostler_proto::{
    operation::{PostgresConnections, PostgresLocks, PostgresPing, RedisStatus, SystemdStatus},
    ops::{
        PostgresConnectionsRequest, PostgresLocksRequest, PostgresPingRequest, RedisStatusRequest,
        SystemdStatusRequest,
    },
    wire::{Finding, Status},
};

use super::Search;
use crate::{
    operation::{Answer, Unmeasured},
    ops::systemd::full_name,
};

/// A standby that is so far behind is looked at.
const LAG_S: u32 = 60;

impl Search<'_> {
    /// Every server of the stack; its unit when it does not answer, and what slows it down.
    pub(super) async fn postgres(&mut self, slow: bool) {
        for entry in &self.cx.host.stack.postgres {
            let server = entry.name.clone();
            if !self.seen.insert(format!("postgres:{server}")) {
                continue;
            }
            let shown = format!("postgres ping {server}");
            let ping = self
                .look::<PostgresPing>(
                    &shown,
                    PostgresPingRequest { server: server.clone(), lag_s: LAG_S },
                )
                .await;
            let down = ping.as_ref().is_none_or(|a| a.status == Status::Critical);
            if down {
                let unit = self.server_of(&entry.after, "postgresql").await;
                let lost =
                    ping.as_ref().and_then(|a| lost("postgres", &server, a, &entry.url, unit));
                match lost {
                    Some(finding) => self.cause(finding),
                    None => self.causes_of(ping, Status::Critical),
                }
                continue;
            }
            let request = PostgresConnectionsRequest {
                server: server.clone(),
                warning_percent: 80,
                idle_s: 30,
            };
            let shown = format!("postgres connections {server}");
            let answer = self.look::<PostgresConnections>(&shown, request).await;
            self.causes_of(answer, if slow { Status::Warning } else { Status::Critical });
            // Who asks why it is slow does not want to wait until a lock is a minute old.
            let request = PostgresLocksRequest {
                server: server.clone(),
                wait_s: 1,
                text: "masked".to_owned(),
            };
            let answer =
                self.look::<PostgresLocks>(&format!("postgres locks {server}"), request).await;
            self.causes_of(answer, Status::Warning);
        }
    }

    pub(super) async fn redis(&mut self) {
        for entry in &self.cx.host.stack.redis {
            let server = entry.name.clone();
            if !self.seen.insert(format!("redis:{server}")) {
                continue;
            }
            let request = RedisStatusRequest {
                server: server.clone(),
                memory_warning_percent: 90,
                clients_warning_percent: 90,
                lag_warning_s: 30,
            };
            let answer = self.look::<RedisStatus>(&format!("redis status {server}"), request).await;
            let away = |why: &Unmeasured| matches!(why, Unmeasured::Away | Unmeasured::Silent);
            let lost = match answer.as_ref().filter(|a| a.unmeasured.as_ref().is_some_and(away)) {
                Some(answer) => {
                    let unit = self.server_of(&entry.after, "redis-server").await;
                    lost("redis", &server, answer, &entry.url, unit)
                }
                None => None,
            };
            match lost {
                Some(finding) => self.cause(finding),
                None => self.causes_of(answer, Status::Warning),
            }
        }
    }

    /// The units of a server that does not answer: those that its check is after, or the usual one.
    async fn server_of(&mut self, after: &[String], usual: &str) -> ItsUnit {
        let before = self.causes.len();
        let mut units: Vec<String> =
            after.iter().filter_map(|a| a.strip_prefix("unit:")).map(full_name).collect();
        if units.is_empty() {
            let request =
                SystemdStatusRequest { unit: vec![usual.to_owned()], ..Default::default() };
            let shown = format!("systemd status {usual}");
            let answer = self.look::<SystemdStatus>(&shown, request).await;
            // Without a unit of that name it runs elsewhere, or under another one.
            self.unknown.retain(|finding| finding.subject != shown);
            let found = answer.into_iter().flat_map(|a| a.data.units);
            // Debian's postgresql.service runs nothing itself.
            units = found.map(|u| u.name).collect();
            if units.len() > 1 {
                units.retain(|u| *u != full_name(usual));
            }
        }
        let any = !units.is_empty();
        for unit in units {
            Box::pin(self.unit(&unit, false)).await;
        }
        match self.causes.len() == before {
            false => ItsUnit::Troubled,
            true if any => ItsUnit::Runs,
            true => ItsUnit::NotHere,
        }
    }
}

/// How the unit of a server is that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItsUnit {
    Runs,
    Troubled,
    /// None was found: it may run on another host.
    NotHere,
}

/// What is said of a server that lets calls go unheard, though its unit is not why. One that refuses them
/// says so at once.
fn lost<R>(
    kind: &str,
    server: &str,
    answer: &Answer<R>,
    url: &str,
    unit: ItsUnit,
) -> Option<Finding> {
    if unit == ItsUnit::Troubled || answer.unmeasured != Some(Unmeasured::Silent) {
        return None;
    }
    let (place, port) = place(url, if kind == "redis" { 6379 } else { 5432 });
    let lost = format!("packets to {place}:{port} are lost: a firewall, or it hangs");
    let (summary, next) = match unit {
        ItsUnit::Runs => {
            let summary = format!("{kind} \"{server}\": its unit runs, and {lost}");
            (summary, format!("net port-owner {port}"))
        }
        _ => (format!("{kind} \"{server}\": {lost}"), String::new()),
    };
    Some(Finding::new(Status::Critical, server, summary).why(&answer.summary).next(next))
}

/// Host and port of a URL.
fn place(url: &str, usual: u16) -> (String, u16) {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let port = place.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = port.unwrap_or((place, usual));
    (if host.is_empty() { "127.0.0.1" } else { host }.to_owned(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_whose_packets_are_lost_leads_to_who_holds_its_port() {
        let url = "postgres://hostler@127.0.0.1:5433/postgres?sslmode=disable";
        let answer = |why| Answer { unmeasured: Some(why), ..Answer::ok("no connection", ()) };
        let lost = |why, unit| lost("postgres", "main", &answer(why), url, unit);
        let found = lost(Unmeasured::Silent, ItsUnit::Runs).expect("a finding");
        assert!(
            found.summary.contains("runs, and packets to 127.0.0.1:5433 are lost"),
            "{found:?}"
        );
        assert_eq!(found.next, "net port-owner 5433");
        let elsewhere = lost(Unmeasured::Silent, ItsUnit::NotHere).expect("a finding");
        assert_eq!(elsewhere.next, "", "its port is another host's");
        assert_eq!(lost(Unmeasured::Away, ItsUnit::Runs), None);
        assert_eq!(lost(Unmeasured::Silent, ItsUnit::Troubled), None);
        assert_eq!(place("redis://:pw@db.example/0", 6379), ("db.example".into(), 6379));
        assert_eq!(place("redis://[::1]:7000/0", 6379), ("[::1]".into(), 7000));
    }
}
