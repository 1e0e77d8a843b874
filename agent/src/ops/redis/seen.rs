//! What a server says of itself when it is asked how it is, and what it does not say to this agent's user.

use std::{collections::HashMap, time::Instant};

use hostler_proto::ops::RedisStatus as Report;

use super::info::Info;
use crate::host::redis::{Server, Trouble};

/// The sets that kombu keeps at a broker: of the pidbox of every worker, and of the default queue.
const BINDINGS: [&str; 2] = ["_kombu.binding.celery.pidbox", "_kombu.binding.celery"];

/// How a server refuses keys that it does not have itself.
const ELSEWHERE: [&str; 4] = ["MASTERDOWN", "MOVED", "ASK", "CROSSSLOT"];

/// What was seen, and what the report has no place for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) report: Report,
    /// Where it is, and what it was asked.
    pub(super) asked: String,
    /// Writes are refused while snapshots fail.
    pub(super) stops_writes: bool,
    /// Its master's address, where it is a replica whose link is down; and whether the data is being
    /// copied meanwhile.
    pub(super) master_down: Option<(String, bool)>,
    /// What it does not tell.
    pub(super) hidden: Vec<Hidden>,
    /// The server knows no CONFIG, as some providers have it.
    pub(super) save_unknown: bool,
    /// Why it serves no keys, where it is a part of a cluster that does not.
    pub(super) cluster_down: Option<String>,
    /// Good replicas, and how many there must be for a write; that is not always told.
    pub(super) replicas_short: Option<(u64, Option<u64>)>,
    /// Whether keys can be evicted: a full memory is then what the cache is made for.
    pub(super) evicts: bool,
    /// Its process, as it says itself.
    pub(super) pid: String,
    /// Bytes that it can still take where it has no maxmemory; none where nobody can tell.
    pub(super) room: Option<u64>,
}

/// What a server does not tell.
#[derive(Debug, Clone)]
pub(super) struct Hidden {
    pub(super) command: &'static str,
    /// What is not known without it.
    pub(super) what: &'static str,
    /// What it said, where it is not that this agent's user may not ask.
    pub(super) said: Option<String>,
}

impl Hidden {
    /// An answer that is none, where the server only refused it.
    fn of(trouble: Trouble, command: &'static str, what: &'static str) -> Result<Self, Trouble> {
        let said = match trouble {
            Trouble::Forbidden(_) => None,
            Trouble::Refused(said) => Some(said),
            other => return Err(other),
        };
        Ok(Self { command, what, said })
    }
}

