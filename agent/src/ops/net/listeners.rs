//! `net.listeners`: every socket that waits for others.

use hostler_proto::{operation::NetListeners, ops, wire::Failure};

use super::sockets::listening;
use crate::{
    host::blocking,
    operation::{Answer, Context, Probe},
};

impl Probe for NetListeners {
    async fn observe(
        request: ops::NetListenersRequest,
        _: &Context,
    ) -> Result<Answer<ops::NetListeners>, Failure> {
        let mut listeners = blocking(listening).await?;
        listeners.retain(|l| request.protocol == "all" || l.protocol == request.protocol);
        let open = listeners.iter().filter(|l| !is_local(&l.address)).count();
        let summary = format!("{} sockets, {open} of them reachable from outside", listeners.len());
        Ok(Answer::ok(summary, ops::NetListeners { listeners })
            .evidence("file", "/proc/net/{tcp,tcp6,udp,udp6}, /proc/*/fd"))
    }
}

fn is_local(address: &str) -> bool {
    address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
