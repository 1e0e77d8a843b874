//! `host.resources`: how busy the machine is, over an interval.

use std::time::Duration;

use hostler_proto::{
    finding::above,
    operation::HostResources,
    ops,
    wire::{ErrorCode, Failure, Finding},
};
use tokio::time::Instant;

use super::facts::{meminfo, online};
use crate::{
    host::kernel,
    operation::{Answer, Context, Probe},
};

/// Percent of memory available below which it is a warning, and critical.
const MEMORY_AVAILABLE: (f64, f64) = (10.0, 4.0);
/// Percent of processor time. A check takes it for hard only when it lasts.
const CPU_BUSY: (f64, f64) = (90.0, 99.0);
/// Percent of processor time that the hypervisor withholds.
const STEAL: (f64, f64) = (10.0, 30.0);
/// Percent of time in which some work waited for memory; no published source.
const MEMORY_PRESSURE: (f64, f64) = (10.0, 40.0);

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
        Ok(judge(data))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn judge(data: ops::HostResources) -> Answer<ops::HostResources> {
    let total = data.memory_total_bytes.max(1) as f64;
    let available = data.memory_available_bytes as f64 * 100.0 / total;
    let summary = format!(
        "processor {:.0} % busy, load {:.2}, {available:.0} % of memory available",
        data.cpu_busy_percent, data.load_1m
    );
    let mut findings = Vec::new();
    let (warning, critical) = MEMORY_AVAILABLE;
    if let Some(status) = above(-available, -warning, -critical) {
        let summary = format!("{available:.1} % of memory is available");
        let finding = Finding::new(status, "memory", summary)
            .why("soon the kernel swaps, or ends processes to go on")
            .next("host processes --by memory")
            .measured(available, "percent");
        findings.push(finding.bounds(warning, critical, "awesome-prometheus-alerts (warning)"));
    }
    let mut high =
        |subject: &str, value: f64, bounds: (f64, f64), source: &str, text: [&str; 2]| {
            if let Some(status) = above(value, bounds.0, bounds.1) {
                let summary = format!("{} {value:.0} %", text[0]);
                let finding = Finding::new(status, subject, summary).why(text[1]);
                let finding = finding.next("host processes --by cpu").measured(value, "percent");
                findings.push(finding.bounds(bounds.0, bounds.1, source));
            }
        };
    let alerts = "awesome-prometheus-alerts (warning)";
    let busy = ["the processors are busy for", "everything on the host waits for its turn"];
    high("cpu", data.cpu_busy_percent, CPU_BUSY, alerts, busy);
    let steal = ["the hypervisor withholds", "the machine below is overbooked"];
    high("steal", data.cpu_steal_percent, STEAL, alerts, steal);
    if let Some(pressure) = data.memory_pressure_percent {
        let text = ["work waited for memory for", "the host spends its time on making room"];
        high("memory pressure", pressure, MEMORY_PRESSURE, "default", text);
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
    use super::*;

    #[test]
    fn shares_are_those_of_the_interval_and_a_counter_that_goes_back_counts_as_nothing() {
        let before = "cpu  100 0 100 800 50 0 0 10 0 0\ncpu0 1\n";
        let after = "cpu  150 0 100 840 60 0 0 9 0 0\n";
        let shares = shares(before, after);
        assert!((shares.busy - 50.0).abs() < 0.01, "{}", shares.busy);
        assert!((shares.iowait - 10.0).abs() < 0.01 && shares.steal.abs() < 0.01);
    }
}