/// Looks at a server.
///
/// # Errors
/// Why it cannot be used.
pub(super) async fn look(server: &mut Server, now_s: i64) -> Result<Seen, Trouble> {
    let mut hidden = Vec::new();
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        match server.ask::<String>(&["PING"]).await {
            // Since version 7 it refuses PING as well as writes; INFO says why.
            Err(Trouble::Refused(said)) if said.starts_with("MISCONF") => {}
            // A replica that may not serve old data refuses it, too.
            Err(Trouble::Refused(said)) if said.starts_with("MASTERDOWN") => {}
            Err(trouble @ Trouble::Forbidden(_)) => {
                hidden.push(Hidden::of(trouble, "PING", "how fast it answers")?);
                break;
            }
            answered => drop(answered?),
        }
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    let info = match server.ask::<String>(&["INFO", "everything"]).await {
        Ok(info) => info,
        Err(trouble) => {
            let what = "how memory, clients, persistence and replication are";
            hidden.push(Hidden::of(trouble, "INFO", what)?);
            String::new()
        }
    };
    let mut cluster_down = None;
    let bindings = match server.ask::<u64>(&["EXISTS", BINDINGS[0], BINDINGS[1]]).await {
        Err(Trouble::Refused(said)) if said.starts_with("CLUSTERDOWN") => {
            cluster_down = Some(said);
            None
        }
        // A replica without its master, or a part of a cluster that has these keys elsewhere.
        Err(Trouble::Refused(said)) if ELSEWHERE.iter().any(|e| said.starts_with(e)) => None,
        Ok(bindings) => Some(bindings),
        Err(trouble) => {
            hidden.push(Hidden::of(trouble, "EXISTS", "whether Celery keeps its queues here")?);
            None
        }
    };
    // Not every user may ask for it, and some providers hide it.
    let mut save_unknown = false;
    let save = match server.ask::<HashMap<String, String>>(&["CONFIG", "GET", "save"]).await {
        Err(trouble @ Trouble::Forbidden(_)) => {
            let what = "whether it writes snapshots, and refuses writes without";
            hidden.push(Hidden::of(trouble, "CONFIG GET", what)?);
            HashMap::new()
        }
        Err(Trouble::Refused(_)) => {
            save_unknown = true;
            HashMap::new()
        }
        save => save?,
    };
    let stops = ["CONFIG", "GET", "stop-writes-on-bgsave-error"];
    let stops = match server.ask::<HashMap<String, String>>(&stops).await {
        Err(Trouble::Forbidden(_) | Trouble::Refused(_)) => false,
        stops => stops?.values().any(|v| v == "yes"),
    };
    let info = Info::read(&info);
    if info.text("cluster_enabled") == "1" && cluster_down.is_none() {
        match server.ask::<String>(&["CLUSTER", "INFO"]).await {
            Ok(said) => cluster_down = cluster_fails(&said),
            Err(trouble) => {
                let what = "whether its cluster serves all keys";
                hidden.push(Hidden::of(trouble, "CLUSTER INFO", what)?);
            }
        }
    }
    let mut replicas_short = None;
    if let Some(good) = info.good_replicas() {
        // Both names of the setting, of which old servers know only one.
        let needed = ["CONFIG", "GET", "min-*-to-write"];
        let needed = match server.ask::<HashMap<String, String>>(&needed).await {
            Err(Trouble::Forbidden(_) | Trouble::Refused(_)) => None,
            needed => needed?.values().filter_map(|n| n.parse().ok()).max(),
        };
        replicas_short = (good < needed.unwrap_or(1)).then_some((good, needed));
    }
    let mut seen = info.seen();
    (seen.cluster_down, seen.replicas_short) = (cluster_down, replicas_short);
    seen.asked = server.evidence();
    seen.report.ping_s = fastest.is_finite().then_some(fastest);
    seen.report.celery_broker = bindings.map(|bindings| bindings > 0);
    seen.stops_writes = stops;
    seen.save_unknown = save_unknown;
    seen.hidden = hidden;
    if save.values().any(|v| !v.is_empty()) {
        seen.report.snapshot_age_s = info.snapshot_age_s(now_s);
    }
    Ok(seen)
}

/// What CLUSTER INFO says against a cluster.
pub(super) fn cluster_fails(said: &str) -> Option<String> {
    let told = Info::read(said);
    (told.text("cluster_state") != "ok").then(|| {
        let (state, slots) = (told.text("cluster_state"), told.text("cluster_slots_ok"));
        format!("cluster_state is {state}, {slots} of 16384 slots are served")
    })
}

