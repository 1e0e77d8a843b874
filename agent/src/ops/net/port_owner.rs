//! `net.port-owner`: who holds a port.

use hostler_proto::{operation::NetPortOwner, ops, wire::Failure};

use super::sockets::listening;
use crate::{
    host::blocking,
    operation::{Answer, Context, Probe},
};

impl Probe for NetPortOwner {
    async fn observe(
        request: ops::NetPortOwnerRequest,
        _: &Context,
    ) -> Result<Answer<ops::NetListeners>, Failure> {
        let mut listeners = blocking(listening).await?;
        listeners.retain(|l| l.port == request.port);
        let summary = match listeners.first() {
            None => format!("nobody holds port {}", request.port),
            Some(first) => format!("port {}: {}", request.port, holder(first)),
        };
        Ok(Answer::ok(summary, ops::NetListeners { listeners })
            .evidence("file", "/proc/net/{tcp,tcp6,udp,udp6}, /proc/*/fd"))
    }
}

/// The holder in the words that one would look for it with.
fn holder(listener: &ops::Listener) -> String {
    let ops::Listener { command, user, unit, pids, .. } = listener;
    match pids.first() {
        None => format!("a process of {user} that this agent may not look into"),
        Some(pid) if unit.is_empty() => format!("{command} (pid {pid}, {user})"),
        Some(pid) => format!("{command} (pid {pid}, {user}) of {unit}"),
    }
}
