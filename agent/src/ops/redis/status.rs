//! `redis.status`: how a server is, and whether it would take a write.

use std::{collections::HashMap, time::Instant};

use hostler_proto::{
    operation::{Operation, RedisStatus},
    ops::{RedisStatus as Report, RedisStatusRequest},
    wire::{Failure, Finding, Status},
};
use redis::IntoConnectionInfo as _;

use super::{entry, info::Info, room::room};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{
        blocking,
        redis::{Server, Trouble, whereabouts},
    },
    operation::{Answer, Context, Probe, Unmeasured},
};

const NAME: &str = <RedisStatus as Operation>::NAME;
/// Share of a bound from which it is critical, where neither that nor a higher warning is given.
const CRITICAL_PERCENT: f64 = 98.0;
/// Where most defaults come from.
const ALERTS: &str = "awesome-prometheus-alerts";
/// The sets that kombu keeps at a broker: of the pidbox of every worker, and of the default queue.
const BINDINGS: [&str; 2] = ["_kombu.binding.celery.pidbox", "_kombu.binding.celery"];

/// How a server refuses keys that it does not have itself.
const ELSEWHERE: [&str; 4] = ["MASTERDOWN", "MOVED", "ASK", "CROSSSLOT"];

/// What to do where the server asks for a password.
const PASSWORD: &str = "write it to a file of mode 0600, and name that as password_file of a [[redis]] in \
                        /etc/hostler/stack.toml; `hostler-agent discover` writes the rest";

impl Probe for RedisStatus {
    async fn observe(request: RedisStatusRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let seen = async {
            let mut server = Server::connect(entry).await?;
            look(&mut server, cx.host.clock.now().as_second()).await
        };
        match seen.await {
            Ok(mut seen) => {
                if unlimited(&seen.report) && whereabouts(entry).is_some_and(|at| at.is_here()) {
                    let pid = seen.pid.clone();
                    seen.room = blocking(move || Ok(room(&pid))).await?;
                }
                Ok(judge(&entry.name, seen, &request))
            }
            // That it cannot be used is what was found out.
            Err(trouble) => {
                let name = &entry.name;
                let summary = format!("redis \"{name}\" {trouble}");
                // Without a password nothing was tried that the server could be blamed for.
                let no_password = entry.password_file.is_none();
                let (status, why) = match trouble {
                    Trouble::Denied(_) if no_password => (Status::Unknown, PASSWORD),
                    Trouble::Stack(_) | Trouble::Forbidden(_) => (Status::Unknown, trouble.hint()),
                    _ => (Status::Critical, trouble.hint()),
                };
                let finding = Finding::new(status, name, summary).why(why);
                let finding = finding.next(match trouble {
                    Trouble::Unreachable(_) | Trouble::Silent(_) => {
                        "systemd status redis-server".to_owned()
                    }
                    Trouble::Hung(_) => {
                        whereabouts(entry).map(|place| place.whose()).unwrap_or_default()
                    }
                    _ => String::new(),
                });
                let answer = Answer::unmeasured(finding).evidence("redis", place(&entry.url));
                let why = match trouble {
                    Trouble::Unreachable(_) => Unmeasured::Away,
                    Trouble::Silent(_) => Unmeasured::Silent,
                    Trouble::Hung(_) => Unmeasured::Hung,
                    _ => Unmeasured::Otherwise,
                };
                Ok(Answer { unmeasured: Some(why), ..answer })
            }
        }
    }
}

/// Host, port and database of a URL; nothing of one that cannot be read, since nobody knows what stands
/// where in it.
fn place(url: &str) -> String {
    match url.into_connection_info() {
        Ok(info) => format!("{}, database {}", info.addr(), info.redis_settings().db()),
        Err(_) => "a url that cannot be read".to_owned(),
    }
}

/// What was seen, and what the report has no place for.
#[derive(Debug, Default)]
struct Seen {
    report: Report,
    /// Where it is, and what it was asked.
    asked: String,
    /// Writes are refused while snapshots fail.
    stops_writes: bool,
    /// Its master's address, where it is a replica whose link is down; and whether the data is being
    /// copied meanwhile.
    master_down: Option<(String, bool)>,
    /// What this agent's user may not see, and what is not known without it.
    hidden: Vec<(&'static str, &'static str)>,
    /// The server knows no CONFIG, as some providers have it.
    save_unknown: bool,
    /// Why it serves no keys, where it is a part of a cluster that does not.
    cluster_down: Option<String>,
    /// Good replicas, and how many there must be for a write; that is not always told.
    replicas_short: Option<(u64, Option<u64>)>,
    /// Whether keys can be evicted: a full memory is then what the cache is made for.
    evicts: bool,
    /// Its process, as it says itself.
    pid: String,
    /// Bytes that it can still take where it has no maxmemory; none where nobody can tell.
    room: Option<u64>,
}

