//! Database servers of the stack: whether they answer, their units where they do not, and what slows
//! them down.

use hostler_proto::{
    operation::{
        NetPortOwner, PostgresActivity, PostgresConnections, PostgresLocks, PostgresPing,
        RedisSlowLog, RedisStatus, SystemdStatus,
    },
    ops::{
        NetPortOwnerRequest, PostgresActivity as Activity, PostgresActivityRequest,
        PostgresConnectionsRequest, PostgresLocksRequest, PostgresPingRequest, RedisSlowLogRequest,
        RedisStatusRequest, SystemdStatusRequest,
    },
    wire::{Finding, Status},
};

use super::Search;
use crate::{
    host::{
        blocking,
        place::{self, Place},
        postgres, processes, redis,
    },
    operation::{Answer, Unmeasured},
    ops::systemd::full_name,
};

/// A statement that runs for so long is long to whoever asks why a server is slow...
const ASKED_LONG_S: u32 = 10;
/// ... and so long for everybody else, as `postgres activity` has it.
const LONG_S: u32 = 60;
/// Sessions of which it is known whether they wait for a lock.
const SESSIONS: u32 = 500;
/// Entries of a slow log that are read: as many as it has by default (slowlog-max-len).
const SLOW_ENTRIES: u32 = 128;
/// A session that is idle in a transaction for so long is one of those that may hold others up.
const IDLE_S: u32 = 30;

