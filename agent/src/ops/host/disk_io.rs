//! `host.disk-io`: what disks do, over an interval.

use std::{collections::HashMap, time::Duration};

use hostler_proto::{
    operation::{HostDiskIo, Operation},
    ops::{DiskActivity, HostDiskIo as Report, HostDiskIoRequest},
    wire::{ErrorCode, Failure, Finding},
};
use tokio::time::Instant;

use crate::{
    bounds::{Bound, Bounds},
    host::kernel,
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Sectors of /proc/diskstats have 512 bytes, whatever the disk's are.
const SECTOR: f64 = 512.0;
/// Requests a second below which the time of one says nothing.
const FEW: f64 = 5.0;

impl Probe for HostDiskIo {
    async fn observe(request: HostDiskIoRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let (before, began) = (kernel("/proc/diskstats")?, Instant::now());
        if !cx.pause(Duration::from_secs(request.interval_s.into())).await {
            return Err(Failure::new(ErrorCode::Cancelled, "host.disk-io was cancelled"));
        }
        let (after, window) = (kernel("/proc/diskstats")?, began.elapsed().as_secs_f64());
        let whole = |name: &str| std::path::Path::new("/sys/block").join(name).exists();
        Ok(judge(activity(&before, &after, window, whole), f64::from(request.slow_ms)))
    }
}

/// The eleven counters that every kernel has (Documentation/admin-guide/iostats.rst).
type Counters = [u64; 11];

fn read(text: &str) -> HashMap<&str, Counters> {
    let line = |line| {
        let mut words = str::split_whitespace(line).skip(2);
        let name = words.next()?;
        let mut counters = [0; 11];
        for counter in &mut counters {
            *counter = words.next()?.parse().ok()?;
        }
        Some((name, counters))
    };
    text.lines().filter_map(line).collect()
}

fn activity(before: &str, after: &str, window: f64, whole: impl Fn(&str) -> bool) -> Report {
    let (before, after) = (read(before), read(after));
    let mut disks = Vec::new();
    for (name, now) in after {
        let unused = now.iter().all(|c| *c == 0);
        let Some(then) = before.get(name).filter(|_| !unused && whole(name)) else { continue };
        // Some counters wrap at 32 bits; such an interval counts as nothing.
        #[expect(clippy::cast_precision_loss, reason = "differences over a minute at most")]
        let spent = |at: usize| now[at].saturating_sub(then[at]) as f64;
        let (reads, writes) = (spent(0), spent(4));
        let requests = reads + writes;
        disks.push(DiskActivity {
            disk: name.to_owned(),
            reads_per_s: reads / window,
            writes_per_s: writes / window,
            read_bytes_per_s: spent(2) * SECTOR / window,
            write_bytes_per_s: spent(6) * SECTOR / window,
            await_s: if requests > 0.0 { (spent(3) + spent(7)) * 1e-3 / requests } else { 0.0 },
            queue: spent(10) / 1000.0 / window,
            busy_percent: (spent(9) / 10.0 / window).min(100.0),
        });
    }
    disks.order_by(|a, b| b.busy_percent.total_cmp(&a.busy_percent).then(a.disk.cmp(&b.disk)));
    Report { disks, window_s: window }
}

fn judge(report: Report, slow_ms: f64) -> Answer<Report> {
    let mut findings = Vec::new();
    let slow = Bound::of(<HostDiskIo as Operation>::NAME, "slow-ms", slow_ms);
    let alerts = "awesome-prometheus-alerts (100 ms)";
    let bounds = Bounds::new(slow.times(1e-3), slow.times(1e-2), alerts);
    for disk in report.disks.iter().filter(|d| d.reads_per_s + d.writes_per_s >= FEW) {
        let took_s = disk.await_s;
        if let Some(status) = bounds.above(took_s) {
            let summary = format!("a request to {} takes {:.0} ms", disk.disk, took_s * 1e3);
            let finding = Finding::new(status, &disk.disk, summary)
                .why("whatever reads or writes there waits as long")
                .next("host processes --by cpu");
            findings.push(bounds.told(finding, took_s, "s"));
        }
    }
    let summary = match report.disks.first() {
        None => "no disk has done anything since the boot".to_owned(),
        Some(busiest) => format!(
            "{} disks; {} is busy for {:.0} % of the time",
            report.disks.len(),
            busiest.disk,
            busiest.busy_percent
        ),
    };
    let figures: Vec<_> = report
        .disks
        .iter()
        .map(|d| (d.disk.clone(), d.read_bytes_per_s + d.write_bytes_per_s))
        .collect();
    let mut answer = Answer::ok(summary, report).evidence("file", "/proc/diskstats");
    for (disk, rate) in figures {
        answer = answer.figure("throughput", &disk, rate, "bytes/s");
    }
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Status;

    use super::*;

    #[test]
    fn rates_are_those_of_the_interval_and_partitions_are_left_out() {
        let before =
            " 8 0 sda 100 0 2000 500 50 0 1000 300 0 400 800\n 8 1 sda1 1 0 1 1 1 0 1 1 0 1 1\n";
        let after = " 8 0 sda 120 0 4000 1500 60 0 3000 2300 0 1400 3800\n 8 1 sda1 2 0 2 2 2 0 2 2 0 2 2\n";
        let report = activity(before, after, 2.0, |name| name == "sda");
        assert_eq!(report.disks.len(), 1);
        let disk = &report.disks[0];
        assert!((disk.reads_per_s - 10.0).abs() < 0.01 && (disk.writes_per_s - 5.0).abs() < 0.01);
        assert!((disk.read_bytes_per_s - 512_000.0).abs() < 0.01);
        assert!((disk.await_s - 0.1).abs() < 1e-5 && (disk.busy_percent - 50.0).abs() < 0.01);
        assert!((disk.queue - 1.5).abs() < 0.01);
        assert_eq!(judge(report.clone(), 100.0).status, Status::Warning);
        assert_eq!(judge(report, 101.0).status, Status::Ok);
    }

    #[test]
    fn a_counter_that_wrapped_counts_as_nothing() {
        let before = " 8 0 sda 100 0 2000 500 50 0 1000 300 0 400 800\n";
        let after = " 8 0 sda 1 0 1 1 1 0 1 1 0 1 1\n";
        let report = activity(before, after, 1.0, |_| true);
        assert!(report.disks[0].reads_per_s.abs() < 0.01);
    }
}
