//! Connections that wait until they are accepted, at every socket that listens, as the kernel counts them.
//! Nothing is sent to anybody.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
};

use netlink_packet_sock_diag::{
    inet::{ExtensionFlags, InetResponse, StateFlags},
    unix::{
        self, ShowFlags, UnixResponse,
        nlas::{Nla, UnixDiagName},
    },
};
use rustix::io::Errno;

use super::sock_diag::{tcp, unix as unix_sockets};

/// Those of one socket that are told apart; what waits beyond them is only counted.
const CALLERS: usize = 10_000;

/// What waits at a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Where it listens: an address with its port, or a path.
    pub at: String,
    /// How many wait.
    pub waiting: u32,
    /// How many it lets wait.
    pub room: u32,
    /// Who waits: what no other connection has, or 0 for one of a client that is gone.
    pub callers: Vec<u64>,
}

/// The sockets at which somebody waits, by their inodes.
pub type Backlogs = HashMap<u64, Backlog>;

/// Looks once. Of Unix sockets nothing is known where the kernel does not tell of them. Blocks for some
/// milliseconds.
///
/// # Errors
/// When the kernel does not tell.
pub fn look() -> Result<Backlogs, Errno> {
    let mut found = Backlogs::new();
    let mut listening: Vec<(u64, SocketAddr)> = Vec::new();
    tcp(StateFlags::LISTEN, ExtensionFlags::empty(), 0, |response| {
        let header = &response.header;
        if header.recv_queue > 0 {
            let (inode, address) = (header.inode.into(), local(&response));
            let (waiting, room) = (header.recv_queue, header.send_queue);
            let backlog = Backlog { at: address.to_string(), waiting, room, ..Backlog::default() };
            found.insert(inode, backlog);
            listening.push((inode, address));
        }
        true
    })?;
    for (inode, address) in listening {
        // One that nobody has accepted has no file yet. Its client may have gone meanwhile.
        let unaccepted = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
        let mut callers = Vec::new();
        tcp(unaccepted, ExtensionFlags::empty(), address.port(), |response| {
            let header = &response.header;
            if header.inode == 0 && leads_to(local(&response), address) {
                callers.push(u64::from_ne_bytes(header.socket_id.cookie));
            }
            callers.len() < CALLERS
        })?;
        found.entry(inode).or_default().callers = callers;
    }
    let shown = ShowFlags::NAME | ShowFlags::ICONS | ShowFlags::RQLEN;
    let told = unix_sockets(unix::StateFlags::LISTEN, shown, |response| {
        found.extend(of_unix(&response).map(|b| (response.header.inode.into(), b)));
    });
    match told {
        // Its module is not there.
        Ok(()) | Err(Errno::NOENT) => Ok(found),
        Err(e) => Err(e),
    }
}

fn local(response: &InetResponse) -> SocketAddr {
    let id = &response.header.socket_id;
    SocketAddr::new(id.source_address.to_canonical(), id.source_port)
}

/// Whether a connection to an address comes to who listens at another.
fn leads_to(address: SocketAddr, listens: SocketAddr) -> bool {
    let all = match listens.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && address.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    address.port() == listens.port() && (all || address.ip() == listens.ip())
}

fn of_unix(response: &UnixResponse) -> Option<Backlog> {
    let mut found = Backlog::default();
    for nla in &response.nlas {
        match nla {
            Nla::ReceiveQueueLength(waiting, room) => {
                (found.waiting, found.room) = (*waiting, *room);
            }
            Nla::PendingConnections(clients) => {
                found.callers = clients.iter().take(CALLERS).map(|c| u64::from(*c)).collect();
            }
            Nla::Name(UnixDiagName::Pathname(path)) => {
                found.at = String::from_utf8_lossy(path.as_bytes()).into_owned();
            }
            Nla::Name(UnixDiagName::Abstract(name)) => {
                found.at = format!("@{}", String::from_utf8_lossy(name));
            }
            _ => {}
        }
    }
    (found.waiting > 0).then_some(found)
}

impl Backlog {
    /// How many of those who waited at an earlier look wait still.
    pub fn since(&self, earlier: &Self) -> usize {
        let mut before: BTreeMap<u64, usize> = BTreeMap::new();
        earlier.callers.iter().for_each(|caller| *before.entry(*caller).or_default() += 1);
        let there = self.callers.iter().filter(|caller| {
            before.get_mut(*caller).is_some_and(|left| {
                let waits = *left > 0;
                *left -= usize::from(waits);
                waits
            })
        });
        there.count()
    }

    /// Whether nobody of those who waited at an earlier look was accepted since.
    pub fn took_none_since(&self, earlier: &Self) -> bool {
        !earlier.callers.is_empty() && self.since(earlier) == earlier.callers.len()
    }

    /// Whether no further connection finds room (`sk_acceptq_is_full`).
    pub fn is_full(&self) -> bool {
        self.waiting > self.room
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::*;

    fn at(place: &str) -> Backlog {
        let found = look().expect("the kernel tells");
        found.into_values().find(|b| b.at == place).unwrap_or_default()
    }

    #[test]
    fn who_is_not_accepted_waits_and_who_is_does_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let place = listener.local_addr().expect("an address");
            assert_eq!(at(&place.to_string()), Backlog::default(), "nobody waits");
            let first = TcpStream::connect(place).expect("connected");
            let _second = TcpStream::connect(place).expect("connected");
            let before = at(&place.to_string());
            assert_eq!((before.waiting, before.callers.len()), (2, 2), "{before:?}");
            assert!(before.room > 2 && !before.is_full());
            assert!(at(&place.to_string()).took_none_since(&before));
            // Also when it has given up: it is still in the way of the others.
            drop(first);
            let _third = TcpStream::connect(place).expect("connected");
            let now = at(&place.to_string());
            assert_eq!(
                (now.waiting, now.since(&before), now.took_none_since(&before)),
                (3, 2, true)
            );
            let _accepted = listener.accept().expect("accepted");
            let now = at(&place.to_string());
            assert_eq!((now.since(&before), now.took_none_since(&before)), (1, false));
        }
    }

    #[test]
    fn who_waits_at_a_socket_with_a_path_is_seen_too() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bound");
        let place = path.to_str().expect("text");
        let gone = UnixStream::connect(&path).expect("connected");
        let _stays = UnixStream::connect(&path).expect("connected");
        let before = at(place);
        assert_eq!((before.waiting, before.since(&before)), (2, 2), "{before:?}");
        drop(gone);
        let between = at(place);
        assert_eq!((between.waiting, between.since(&before)), (2, 1), "who it was is not known");
        assert!(at(place).took_none_since(&between), "and one that is gone waits still");
        let _first = listener.accept().expect("accepted");
        let _second = listener.accept().expect("accepted");
        assert_eq!(at(place).since(&between), 0);
    }

    #[test]
    fn connections_of_others_at_the_same_port_are_not_taken_for_its_own() {
        let listens = |ip: &str| format!("{ip}:80").parse::<SocketAddr>().expect("an address");
        for (address, who, leads) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "0.0.0.0", true),
            ("10.0.0.1", "[::]", true),
            ("[::1]", "[::]", true),
            ("[::1]", "0.0.0.0", false),
        ] {
            assert_eq!(leads_to(listens(address), listens(who)), leads, "{address} at {who}");
        }
    }
}