impl Info<'_> {
    /// Replicas that keep up, where writes are refused when those are too few.
    fn good_replicas(&self) -> Option<u64> {
        (self.text("role") == "master").then(|| self.text("min_slaves_good_slaves").parse().ok())?
    }

    /// Whether memory that is used up is taken from other keys, and not refused to new ones.
    fn evicts(&self) -> bool {
        match self.text("maxmemory_policy") {
            // Without a limit nothing is evicted, whatever the policy.
            _ if self.number("maxmemory") == 0 => false,
            "" | "noeviction" => false,
            // Nothing else than keys that go by themselves one day.
            policy if policy.starts_with("volatile-") => self.expiring() > 0,
            _ => true,
        }
    }

    /// Age of the last snapshot; none where it does not say.
    fn snapshot_age_s(&self, now_s: i64) -> Option<u64> {
        let saved: i64 = self.text("rdb_last_save_time").parse().ok()?;
        u64::try_from(now_s.saturating_sub(saved)).ok()
    }

    pub(super) fn seen(&self) -> Seen {
        let (hits, misses) = (self.number("keyspace_hits"), self.number("keyspace_misses"));
        let asked = hits.saturating_add(misses);
        let valkey = !self.text("valkey_version").is_empty();
        let report = Report {
            version: match valkey {
                true => self.text("valkey_version"),
                false => self.text("redis_version"),
            }
            .to_owned(),
            flavour: match self.says() {
                true if valkey => "valkey",
                true => "redis",
                false => "",
            }
            .to_owned(),
            role: self.text("role").to_owned(),
            uptime_s: self.told("uptime_in_seconds"),
            used_memory_bytes: self.told("used_memory"),
            max_memory_bytes: self.told("maxmemory"),
            resident_bytes: self.told("used_memory_rss"),
            eviction_policy: self.text("maxmemory_policy").to_owned(),
            evicted_keys: self.told("evicted_keys"),
            clients: self.told("connected_clients"),
            max_clients: self.told("maxclients"),
            blocked_clients: self.told("blocked_clients"),
            rejected_connections: self.told("rejected_connections"),
            operations_per_s: self.told("instantaneous_ops_per_sec"),
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            hit_percent: (asked > 0).then(|| hits as f64 * 100.0 / asked as f64),
            keys: self.says().then(|| self.keys()),
            unsaved_changes: self.told("rdb_changes_since_last_save"),
            append_only: self.told("aof_enabled").map(|enabled| enabled == 1),
            replicas: self.told("connected_slaves").map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            replication: self.replication(),
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            fragmentation_percent: (self.number("used_memory") > 0
                && self.number("used_memory_rss") > 0)
                .then(|| {
                    let told = self.text("mem_fragmentation_ratio").parse::<f64>().ok();
                    let (part, whole) =
                        (self.number("used_memory_rss"), self.number("used_memory"));
                    told.unwrap_or(part as f64 / whole as f64) * 100.0
                }),
            snapshot_status: self.text("rdb_last_bgsave_status").to_owned(),
            append_status: match self.text("aof_enabled") {
                "1" => self.text("aof_last_write_status").to_owned(),
                _ => String::new(),
            },
            ..Report::default()
        };

        Seen {
            report,
            master_down: (self.text("master_link_status") == "down")
                .then(|| (self.master(), self.text("master_sync_in_progress") == "1")),
            evicts: self.evicts(),
            pid: self.text("process_id").to_owned(),
            ..Seen::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_count_where_writes_need_them() {
        let good = |told: &str| Info::read(told).good_replicas();
        assert_eq!(good("role:master\r\n"), None, "it asks for none");
        assert_eq!(good("role:master\r\nmin_slaves_good_slaves:2\r\n"), Some(2));
    }

    #[tokio::test]
    async fn a_question_that_a_server_refuses_is_hidden_with_what_it_said() {
        let pong = "+PONG\r\n";
        let answers = [pong, pong, pong, pong, "-ERR unknown command 'INFO'\r\n"];
        let rest = ["-ERR EXISTS is switched off\r\n", "*0\r\n", "*0\r\n"];
        let answers: &'static [&'static str] = Vec::leak([&answers[..], &rest].concat());
        let entry = crate::host::redis::played::server(answers).await;
        let mut server = Server::connect(&entry).await.expect("a connection");
        let seen = look(&mut server, 0).await.expect("it serves");
        let hidden: Vec<_> =
            seen.hidden.iter().map(|h| (h.command, h.said.as_deref().unwrap_or(""))).collect();
        let unknown = "ERR unknown command 'INFO'";
        assert_eq!(hidden, [("INFO", unknown), ("EXISTS", "ERR EXISTS is switched off")]);
        assert_eq!((seen.report.keys, seen.report.celery_broker), (None, None));
    }

    #[test]
    fn what_is_not_said_has_no_age_and_no_number_is_too_large() {
        assert_eq!(Info::read("role:master\r\n").snapshot_age_s(1000), None);
        assert_eq!(Info::read("rdb_last_save_time:400\r\n").snapshot_age_s(1000), Some(600));
        let most = u64::MAX;
        let text = format!("keyspace_hits:{most}\r\nkeyspace_misses:{most}\r\n");
        assert_eq!(Info::read(&text).seen().report.hit_percent, Some(100.0));
    }
}
