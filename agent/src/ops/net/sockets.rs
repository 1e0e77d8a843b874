//! Listening sockets with who holds them, read from /proc/net and /proc/*/fd.

use std::{collections::BTreeMap, net::SocketAddr};

use hostler_proto::{
    ops::Listener,
    wire::{ErrorCode, Failure},
};
use procfs::net::{TcpState, UdpState};

use crate::host::processes::{self, Users};

/// Every listening TCP and every bound, unconnected UDP socket, by port. Sockets that share an
/// address (`SO_REUSEPORT`) and a user are one entry. Blocks for some milliseconds.
///
/// # Errors
/// When /proc/net cannot be read.
pub(crate) fn listening() -> Result<Vec<Listener>, Failure> {
    let mut found: BTreeMap<(u16, &str, SocketAddr, u32), Vec<u64>> = BTreeMap::new();
    let mut add = |protocol, address: SocketAddr, uid, inode| {
        found.entry((address.port(), protocol, address, uid)).or_default().push(inode);
    };
    // A host without IPv6 has no files for it.
    for socket in readable(procfs::net::tcp())?.into_iter().chain(optional(procfs::net::tcp6())?) {
        if socket.state == TcpState::Listen {
            add("tcp", socket.local_address, socket.uid, socket.inode);
        }
    }
    for socket in readable(procfs::net::udp())?.into_iter().chain(optional(procfs::net::udp6())?) {
        if socket.state != UdpState::Established {
            add("udp", socket.local_address, socket.uid, socket.inode);
        }
    }
    let (holders, users) = (processes::sockets(), Users::read());
    Ok(found
        .into_iter()
        .map(|((port, protocol, address, uid), inodes)| {
            let held = inodes.iter().filter_map(|inode| holders.get(inode)).flatten();
            let mut pids: Vec<u32> = held.copied().collect();
            pids.sort_unstable();
            pids.dedup();
            let first = pids.first().and_then(|pid| processes::one(*pid));
            let (command, unit) = first.map(|p| (p.command, p.unit)).unwrap_or_default();
            Listener {
                protocol: protocol.to_owned(),
                address: address.ip().to_string(),
                port: port.into(),
                pids,
                command,
                unit,
                user: users.name(uid),
            }
        })
        .collect())
}

fn readable<T>(sockets: procfs::ProcResult<T>) -> Result<T, Failure> {
    sockets.map_err(|e| {
        Failure::new(
            ErrorCode::HostFault,
            format!("the kernel's list of sockets cannot be read: {e}"),
        )
        .hint("is /proc mounted for the agent?")
    })
}

fn optional<T: Default>(sockets: procfs::ProcResult<T>) -> Result<T, Failure> {
    match sockets {
        Err(procfs::ProcError::NotFound(_)) => Ok(T::default()),
        other => readable(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_sockets_are_listed_with_their_process() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let listeners = listening().expect("read");
        for (protocol, port) in [
            ("tcp", tcp.local_addr().expect("address").port()),
            ("udp", udp.local_addr().expect("address").port()),
        ] {
            let found = listeners
                .iter()
                .find(|l| l.protocol == protocol && l.port == u32::from(port))
                .expect("listed");
            assert_eq!(found.pids, [std::process::id()]);
            assert_eq!(found.address, "127.0.0.1");
            assert!(!found.command.is_empty());
        }
    }
}
