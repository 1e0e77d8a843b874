//! `redis.status`: how a server is, and whether it would take a write.

use hostler_proto::{
    operation::{Operation, RedisStatus},
    ops::{RedisStatus as Report, RedisStatusRequest},
    wire::{Failure, Figure, Finding, Status},
};

use super::{
    entry, home,
    room::room,
    seen::{Hidden, Seen, look},
    unusable,
};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{
        blocking,
        redis::{Server, whereabouts},
    },
    operation::{Answer, Context, Probe},
};

const NAME: &str = <RedisStatus as Operation>::NAME;
/// Share of a bound from which it is critical, where neither that nor a higher warning is given.
const CRITICAL_PERCENT: f64 = 98.0;
/// Where most defaults come from.
const ALERTS: &str = "awesome-prometheus-alerts";

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
                Ok(judge(&entry.name, &home(entry).log(), seen, &request))
            }
            // That it cannot be used is what was found out.
            Err(trouble) => Ok(unusable(entry, &trouble)),
        }
    }
}

/// Whether it says of itself that it has no maxmemory.
fn unlimited(report: &Report) -> bool {
    report.max_memory_bytes == Some(0)
}

#[expect(clippy::cast_precision_loss, reason = "shares of memory and of clients")]
fn judge(name: &str, log: &str, seen: Seen, request: &RedisStatusRequest) -> Answer<Report> {
    let report = &seen.report;
    let mut findings = Vec::new();
    let config = |pattern: &str| format!("redis config '{pattern}' --server {name}");
    let mut share =
        |subject: &str, part: Option<u64>, whole: u64, bounds: Bounds, why: &str, next: &str| {
            let Some(part) = part.filter(|_| whole > 0) else { return };
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
    let bounded = report.max_memory_bytes.is_some_and(|most| most > 0);
    let full = match policy.as_str() {
        policy if policy.starts_with("volatile-") && bounded => {
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
    let most = match report.max_memory_bytes.filter(|most| *most > 0) {
        Some(most) => most,
        None => seen.room.map_or(0, |room| used.unwrap_or(0).saturating_add(room)),
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
    let (clients, most) = (report.clients, report.max_clients.unwrap_or(0));
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
    if report.snapshot_status == "err" {
        let why = match seen.stops_writes {
            true => "until one succeeds every write is refused",
            false => "after a crash everything since the last good one is lost",
        };
        let summary = format!("the last snapshot of redis \"{name}\" failed");
        found(Status::Critical, "snapshot", summary, why, log);
    }
    if let Some(why) = &seen.cluster_down {
        let summary = format!("the cluster of redis \"{name}\" does not serve");
        found(Status::Critical, "cluster", summary, why, log);
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
        found(Status::Critical, "append-only file", summary, "writes are refused", log);
    }
    match &seen.master_down {
        Some((master, true)) => {
            let summary = format!("redis \"{name}\" copies the data of its master {master}");
            let why = "until it has, what it answers is old, or it answers nothing: wait, or send reads \
                       to its master meanwhile";
            found(Status::Warning, "replication", summary, why, log);
        }
        Some((master, false)) => {
            let summary = format!("redis \"{name}\" has lost its master {master}");
            let why = "what it answers gets older and older";
            found(Status::Critical, "replication", summary, why, log);
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
            found(Status::Warning, at, summary, "it cannot take over before it has: wait", log);
        }
    }
    for Hidden { command, what, said } in &seen.hidden {
        let (summary, why) = match said {
            None => (
                format!("redis \"{name}\" does not allow {command} to the agent"),
                format!("{what} is not known without it; docs/checks.md has the ACL"),
            ),
            Some(said) => (
                format!("redis \"{name}\" answers {command} with an error: {said}"),
                format!("{what} is not known without it"),
            ),
        };
        found(Status::Unknown, command, summary, &why, "");
    }
    let old = Bound::of(NAME, "snapshot-s", request.snapshot_s.into());
    let old = Bounds::critical(old, "awesome-prometheus-alerts (48 h)");
    if let Some(age) =
        report.snapshot_age_s.filter(|_| report.append_only != Some(true)).map(|age| age as f64)
        && let Some(status) = old.above(age)
        && report.unsaved_changes.is_some_and(|changes| changes > 0)
    {
        let summary = format!("the last snapshot of redis \"{name}\" is {} old", amount::span(age));
        let why = "a crash loses every change since";
        let finding = Finding::new(status, "snapshot", summary).why(why).next(log);
        measured.push(old.told(finding, age, "s"));
    }
    if report.celery_broker == Some(true) && policy.as_str() != "noeviction" && bounded {
        let summary =
            format!("redis \"{name}\" holds Celery's queues and may evict them ({policy})");
        let why = "tasks, and the bindings through which they are sent, vanish without a trace";
        found(Status::Warning, "eviction", summary, why, &config("maxmemory*"));
    }
    let wasted = report.resident_bytes.unwrap_or(0).saturating_sub(used.unwrap_or(0));
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
        found(Status::Ok, "memory", summary, &why, &config("maxmemory*"));
    }
    let summary = match (report.version.is_empty(), used) {
        (false, Some(used)) => format!(
            "{} {} ({}), {:.1} MiB, {} clients, {} keys",
            report.flavour,
            report.version,
            report.role,
            used as f64 / f64::from(1 << 20),
            clients.unwrap_or(0),
            report.keys.unwrap_or(0)
        ),
        _ => format!("redis \"{name}\" answers"),
    };
    let most = report.max_clients.map(|most| most as f64);
    let figures = [
        ("memory", used, "bytes", limit),
        ("clients", clients, "", most),
        ("operations", report.operations_per_s, "/s", None),
    ];
    findings.extend(measured);
    let answer = Answer::ok(summary, seen.report).evidence("redis", seen.asked);
    let answer = match seen.room {
        Some(_) => answer.evidence("file", "/proc/meminfo, memory.max of its control group"),
        None => answer,
    };
    let notable = findings.iter().any(|f| f.status() != Status::Ok);
    let figure = |(name, value, unit, limit): (&str, Option<u64>, &str, Option<f64>)| {
        let (name, unit, value) = (name.to_owned(), unit.to_owned(), value? as f64);
        Some(Figure { name, unit, value, limit, ..Figure::default() })
    };
    let figures = figures.into_iter().filter_map(figure).collect();
    let answer = Answer { figures, ..answer };
    let answer = findings.into_iter().fold(answer, Answer::finding);
    if notable { answer.summed_up() } else { answer }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
