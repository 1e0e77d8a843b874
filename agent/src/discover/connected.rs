//! What the workers of Celery that run here are connected with, as the kernel tells it.

use std::{collections::HashMap, net::SocketAddr};

use procfs::net::TcpState;

use super::Found;
use crate::host::processes;

/// A connection of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    /// Its application, as it was given to `celery -A`.
    pub(super) app: String,
    /// Its unit.
    pub(super) unit: String,
    /// Its own end.
    pub(super) local: SocketAddr,
    /// The other one.
    pub(super) remote: SocketAddr,
}

impl Connection {
    /// Whether the other end is on this host, as far as the two addresses tell.
    pub(super) fn stays_here(&self) -> bool {
        self.remote.ip().is_loopback() || self.remote.ip() == self.local.ip()
    }
}

impl Found {
    /// Takes the connections of its workers. Blocks on /proc.
    pub(super) fn connect(&mut self) {
        let mut owners = HashMap::new();
        for workers in self.celery.values() {
            for (pid, unit) in &workers.processes {
                let sockets = processes::sockets_of(*pid).into_iter();
                owners.extend(sockets.map(|inode| (inode, (&workers.app, unit))));
            }
        }
        if owners.is_empty() {
            return;
        }
        // A host without IPv6 has no list of it; without one nothing is certain, and nobody is asked.
        let lists = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
        let connections = lists.filter(|c| c.state == TcpState::Established).filter_map(|c| {
            let (app, unit) = owners.get(&c.inode)?;
            let (app, unit) = ((*app).clone(), (*unit).clone());
            Some(Connection {
                app,
                unit,
                local: plain(c.local_address),
                remote: plain(c.remote_address),
            })
        });
        self.connections = connections.collect();
    }
}

/// An address as everybody writes it: sockets of IPv6 have those of IPv4 in a form of their own.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::discover::Workers;

    #[test]
    fn the_connections_of_workers_are_found_and_those_of_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("taken");
        let mut found = Found::default();
        found.connect();
        assert_eq!(found.connections, [], "there are no workers");
        let processes = [(std::process::id(), "shop.service".to_owned())].into();
        let workers = Workers { app: "shop".into(), processes, ..Workers::default() };
        found.celery.insert("shop".into(), workers);
        found.connect();
        let local = stream.local_addr().expect("an address");
        let own = found.connections.iter().find(|c| c.local == local).expect("it is there");
        assert_eq!((own.app.as_str(), own.unit.as_str()), ("shop", "shop.service"));
        assert_eq!(own.remote, listener.local_addr().expect("an address"));
        assert!(own.stays_here());
    }
}
