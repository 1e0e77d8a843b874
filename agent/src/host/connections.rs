//! TCP connections with the bytes that went through each, as the kernel counts them for every
//! socket (sock_diag(7), `tcp_info`). It takes no root.

use std::{net::SocketAddr, time::Duration};

use hostler_proto::wire::{ErrorCode, Failure};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
        netlink::{SOCK_DIAG, SocketAddrNetlink},
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// Where `tcp_info` has the bytes that the other side acknowledged, and after them those that came
/// in: since Linux 4.1. What follows differs from kernel to kernel.
const BYTES: usize = 120;
/// Most that the kernel puts into one message.
const MESSAGE: usize = 64 << 10;
/// The kernel answers at once; this is for what nobody has thought of.
const LONGEST: Duration = Duration::from_secs(5);

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
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        match dump(family, any, &mut each) {
            Ok(true) => {}
            Ok(false) => break,
            // A host without IPv6.
            Err(Errno::NOENT) if family == AF_INET6 => {}
            Err(e) => {
                let message = format!("the kernel does not list connections: {e}");
                return Err(Failure::new(ErrorCode::HostFault, message)
                    .hint("its module tcp_diag is needed"));
            }
        }
    }
    Ok(())
}

/// Whether more are wanted.
fn dump(
    family: u8,
    socket_id: SocketId,
    each: &mut impl FnMut(Connection) -> bool,
) -> Result<bool, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(LONGEST))?;
    // Only the kernel is heard.
    connect(&kernel, &SocketAddrNetlink::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    // One that listens has no bytes, and one that only waits for late packets no owner.
    let idle = StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all() - idle,
        socket_id,
    });
    let mut request = NetlinkMessage::new(header, request.into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    send(&kernel, &bytes, SendFlags::empty())?;
    let mut buffer = vec![0; MESSAGE];
    loop {
        let (_, length) = recv(&kernel, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).ok_or(Errno::MSGSIZE)?;
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(|_| Errno::PROTO)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Errno::from_raw_os_error(error.raw_code().abs()));
                }
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    if let Some(connection) = read(&response)
                        && !each(connection)
                    {
                        return Ok(false);
                    }
                }
                _ => {}
            }
            // Messages begin at multiples of four.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
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
