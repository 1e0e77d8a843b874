//! `host.resources`: how busy the machine is, over an interval.

use std::time::Duration;

use hostler_proto::{
    operation::{HostResources, Operation},
    ops,
    wire::{ErrorCode, Failure, Finding},
};
use tokio::time::Instant;

use super::facts::{meminfo, online};
use crate::{
    bounds::{Bound, Bounds},
    host::kernel,
    operation::{Answer, Context, Probe},
};

/// Where most defaults come from.
const ALERTS: &str = "awesome-prometheus-alerts (warning)";

impl Probe for HostResources {
    async fn observe(
        request: ops::HostResourcesRequest,
        cx: &Context,
    ) -> Result<Answer<ops::HostResources>, Failure> {
        let (before, began) = (kernel("/proc/stat")?, Instant::now());
        if !cx.pause(Duration::from_secs(request.interval_s.into())).await {
            return Err(Failure::new(ErrorCode::Cancelled, "host.resources was cancelled"));
        }
        let (after, window) = (kernel("/proc/stat")?, began.elapsed());
        let (memory, load) = (kernel("/proc/meminfo")?, kernel("/proc/loadavg")?);
        let mut load = load.split_whitespace().map(|l| l.parse().unwrap_or(0.0));
        let shares = shares(&before, &after);
        let swap = meminfo(&memory, "SwapTotal");
        let data = ops::HostResources {
            cpu_busy_percent: shares.busy,
            cpu_iowait_percent: shares.iowait,
            cpu_steal_percent: shares.steal,
            cpus: online(&after),
            load_1m: load.next().unwrap_or(0.0),
            load_5m: load.next().unwrap_or(0.0),
            load_15m: load.next().unwrap_or(0.0),
            memory_total_bytes: meminfo(&memory, "MemTotal"),
            memory_available_bytes: meminfo(&memory, "MemAvailable"),
            swap_total_bytes: swap,
            swap_used_bytes: swap.saturating_sub(meminfo(&memory, "SwapFree")),
            cpu_pressure_percent: pressure("/proc/pressure/cpu"),
            memory_pressure_percent: pressure("/proc/pressure/memory"),
            io_pressure_percent: pressure("/proc/pressure/io"),
            window_s: window.as_secs_f64(),
        };
        Ok(judge(data, &request))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn judge(
    data: ops::HostResources,
    request: &ops::HostResourcesRequest,
) -> Answer<ops::HostResources> {
    let total = data.memory_total_bytes.max(1) as f64;
    let available = data.memory_available_bytes as f64 * 100.0 / total;
    let summary = format!(
        "processor {:.0} % busy, load {:.2}, {available:.0} % of memory available",
        data.cpu_busy_percent, data.load_1m
    );
    let mut findings = Vec::new();
    let mut high = |subject: &str, value: f64, bounds: Bounds, said: String, text: [&str; 2]| {
        if let Some(status) = bounds.above(value) {
            let finding = Finding::new(status, subject, said).why(text[0]).next(text[1]);
            findings.push(bounds.told(finding, value, "percent"));
        }
    };
    let name = <HostResources as Operation>::NAME;
    let bounds = |warning: (&'static str, u32), critical: (&'static str, u32), origin| {
        let bound =
            |(parameter, value): (&'static str, u32)| Bound::of(name, parameter, value.into());
        Bounds::new(bound(warning), bound(critical), origin)
    };
    let memory = bounds(
        ("memory-warning-percent", request.memory_warning_percent),
        ("memory-critical-percent", request.memory_critical_percent),
        ALERTS,
    );
    let text = ["soon the kernel swaps, or ends processes to go on", "host processes --by memory"];
    high(
        "memory",
        100.0 - available,
        memory,
        format!("{available:.1} % of memory is available"),
        text,
    );
    // A check takes it for hard only when it lasts.
    let cpu = bounds(
        ("cpu-warning-percent", request.cpu_warning_percent),
        ("cpu-critical-percent", request.cpu_critical_percent),
        ALERTS,
    );
    let value = data.cpu_busy_percent;
    let text = ["everything on the host waits for its turn", "host processes --by cpu"];
    high("cpu", value, cpu, format!("the processors are busy for {value:.0} %"), text);
    let steal = bounds(
        ("steal-warning-percent", request.steal_warning_percent),
        ("steal-critical-percent", request.steal_critical_percent),
        ALERTS,
    );
    let value = data.cpu_steal_percent;
    let text = ["the machine below is overbooked", "host processes --by cpu"];
    high("steal", value, steal, format!("the hypervisor withholds {value:.0} %"), text);
    if let Some(value) = data.memory_pressure_percent {
        let pressure = bounds(
            ("pressure-warning-percent", request.pressure_warning_percent),
            ("pressure-critical-percent", request.pressure_critical_percent),
            "",
        );
        let text = ["the host spends its time on making room", "host processes --by memory"];
        high(
            "memory pressure",
            value,
            pressure,
            format!("work waited for memory for {value:.0} %"),
            text,
        );
    }
    let (busy, load) = (data.cpu_busy_percent, data.load_1m);
    let free = data.memory_available_bytes as f64;
    let answer = Answer::ok(summary, data)
        .evidence("file", "/proc/stat, /proc/meminfo, /proc/loadavg, /proc/pressure")
        .figure("cpu_busy", "", busy, "percent")
        .figure("load_1m", "", load, "")
        .figure("memory_available", "", free, "bytes");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

struct Shares {
    busy: f64,
    iowait: f64,
    steal: f64,
}

/// Shares of the time between two readings of /proc/stat (proc(5): user nice system idle iowait
/// irq softirq steal, in ticks).
fn shares(before: &str, after: &str) -> Shares {
    let read = |text: &str| -> Vec<u64> {
        let line = text.lines().next().unwrap_or_default();
        line.split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap_or(0)).collect()
    };
    let (before, after) = (read(before), read(after));
    // Counters of a guest can go back a little; that counts as nothing.
    let spent: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a.saturating_sub(*b)).collect();
    let total = spent.iter().sum::<u64>().max(1);
    #[expect(clippy::cast_precision_loss, reason = "ticks of an interval are far below 2^52")]
    let percent = |ticks: u64| ticks as f64 * 100.0 / total as f64;
    let at = |i: usize| spent.get(i).copied().unwrap_or(0);
    Shares {
        busy: percent(total.saturating_sub(at(3) + at(4))),
        iowait: percent(at(4)),
        steal: percent(at(7)),
    }
}

/// The 10 s average of "some", where the kernel measures it.
fn pressure(path: &str) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next()?.split_whitespace().find_map(|w| w.strip_prefix("avg10=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;

    use super::*;
    use crate::operation::completed;

    #[test]
    fn shares_are_those_of_the_interval_and_a_counter_that_goes_back_counts_as_nothing() {
        let before = "cpu  100 0 100 800 50 0 0 10 0 0\ncpu0 1\n";
        let after = "cpu  150 0 100 840 60 0 0 9 0 0\n";
        let shares = shares(before, after);
        assert!((shares.busy - 50.0).abs() < 0.01, "{}", shares.busy);
        assert!((shares.iowait - 10.0).abs() < 0.01 && shares.steal.abs() < 0.01);
    }

    #[test]
    fn every_bound_can_be_moved_and_it_is_said_who_moved_it() {
        let data = ops::HostResources {
            cpu_busy_percent: 95.0,
            cpu_steal_percent: 20.0,
            memory_total_bytes: 1000,
            memory_available_bytes: 80,
            memory_pressure_percent: Some(20.0),
            ..Default::default()
        };
        let default = completed::<HostResources>(&Default::default()).expect("defaults");
        let found = judge(data, &default).findings;
        assert!(found.iter().all(|f| f.status() == Status::Warning), "{found:?}");
        let told: Vec<_> = found.iter().map(|f| (f.subject.as_str(), f.source.as_str())).collect();
        let pressure = ("memory pressure", "default");
        assert_eq!(told, [("memory", ALERTS), ("cpu", ALERTS), ("steal", ALERTS), pressure]);
        assert_eq!((found[0].value, found[0].warning), (Some(92.0), Some(90.0)));
        let moved = ops::HostResourcesRequest {
            cpu_critical_percent: 95,
            memory_warning_percent: 93,
            steal_warning_percent: 21,
            pressure_warning_percent: 21,
            ..default
        };
        let found = judge(data, &moved).findings;
        assert_eq!((found.len(), found[0].status()), (1, Status::Critical));
        assert_eq!(found[0].source, format!("{ALERTS} (warning), parameter (critical)"));
    }
}
