//! `host.network-io`: what network interfaces and connections do, over an interval.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use hostler_proto::{
    operation::HostNetworkIo,
    ops::{ConnectionActivity, HostNetworkIo as Report, HostNetworkIoRequest, InterfaceActivity},
    wire::{ErrorCode, Failure, Finding, Status},
};
use tokio::time::Instant;

use crate::{
    bounds::{Bound, Bounds},
    host::{
        blocking,
        connections::{self, Connection},
        kernel,
        processes::{self, Users},
    },
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Share of packets with errors from which an interface is not well (awesome-prometheus-alerts).
const ERRORS_PERCENT: f64 = 1.0;
/// Connections whose bytes are kept over the interval; they take some five MiB.
const CONNECTIONS: usize = 100_000;

impl Probe for HostNetworkIo {
    async fn observe(
        request: HostNetworkIoRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let earlier = blocking(|| Ok(Earlier::look())).await?;
        let (before, began) = (kernel("/proc/self/net/dev")?, Instant::now());
        if !cx.pause(Duration::from_secs(request.interval_s.into())).await {
            return Err(Failure::new(ErrorCode::Cancelled, "host.network-io was cancelled"));
        }
        let (after, window) = (kernel("/proc/self/net/dev")?, began.elapsed().as_secs_f64());
        let mut report = activity(&before, &after, window);
        let top = request.top as usize;
        let (connections, unseen) = blocking(move || Ok(busiest(earlier, window, top))).await?;
        report.connections = connections;
        let answer = judge(report);
        let unseen = unseen.map(|why| {
            Finding::new(Status::Unknown, "connections", "not every connection was seen").why(why)
        });
        Ok(unseen.into_iter().fold(answer, Answer::finding).unknown_first())
    }
}

/// What had gone through each connection when the interval began.
struct Earlier {
    bytes: HashMap<[u8; 8], (u64, u64)>,
    /// Why not every one is in it.
    unseen: Option<String>,
}

impl Earlier {
    fn look() -> Self {
        let mut bytes = HashMap::new();
        let told = connections::each(|c| {
            bytes.insert(c.cookie, (c.sent, c.received));
            bytes.len() < CONNECTIONS
        });
        let unseen = match told {
            Err(failure) => Some(failure.message),
            Ok(()) if bytes.len() >= CONNECTIONS => {
                Some(format!("there are more than {CONNECTIONS}"))
            }
            Ok(()) => None,
        };
        Self { bytes, unseen }
    }
}

/// The connections through which most went, and why not every one was seen.
fn busiest(earlier: Earlier, window: f64, top: usize) -> (Vec<ConnectionActivity>, Option<String>) {
    let mut found: Vec<(u64, u64, Connection)> = Vec::new();
    let most = |found: &mut Vec<(u64, u64, Connection)>| {
        found.sort_by_key(|(sent, received, _)| Reverse(sent + received));
        found.truncate(top);
    };
    let told = connections::each(|c| {
        let before = earlier.bytes.get(&c.cookie).copied();
        // One that is new began within the interval.
        let (sent, received) = match before {
            None if earlier.unseen.is_some() => return true,
            before => before.unwrap_or_default(),
        };
        let (sent, received) = (c.sent.saturating_sub(sent), c.received.saturating_sub(received));
        if sent + received > 0 {
            found.push((sent, received, c));
            if found.len() > top * 4 {
                most(&mut found);
            }
        }
        true
    });
    most(&mut found);
    let unseen = earlier.unseen.or_else(|| told.err().map(|failure| failure.message));
    if found.is_empty() {
        return (Vec::new(), unseen);
    }
    let (holders, users) = (processes::sockets(), Users::read());
    let activity = |(sent, received, c): (u64, u64, Connection)| {
        let pid = holders.get(&c.inode).and_then(|pids| pids.first()).copied();
        let process = pid.and_then(processes::one);
        let (command, unit) = process.map(|p| (p.command, p.unit)).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "bytes of a minute at most")]
        let rate = |bytes: u64| bytes as f64 / window;
        ConnectionActivity {
            local: c.local.to_string(),
            remote: c.remote.to_string(),
            sent_bytes_per_s: rate(sent),
            received_bytes_per_s: rate(received),
            command,
            pid: pid.unwrap_or(0),
            unit,
            user: users.name(c.uid),
        }
    };
    (found.into_iter().map(activity).collect(), unseen)
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
    interfaces.order_by(|a, b| busy(b).total_cmp(&busy(a)).then(a.interface.cmp(&b.interface)));
    Report { interfaces, window_s: window, ..Report::default() }
}

fn judge(report: Report) -> Answer<Report> {
    let mut findings = Vec::new();
    let bounds = Bounds::warning(Bound::fixed(ERRORS_PERCENT), "awesome-prometheus-alerts");
    for interface in &report.interfaces {
        let per_s = interface.received_packets_per_s + interface.sent_packets_per_s;
        #[expect(clippy::cast_precision_loss, reason = "packets of an interval")]
        let share = interface.errors as f64 * 100.0 / (per_s * report.window_s).max(1.0);
        if interface.errors > 0 && share >= ERRORS_PERCENT {
            let name = &interface.interface;
            let summary = format!("{share:.1} % of the packets of {name} have errors");
            let finding = Finding::new(Status::Warning, name, summary)
                .why(
                    "a cable, a port or a driver is bad: connections are slow; ethtool -S has more",
                )
                .next(format!("journal read --match {name} --boot"));
            findings.push(bounds.told(finding, share, "percent"));
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
    let answer = Answer::ok(summary, report)
        .evidence("file", "/proc/self/net/dev")
        .evidence("netlink", "sock_diag: TCP sockets with tcp_info");
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

    #[test]
    fn connections_are_listed_by_what_went_through_them_in_the_interval_with_their_process() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut here = std::net::TcpStream::connect(address).expect("connected");
        let (mut there, _) = listener.accept().expect("accepted");
        let mut send = |bytes: usize| {
            here.write_all(&vec![7; bytes]).expect("sent");
            there.read_exact(&mut vec![0; bytes]).expect("received");
        };
        send(30_000);
        let earlier = Earlier::look();
        send(20_000);
        let (found, unseen) = busiest(earlier, 2.0, 200);
        assert_eq!(unseen, None);
        let ours = found.iter().find(|c| c.local == address.to_string()).expect("listed");
        assert!((ours.received_bytes_per_s - 10_000.0).abs() < 0.1, "{ours:?}");
        assert_eq!(ours.pid, std::process::id());
        assert!(found.is_sorted_by_key(|c| -(c.received_bytes_per_s + c.sent_bytes_per_s)));
    }
}