async fn look(server: &mut Server, now_s: i64) -> Result<Seen, Trouble> {
    let mut hidden = Vec::new();
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        match server.ask::<String>(&["PING"]).await {
            // Since version 7 it refuses PING as well as writes; INFO says why.
            Err(Trouble::Refused(said)) if said.starts_with("MISCONF") => {}
            // A replica that may not serve old data refuses it, too.
            Err(Trouble::Refused(said)) if said.starts_with("MASTERDOWN") => {}
            Err(Trouble::Forbidden(_)) => {
                hidden.push(("PING", "how fast it answers"));
                break;
            }
            answered => drop(answered?),
        }
        fastest = fastest.min(began.elapsed().as_secs_f64() * 1000.0);
    }
    let info = match server.ask::<String>(&["INFO", "everything"]).await {
        Err(Trouble::Forbidden(_)) => {
            hidden.push(("INFO", "how memory, clients, persistence and replication are"));
            String::new()
        }
        info => info?,
    };
    let mut cluster_down = None;
    let bindings = match server.ask::<u64>(&["EXISTS", BINDINGS[0], BINDINGS[1]]).await {
        Err(Trouble::Refused(said)) if said.starts_with("CLUSTERDOWN") => {
            cluster_down = Some(said);
            0
        }
        // A replica without its master, or a part of a cluster that has these keys elsewhere.
        Err(Trouble::Refused(said)) if ELSEWHERE.iter().any(|e| said.starts_with(e)) => 0,
        Err(Trouble::Forbidden(_) | Trouble::Refused(_)) => {
            hidden.push(("EXISTS", "whether Celery keeps its queues here"));
            0
        }
        bindings => bindings?,
    };
    // Not every user may ask for it, and some providers hide it.
    let mut save_unknown = false;
    let save = match server.ask::<HashMap<String, String>>(&["CONFIG", "GET", "save"]).await {
        Err(Trouble::Forbidden(_)) => {
            hidden.push(("CONFIG GET", "whether it writes snapshots, and refuses writes without"));
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
            Err(Trouble::Forbidden(_)) => {
                hidden.push(("CLUSTER INFO", "whether its cluster serves all keys"));
            }
            said => cluster_down = cluster_fails(&said?),
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
    seen.report.ping_ms = if fastest.is_finite() { fastest } else { 0.0 };
    seen.report.celery_broker = bindings > 0;
    seen.stops_writes = stops;
    seen.save_unknown = save_unknown;
    seen.hidden = hidden;
    if save.values().any(|v| !v.is_empty()) {
        seen.report.snapshot_age_s = info.snapshot_age_s(now_s);
    }
    Ok(seen)
}

/// Whether it says of itself that it has no maxmemory.
fn unlimited(report: &Report) -> bool {
    !report.version.is_empty() && report.max_memory_bytes == 0
}

/// What CLUSTER INFO says against a cluster.
fn cluster_fails(said: &str) -> Option<String> {
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

    fn seen(&self) -> Seen {
        let (hits, misses) = (self.number("keyspace_hits"), self.number("keyspace_misses"));
        let asked = hits.saturating_add(misses);
        let valkey = !self.text("valkey_version").is_empty();
        let report = Report {
            version: match valkey {
                true => self.text("valkey_version"),
                false => self.text("redis_version"),
            }
            .to_owned(),
            flavour: if valkey { "valkey" } else { "redis" }.to_owned(),
            role: self.text("role").to_owned(),
            uptime_s: self.number("uptime_in_seconds"),
            used_memory_bytes: self.number("used_memory"),
            max_memory_bytes: self.number("maxmemory"),
            resident_bytes: self.number("used_memory_rss"),
            eviction_policy: self.text("maxmemory_policy").to_owned(),
            evicted_keys: self.number("evicted_keys"),
            clients: self.number("connected_clients"),
            max_clients: self.number("maxclients"),
            blocked_clients: self.number("blocked_clients"),
            rejected_connections: self.number("rejected_connections"),
            operations_per_s: self.number("instantaneous_ops_per_sec"),
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            hit_percent: (asked > 0).then(|| hits as f64 * 100.0 / asked as f64),
            keys: self.keys(),
            unsaved_changes: self.number("rdb_changes_since_last_save"),
            append_only: self.text("aof_enabled") == "1",
            replicas: u32::try_from(self.number("connected_slaves")).unwrap_or(u32::MAX),
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

#[expect(clippy::cast_precision_loss, reason = "shares of memory and of clients")]
fn judge(name: &str, seen: Seen, request: &RedisStatusRequest) -> Answer<Report> {
    let report = &seen.report;
    let mut findings = Vec::new();
    let config = |pattern: &str| format!("redis config '{pattern}' --server {name}");
    let mut share =
        |subject: &str, part: u64, whole: u64, bounds: Bounds, why: &str, next: &str| {
            if whole == 0 {
                return;
            }
            let percent = part as f64 * 100.0 / whole as f64;
            if let Some(status) = bounds.above(percent) {
                let summary =
                    format!("{percent:.0} % of the {subject} of redis \"{name}\" are used");
                let finding = Finding::new(status, subject, summary).why(why).next(next);
                findings.push(bounds.told(finding, percent, "percent"));
            }
        };
    let bounds = |warning: (&'static str, u32), critical: (&'static str, Option<u32>)| {
        let low = Bound::of(NAME, warning.0, warning.1.into());
        let high = if low.at > CRITICAL_PERCENT { low } else { Bound::fixed(CRITICAL_PERCENT) };
        Bounds::new(low, high.unless(NAME, critical.0, critical.1), ALERTS)
    };
    let policy = &report.eviction_policy;
    let full = match policy.as_str() {
        policy if policy.starts_with("volatile-") && report.max_memory_bytes > 0 => {
            format!("when it is full every write is refused: no key has an expiry ({policy})")
        }
        _ if unlimited(report) => {
            "it has no maxmemory: when its host, or its control group, has no more, the kernel ends it or \
             another"
                .to_owned()
        }
        _ => "when it is full every write is refused".to_owned(),
    };
    let used = report.used_memory_bytes;
    let most = match (report.max_memory_bytes, seen.room) {
        (0, room) => room.map_or(0, |room| used.saturating_add(room)),
        (most, _) => most,
    };
    let limit = Some(most as f64).filter(|_| most > 0 && !seen.evicts);
    let big = format!("redis big-keys {name}");
    // A cache that evicts is full by design.
    if !seen.evicts {
        let bounds = bounds(
            ("memory-warning-percent", request.memory_warning_percent),
            ("memory-critical-percent", request.memory_critical_percent),
        );
        share("memory", used, most, bounds, &full, &big);
    }
    let (clients, most) = (report.clients, report.max_clients);
    let bounds = bounds(
        ("clients-warning-percent", request.clients_warning_percent),
        ("clients-critical-percent", request.clients_critical_percent),
    );
    let refused = "the next ones are refused: on the host `ss -tnp` shows who holds its connections, and \
                   CONFIG SET maxclients allows more";
    share("clients", clients, most, bounds, refused, &config("maxclients"));
    // Those that have a value; they come after the others.
    let mut measured = Vec::new();
    let mut found = |status, subject: &str, summary: String, why: &str, next: &str| {
        findings.push(Finding::new(status, subject, summary).why(why).next(next));
    };
    let journal = "journal read --unit redis-server --lines 50";
    if report.snapshot_status == "err" {
        let why = match seen.stops_writes {
            true => "until one succeeds every write is refused",
            false => "after a crash everything since the last good one is lost",
        };
        let summary = format!("the last snapshot of redis \"{name}\" failed");
        found(Status::Critical, "snapshot", summary, why, journal);
    }
    if let Some(why) = &seen.cluster_down {
        let summary = format!("the cluster of redis \"{name}\" does not serve");
        found(Status::Critical, "cluster", summary, why, journal);
    }
    if let Some((good, needed)) = &seen.replicas_short {
        let needed = needed.map_or("more are needed".to_owned(), |n| format!("{n} are needed"));
        let summary =
            format!("redis \"{name}\" has {good} good replicas, and {needed} for a write");
        let why = "every write is refused (min-replicas-to-write)";
        found(Status::Critical, "replicas", summary, why, &config("min-*"));
    }
    if report.append_status == "err" {
        let summary = format!("redis \"{name}\" cannot write its append-only file");
        found(Status::Critical, "append-only file", summary, "writes are refused", journal);
    }
    match &seen.master_down {
        Some((master, true)) => {
            let summary = format!("redis \"{name}\" copies the data of its master {master}");
            let why = "until it has, what it answers is old, or it answers nothing: wait, or send reads \
                       to its master meanwhile";
            found(Status::Warning, "replication", summary, why, journal);
        }
        Some((master, false)) => {
            let summary = format!("redis \"{name}\" has lost its master {master}");
            let why = "what it answers gets older and older";
            found(Status::Critical, "replication", summary, why, journal);
        }
        None => {}
    }
    for peer in report.replication.iter().filter(|_| seen.master_down.is_none()) {
        let (role, at) = (&peer.role, &peer.peer);
        let why = match role.as_str() {
            "master" => "what it answers may be old; look at its master, and at the way to it",
            _ => {
                "what that one answers is old, and it would be lost if it took over; look at it there, \
                 and at the way to it"
            }
        };
        let silent = peer.silent_s.filter(|s| *s >= u64::from(request.lag_warning_s));
        if let Some(silent) = silent {
            let summary =
                format!("redis \"{name}\" has not heard from its {role} {at} for {silent} s");
            let bound = Bound::of(NAME, "lag-warning-s", request.lag_warning_s.into());
            let finding =
                Finding::new(Status::Warning, at, summary).why(why).next("host network-io");
            measured.push(Bounds::warning(bound, "").told(finding, silent as f64, "s"));
        }
        if role == "replica" && peer.state == "copying" {
            let summary = format!("replica {at} of redis \"{name}\" copies the data");
            found(Status::Warning, at, summary, "it cannot take over before it has: wait", journal);
        }
    }
    for (command, what) in &seen.hidden {
        let summary = format!("redis \"{name}\" does not allow {command} to the agent");
        let why = format!("{what} is not known without it; docs/checks.md has the ACL");
        found(Status::Unknown, command, summary, &why, "");
    }
    let old = Bound::of(NAME, "snapshot-s", request.snapshot_s.into());
    let old = Bounds::critical(old, "awesome-prometheus-alerts (48 h)");
    if let Some(age) = report.snapshot_age_s.filter(|_| !report.append_only).map(|age| age as f64)
        && let Some(status) = old.above(age)
        && report.unsaved_changes > 0
    {
        let summary = format!("the last snapshot of redis \"{name}\" is {} old", amount::span(age));
        let why = "a crash loses every change since";
        let finding = Finding::new(status, "snapshot", summary).why(why).next(journal);
        measured.push(old.told(finding, age, "s"));
    }
    if report.celery_broker && policy.as_str() != "noeviction" && report.max_memory_bytes > 0 {
        let summary =
            format!("redis \"{name}\" holds Celery's queues and may evict them ({policy})");
        let why = "tasks, and the bindings through which they are sent, vanish without a trace";
        found(Status::Warning, "eviction", summary, why, &config("maxmemory*"));
    }
    let wasted = report.resident_bytes.saturating_sub(report.used_memory_bytes);
    let bound = Bound::of(NAME, "fragmentation-percent", request.fragmentation_percent.into());
    let larger = Bounds::warning(bound, "");
    if let Some(percent) = report.fragmentation_percent.filter(|_| wasted > request.wasted_bytes)
        && let Some(status) = larger.above(percent)
    {
        let summary = format!("redis \"{name}\" wastes {} MiB by fragmentation", wasted >> 20);
        let why = "its process is larger than maxmemory says: activedefrag, MEMORY PURGE in redis-cli, or a \
                   restart gives it back";
        let finding = Finding::new(status, "fragmentation", summary).why(why);
        measured.push(larger.told(finding.next(config("activedefrag")), percent, "percent"));
    }
    if seen.save_unknown {
        let summary = format!("whether redis \"{name}\" writes snapshots cannot be told");
        found(Status::Ok, "snapshot", summary, "it knows no CONFIG GET", "");
    }
    if unlimited(report) {
        let summary = format!("redis \"{name}\" has no maxmemory");
        let why = match seen.room {
            Some(room) => {
                format!("it may take all that its host leaves it, {} now", amount::size(room))
            }
            None => "what its host has left is not seen from here: when it runs out cannot be told"
                .to_owned(),
        };
        found(Status::Ok, "memory", summary, &why, "redis config 'maxmemory*'");
    }
    let mib = report.used_memory_bytes as f64 / f64::from(1 << 20);
    let summary = match report.version.is_empty() {
        true => format!("redis \"{name}\" answers"),
        false => format!(
            "{} {} ({}), {mib:.1} MiB, {} clients, {} keys",
            report.flavour, report.version, report.role, report.clients, report.keys
        ),
    };
    let used = report.used_memory_bytes as f64;
    let (clients, most, rate) =
        (report.clients as f64, report.max_clients as f64, report.operations_per_s as f64);
    findings.extend(measured);
    let answer = Answer::ok(summary, seen.report).evidence("redis", seen.asked);
    let answer = match seen.room {
        Some(_) => answer.evidence("file", "/proc/meminfo, memory.max of its control group"),
        None => answer,
    };
    let notable = findings.iter().any(|f| f.status() != Status::Ok);
    if answer.data.version.is_empty() {
        return findings.into_iter().fold(answer, Answer::finding).summed_up();
    }
    let mut answer = answer
        .figure("memory", "", used, "bytes")
        .figure("clients", "", clients, "")
        .figure("operations", "", rate, "/s");
    if let Some(figure) = answer.figures.first_mut() {
        figure.limit = limit;
    }
    if let Some(figure) = answer.figures.get_mut(1) {
        figure.limit = Some(most);
    }
    let answer = findings.into_iter().fold(answer, Answer::finding);
    if notable { answer.summed_up() } else { answer }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