impl Search<'_> {
    /// A server of the stack, or every one; its unit when it does not answer, and what slows it down.
    pub(super) async fn postgres(&mut self, only: Option<&str>, slow: bool) {
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        for entry in self.cx.host.stack.postgres.iter().filter(|entry| wanted(&entry.name)) {
            let server = entry.name.clone();
            if !self.seen.insert(format!("postgres:{server}")) {
                continue;
            }
            let shown = format!("postgres ping {server}");
            let Some(checked) = self.as_checked::<PostgresPing>(&format!("postgres:{server}"))
            else {
                continue;
            };
            let request = PostgresPingRequest { server: server.clone(), ..checked };
            let ping = self.look::<PostgresPing>(&shown, request).await;
            let down = ping.as_ref().is_none_or(|a| a.status == Status::Critical);
            if down {
                let unit = self.server_of(&entry.after, "postgresql").await;
                self.silent("postgres", &server, ping, postgres::whereabouts(entry), unit).await;
                continue;
            }
            if entry.no_login {
                // Its unit is all that can be looked at.
                if self.server_of(&entry.after, "postgresql").await != ItsUnit::Troubled {
                    self.causes_of(ping, Status::Warning);
                }
                continue;
            }
            let check = format!("postgres-connections:{server}");
            let Some(checked) = self.as_checked::<PostgresConnections>(&check) else { continue };
            let request =
                PostgresConnectionsRequest { server: server.clone(), idle_s: IDLE_S, ..checked };
            let shown = format!("postgres connections {server}");
            let answer = self.look::<PostgresConnections>(&shown, request).await;
            self.causes_of(answer, if slow { Status::Warning } else { Status::Critical });
            // Who asks why it is slow does not want to wait until a lock is a minute old.
            let request = PostgresLocksRequest {
                server: server.clone(),
                wait_s: 1,
                text: "masked".to_owned(),
                ..Default::default()
            };
            let answer =
                self.look::<PostgresLocks>(&format!("postgres locks {server}"), request).await;
            self.causes_of(answer, Status::Warning);
            self.long_statements(&server, slow).await;
        }
    }

    /// What keeps a server busy without a lock that anybody waits for.
    async fn long_statements(&mut self, server: &str, slow: bool) {
        let (long_s, least) = match slow {
            true => (ASKED_LONG_S, Status::Warning),
            false => (LONG_S, Status::Critical),
        };
        let request = PostgresActivityRequest {
            server: server.to_owned(),
            top: SESSIONS,
            text: "masked".to_owned(),
            long_s,
            ..Default::default()
        };
        let shown = format!("postgres activity {server} --long {long_s}s");
        let Some(mut answer) = self.look::<PostgresActivity>(&shown, request).await else { return };
        keep_running(&mut answer);
        self.causes_of(Some(answer), least);
    }

    /// The same of Redis; `slow` to look for what slows it down.
    pub(super) async fn redis(&mut self, only: Option<&str>, slow: bool) {
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        for entry in self.cx.host.stack.redis.iter().filter(|entry| wanted(&entry.name)) {
            let server = entry.name.clone();
            if !self.seen.insert(format!("redis:{server}")) {
                continue;
            }
            let Some(checked) = self.as_checked::<RedisStatus>(&format!("redis:{server}")) else {
                continue;
            };
            let request = RedisStatusRequest { server: server.clone(), ..checked };
            let answer = self.look::<RedisStatus>(&format!("redis status {server}"), request).await;
            let Some(answer) = answer else { continue };
            match answer.unmeasured {
                Some(Unmeasured::Away | Unmeasured::Silent | Unmeasured::Hung) => {
                    let unit = self.server_of(&entry.after, "redis-server").await;
                    let place = redis::whereabouts(entry);
                    self.silent("redis", &server, Some(answer), place, unit).await;
                }
                Some(Unmeasured::Otherwise) => self.causes_of(Some(answer), Status::Warning),
                None => {
                    self.causes_of(Some(answer), Status::Warning);
                    if slow {
                        self.slow_commands(&server).await;
                    }
                }
            }
        }
    }

    /// One that answers can be slow: a command that takes long is seen after it only.
    async fn slow_commands(&mut self, server: &str) {
        let request = RedisSlowLogRequest {
            server: server.to_owned(),
            lines: SLOW_ENTRIES,
            slow_ms: 100,
            within_s: 600,
        };
        let shown = format!("redis slow-log {server}");
        let mut answer = self.look::<RedisSlowLog>(&shown, request).await;
        for finding in answer.iter_mut().flat_map(|answer| &mut answer.findings) {
            finding.next.clone_from(&shown);
        }
        self.causes_of(answer, Status::Warning);
    }

    /// What is said of a server that does not answer, once its unit was looked at.
    async fn silent<R>(
        &mut self,
        kind: &str,
        server: &str,
        answer: Option<Answer<R>>,
        place: Option<Place>,
        unit: ItsUnit,
    ) {
        let Some(answer) = answer else { return };
        let why = answer.summary.clone();
        let found = match (answer.unmeasured, place) {
            _ if unit == ItsUnit::Troubled => None,
            (Some(Unmeasured::Silent), Some(place)) => Some(lost(kind, server, why, &place, unit)),
            (Some(Unmeasured::Hung), Some(place)) => {
                let stopped = self.stopped(&place).await;
                Some(hung(kind, server, why, &place, stopped))
            }
            // One that refuses calls says so at once.
            _ => None,
        };
        match found {
            Some(finding) => {
                self.prove(&answer.evidence);
                self.cause(finding);
            }
            None => {
                let least = if kind == "redis" { Status::Warning } else { Status::Critical };
                self.causes_of(Some(answer), least);
            }
        }
    }

    /// The process of this host that should answer at a place, where a signal stopped it.
    async fn stopped(&mut self, place: &Place) -> Option<u32> {
        let pid = match place {
            Place::Port { .. } => {
                let request = NetPortOwnerRequest { port: place.port_here()?.into() };
                let owner = self.look::<NetPortOwner>(&place.whose(), request).await?;
                *owner.data.listeners.first()?.pids.first()?
            }
            Place::Socket(path) => {
                self.cx.host.policy.operation("host.processes").ok()?;
                let shown = format!("host processes: who listens at {place}");
                self.in_time(&shown, place::listener(path)).await??
            }
        };
        let looked = blocking(move || Ok(processes::one(pid)));
        let seen = self.in_time(&format!("host processes: {pid}"), looked).await?.ok()??;
        matches!(seen.state, 'T' | 't').then_some(pid)
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

/// Leaves the findings about statements that run themselves: why one waits for a lock, who holds it says. No
/// operation ends one.
fn keep_running(answer: &mut Answer<Activity>) {
    let waits = |finding: &Finding| {
        let mut sessions = answer.data.sessions.iter();
        sessions.any(|s| s.pid.to_string() == finding.subject && !s.blocked_by.is_empty())
    };
    answer.findings.retain(|finding| !waits(finding));
    let running = answer.findings.iter_mut().filter(|f| f.subject.parse::<u32>().is_ok());
    for finding in running {
        let pid = &finding.subject;
        finding.why += &format!("; to end it, in psql: SELECT pg_cancel_backend({pid})");
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

/// What is said of a server to which there is no connection, though its unit is not why.
fn lost(kind: &str, server: &str, why: String, place: &Place, unit: ItsUnit) -> Finding {
    let lost = format!("packets to {place} are lost: a firewall, or it hangs");
    let (summary, next) = match unit {
        ItsUnit::Runs => (format!("{kind} \"{server}\": its unit runs, and {lost}"), place.whose()),
        _ => (format!("{kind} \"{server}\": {lost}"), String::new()),
    };
    let why = if next.is_empty() { elsewhere(why) } else { why };
    Finding::new(Status::Critical, server, summary).why(why).next(next)
}

/// What is said of one that takes connections and answers nothing.
fn hung(kind: &str, server: &str, why: String, place: &Place, stopped: Option<u32>) -> Finding {
    let (summary, why) = match stopped {
        Some(pid) => (
            format!("{kind} \"{server}\" is hung: its process {pid} is stopped"),
            "a signal stopped it; SIGCONT lets it go on".to_owned(),
        ),
        None => {
            (format!("{kind} \"{server}\" hangs: {place} takes connections and says nothing"), why)
        }
    };
    let why = if place.is_here() { why } else { elsewhere(why) };
    Finding::new(Status::Critical, server, summary).why(why).next(place.whose())
}

/// Why, with what to do where no operation on this host could.
fn elsewhere(why: String) -> String {
    format!("{why}; look at it on the host where it runs, with `hostlerctl diagnose`")
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use hostler_proto::{
        operation::HostDiagnose,
        ops::{HostDiagnoseRequest, PgSession},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        host::Host,
        operation::{Context, Probe},
    };

    #[test]
    fn a_server_whose_packets_are_lost_leads_to_who_holds_its_port() {
        let place = Place::at("127.0.0.1", 5433);
        let lost = |unit| lost("postgres", "main", "no connection".to_owned(), &place, unit);
        let found = lost(ItsUnit::Runs);
        assert!(
            found.summary.contains("runs, and packets to 127.0.0.1:5433 are lost"),
            "{found:?}"
        );
        assert_eq!(found.next, "net port-owner 5433");
        assert_eq!(lost(ItsUnit::NotHere).next, "", "its port is another host's");
    }

    #[test]
    fn a_statement_that_only_waits_for_a_lock_is_not_what_keeps_a_server_busy() {
        let session = |pid, blocked_by: &[u32]| PgSession {
            pid,
            blocked_by: blocked_by.to_vec(),
            ..PgSession::default()
        };
        let sessions = vec![session(7, &[]), session(8, &[7])];
        let long = |pid: &str| Finding::new(Status::Warning, pid, "has run for 73 s").why("long");
        let activity = Activity { sessions, visibility: "own".to_owned() };
        let partial = Finding::new(Status::Unknown, "visibility", "only its own").why("it lacks");
        let answer = Answer::ok("", activity);
        let answer = [long("7"), long("8"), partial].into_iter().fold(answer, Answer::finding);
        let mut kept = answer;
        keep_running(&mut kept);
        let told: Vec<_> =
            kept.findings.iter().map(|f| (f.subject.as_str(), f.why.as_str())).collect();
        let ended = "long; to end it, in psql: SELECT pg_cancel_backend(7)";
        assert_eq!(told, [("7", ended), ("visibility", "it lacks")]);
    }

    #[test]
    fn one_that_takes_connections_and_says_nothing_is_told_from_one_whose_packets_are_lost() {
        let of = |place: Place, stopped| hung("redis", "main", "why".to_owned(), &place, stopped);
        let found = of(Place::at("127.0.0.1", 7000), None);
        assert_eq!(
            found.summary,
            "redis \"main\" hangs: 127.0.0.1:7000 takes connections and says nothing"
        );
        assert_eq!(found.next, "net port-owner 7000");
        assert_eq!(of(Place::at("192.0.2.7", 6379), None).next, "", "its port is another host's");
        let stopped = of(Place::at("127.0.0.1", 6379), Some(7));
        assert!(stopped.summary.ends_with("its process 7 is stopped"), "{stopped:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_at_its_socket_is_not_blamed_on_who_holds_the_usual_port() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("redis.sock");
        let _hangs = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.policy.deny = ["disk.*", "host.resources", "systemd.*"].map(str::to_owned).to_vec();
        let entry = format!("[[redis]]\nname = \"main\"\nurl = \"unix://{}\"\n", path.display());
        host.stack = toml::from_str(&entry).expect("a stack file");
        let (events, _receiver) = tokio::sync::mpsc::channel(64);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let asked = HostDiagnoseRequest { service: "redis".to_owned() };
        let answer = HostDiagnose::observe(asked, &cx).await.expect("an answer");
        let said = format!("hangs: {} takes connections and says nothing", path.display());
        assert!(answer.summary.ends_with(&said), "{answer:?}");
        assert_eq!(answer.findings[0].next, "");
        let looked = answer.data.steps.iter().any(|s| s.looked_at.starts_with("net port-owner"));
        assert!(!looked, "{answer:?}");
    }
}
