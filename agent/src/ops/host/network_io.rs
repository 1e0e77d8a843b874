//! `host.network-io`: what network interfaces do, over an interval.

use std::{collections::HashMap, time::Duration};

use hostler_proto::{
    operation::HostNetworkIo,
    ops::{HostNetworkIo as Report, HostNetworkIoRequest, InterfaceActivity},
    wire::{ErrorCode, Failure, Finding, Status},
};
use tokio::time::Instant;

use crate::{
    host::kernel,
    operation::{Answer, Context, Probe},
};

/// Share of packets with errors from which an interface is not well (awesome-prometheus-alerts).
const ERRORS_PERCENT: f64 = 1.0;

impl Probe for HostNetworkIo {
    async fn observe(
        request: HostNetworkIoRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let (before, began) = (kernel("/proc/self/net/dev")?, Instant::now());
        if !cx.pause(Duration::from_secs(request.interval_s.into())).await {
            return Err(Failure::new(ErrorCode::Cancelled, "host.network-io was cancelled"));
        }
        let (after, window) = (kernel("/proc/self/net/dev")?, began.elapsed().as_secs_f64());
        Ok(judge(activity(&before, &after, window)))
    }
}

/// Eight counters received, eight sent: bytes, packets, errors, drops, and four more.
fn read(text: &str) -> HashMap<&str, Vec<u64>> {
    let mut interfaces = HashMap::new();
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        let counters = counters.split_whitespace().map(|c| c.parse().ok());
        match counters.collect::<Option<Vec<u64>>>() {
            Some(counters) if counters.len() >= 16 => {
                drop(interfaces.insert(name.trim(), counters))
            }
            _ => {}
        }
    }
    interfaces
}

fn activity(before: &str, after: &str, window: f64) -> Report {
    let (before, after) = (read(before), read(after));
    let mut interfaces = Vec::new();
    for (name, now) in after {
        let Some(then) = before.get(name) else { continue };
        let spent = |at: usize| now[at].saturating_sub(then[at]);
        #[expect(clippy::cast_precision_loss, reason = "differences over a minute at most")]
        let rate = |at: usize| spent(at) as f64 / window;
        interfaces.push(InterfaceActivity {
            interface: name.to_owned(),
            received_bytes_per_s: rate(0),
            sent_bytes_per_s: rate(8),
            received_packets_per_s: rate(1),
            sent_packets_per_s: rate(9),
            errors: spent(2) + spent(10),
            drops: spent(3) + spent(11),
        });
    }
    let busy = |i: &InterfaceActivity| i.received_bytes_per_s + i.sent_bytes_per_s;
    interfaces.sort_by(|a, b| busy(b).total_cmp(&busy(a)).then(a.interface.cmp(&b.interface)));
    Report { interfaces, window_s: window }
}

fn judge(report: Report) -> Answer<Report> {
    let mut findings = Vec::new();
    for interface in &report.interfaces {
        let per_s = interface.received_packets_per_s + interface.sent_packets_per_s;
        #[expect(clippy::cast_precision_loss, reason = "packets of an interval")]
        let share = interface.errors as f64 * 100.0 / (per_s * report.window_s).max(1.0);
        if interface.errors > 0 && share >= ERRORS_PERCENT {
            let name = &interface.interface;
            let summary = format!("{share:.1} % of the packets of {name} have errors");
            let finding = Finding::new(Status::Warning, name, summary)
                .why("a cable, a port or a driver is bad: connections are slow")
                .measured(share, "percent");
            findings.push(finding.bounds(ERRORS_PERCENT, 100.0, "awesome-prometheus-alerts"));
        }
    }
    let mbit = |bytes: f64| bytes * 8.0 / 1e6;
    let summary = match report.interfaces.first() {
        None => "there is no network interface".to_owned(),
        Some(busiest) => format!(
            "{} receives {:.2} and sends {:.2} Mbit/s",
            busiest.interface,
            mbit(busiest.received_bytes_per_s),
            mbit(busiest.sent_bytes_per_s)
        ),
    };
    let answer = Answer::ok(summary, report).evidence("file", "/proc/self/net/dev");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame \
                        compressed multicast|bytes packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn rates_are_those_of_the_interval_and_errors_are_told() {
        let before = format!("{HEAD}  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n");
        let after = format!("{HEAD}  eth0: 3000 30 1 2 0 0 0 0 2500 25 0 0 0 0 0 0\n");
        let report = activity(&before, &after, 2.0);
        let interface = &report.interfaces[0];
        assert!((interface.received_bytes_per_s - 1000.0).abs() < 0.01);
        assert_eq!((interface.errors, interface.drops), (1, 2));
        assert_eq!(judge(report).status, Status::Warning);
    }
}
