//! TCP connections with the bytes that went through each, as the kernel counts them for every
//! socket (`tcp_info`).

use std::net::SocketAddr;

use hostler_proto::wire::Failure;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags, nlas::Nla};

use super::sock_diag::{self, tcp};

/// Where `tcp_info` has the bytes that the other side acknowledged, and after them those that came
/// in: since Linux 4.1. What follows differs from kernel to kernel.
const BYTES: usize = 120;

/// A connection at one moment.
#[derive(Debug, Clone)]
pub struct Connection {
    /// What no other socket has.
    pub cookie: [u8; 8],
    /// This side.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// Whose socket it is.
    pub uid: u32,
    /// By which its process is found.
    pub inode: u64,
    /// Bytes that the other side has acknowledged since it began.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
}

/// Gives every connection of this network namespace to `each`, until that wants no more. Blocks for
/// some milliseconds.
///
/// # Errors
/// When the kernel does not tell.
pub fn each(mut each: impl FnMut(Connection) -> bool) -> Result<(), Failure> {
    // One that listens has no bytes, and one that only waits for late packets no owner.
    let idle = StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE;
    tcp(StateFlags::all() - idle, ExtensionFlags::INFO, 0, |response| {
        read(&response).is_none_or(&mut each)
    })
    .map_err(sock_diag::refused)
}

fn read(response: &InetResponse) -> Option<Connection> {
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    })?;
    let counter = |at: usize| {
        let bytes = info.get(at..at + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let header = &response.header;
    let id = &header.socket_id;
    Some(Connection {
        cookie: id.cookie,
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        uid: header.uid,
        inode: header.inode.into(),
        sent: counter(BYTES)?,
        received: counter(BYTES + 8)?,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn bytes_of_a_connection_are_counted_on_both_sides() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut here =
                TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let (mut there, _) = listener.accept().expect("accepted");
            here.write_all(&[7; 50_000]).expect("sent");
            there.read_exact(&mut [0; 50_000]).expect("received");
            let (local, remote) = (here.local_addr().expect("one"), here.peer_addr().expect("two"));
            let mut seen = Vec::new();
            each(|c| {
                if [(local, remote), (remote, local)].contains(&(c.local, c.remote)) {
                    seen.push(c);
                }
                true
            })
            .expect("the kernel tells");
            assert_eq!(seen.len(), 2, "{seen:?}");
            let sent = seen.iter().find(|c| c.local == local).expect("this side");
            let received = seen.iter().find(|c| c.local == remote).expect("that side");
            // The acknowledgement of the last bytes may be on its way.
            assert!((1..=50_001).contains(&sent.sent), "{sent:?}");
            assert_eq!(received.received, 50_000);
            assert!(sent.inode > 0);
        }
    }
}
