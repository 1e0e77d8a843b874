//! The kernel's own list of sockets (sock_diag(7)): all of one kind, one after the other. It takes no root,
//! and no socket notices.

use std::time::Duration;

use hostler_proto::wire::{ErrorCode, Failure};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{self, ExtensionFlags, InetRequest, InetResponse, SocketId},
    unix::{self, ShowFlags, UnixRequest, UnixResponse},
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

/// Most that the kernel puts into one message.
const MESSAGE: usize = 64 << 10;
/// The kernel answers at once; this is for what nobody has thought of.
const LONGEST: Duration = Duration::from_secs(5);

/// Gives every TCP socket of this network namespace in some states to `each`, until that wants no more; of
/// one local port, unless that is 0. Blocks for some milliseconds.
///
/// # Errors
/// When the kernel does not tell.
pub fn tcp(
    states: inet::StateFlags,
    extensions: ExtensionFlags,
    port: u16,
    mut each: impl FnMut(InetResponse) -> bool,
) -> Result<(), Errno> {
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id: SocketId { source_port: port, ..any },
        });
        let told = dump(request, |message| match message {
            SockDiagMessage::InetResponse(response) => each(*response),
            _ => true,
        });
        match told {
            Ok(true) => {}
            Ok(false) => break,
            // A host without IPv6.
            Err(Errno::NOENT) if family == AF_INET6 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The same of Unix sockets, of a stream or of packets.
///
/// # Errors
/// When the kernel does not tell.
pub fn unix(
    states: unix::StateFlags,
    show_flags: ShowFlags,
    mut each: impl FnMut(UnixResponse),
) -> Result<(), Errno> {
    let request = UnixRequest { state_flags: states, inode: 0, show_flags, cookie: [0xff; 8] };
    dump(SockDiagMessage::UnixRequest(request), |message| {
        if let SockDiagMessage::UnixResponse(response) = message {
            each(*response);
        }
        true
    })
    .map(drop)
}

/// What is said where it does not tell.
pub fn refused(error: Errno) -> Failure {
    let message = format!("the kernel does not list connections: {error}");
    Failure::new(ErrorCode::HostFault, message).hint("its module tcp_diag is needed")
}

/// Whether more are wanted.
fn dump(
    request: SockDiagMessage,
    mut each: impl FnMut(SockDiagMessage) -> bool,
) -> Result<bool, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(LONGEST))?;
    // Only the kernel is heard.
    connect(&kernel, &SocketAddrNetlink::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
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
            // Messages begin at multiples of four.
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Errno::from_raw_os_error(error.raw_code().abs()));
                }
                NetlinkPayload::InnerMessage(socket) => {
                    let more = each(socket);
                    if !more {
                        return Ok(false);
                    }
                }
                _ => {}
            }
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}
