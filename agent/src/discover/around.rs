//! What is around the processes that were found: what a stack file may name that is no process.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::Found;
use crate::{
    host::processes,
    ops::{
        net, pm2,
        systemd::{self, Known},
    },
    stack::Stack,
};

/// What is there beside processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    /// Ports at which somebody listens, in containers too; none when nobody can tell.
    pub(super) ports: Option<BTreeMap<u16, Vec<Heard>>>,
    /// Sockets that have a path, with the unit of who holds them.
    pub(super) sockets: BTreeMap<PathBuf, String>,
    /// The units of the stack file, by their full names there; none when nobody can tell.
    pub(super) units: Option<BTreeMap<String, Known>>,
    /// Applications of the PM2 daemons; none when one of those does not tell.
    pub(super) apps: Option<BTreeSet<String>>,
}

/// Who listens at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// Where.
    pub(super) address: String,
    /// The unit; empty where nobody can tell.
    pub(super) unit: String,
}

impl Around {
    /// Who answers at a host of a URL, and a port.
    pub(super) fn heard(&self, host: &str, port: u16) -> Option<&Heard> {
        let heard = self.ports.as_ref()?.get(&port)?;
        heard.iter().find(|heard| reaches(host, &heard.address))
    }

    /// Looks. Asks systemd and the PM2 daemons, and nobody over the network.
    pub(super) async fn look(found: &Found, stack: &Stack) -> Self {
        let looked = tokio::task::spawn_blocking(|| (ports(), sockets())).await;
        let (ports, sockets) = looked.unwrap_or_default();
        let names = stack.units.iter().map(|unit| systemd::full_name(&unit.name));
        let mut apps = Some(BTreeSet::new());
        for home in found.pm2.keys() {
            let told = pm2::names(Path::new(home)).await;
            apps = apps.zip(told).map(|(mut apps, told)| {
                apps.extend(told);
                apps
            });
        }
        Self { ports, sockets, units: systemd::known(names.collect()).await, apps }
    }
}

/// Whether a host of this machine, as a URL names it, leads to whoever listens at an address.
pub(super) fn reaches(host: &str, listens: &str) -> bool {
    let address = |text: &str| {
        let text = text.trim_matches(['[', ']']);
        text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    };
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    match (address(host), address(listens)) {
        _ if host == listens || listens == "*" => true,
        // It takes those of IPv4, too, unless it was told not to.
        (_, Some(IpAddr::V6(all))) if all.is_unspecified() => true,
        (host, Some(all)) if all.is_unspecified() => !host.is_some_and(|host| host.is_ipv6()),
        (Some(host), Some(one)) => host == one,
        (None, Some(one)) => host == "localhost" && loopback.contains(&one),
        (Some(host), None) => listens == "localhost" && loopback.contains(&host),
        (None, None) => false,
    }
}

fn ports() -> Option<BTreeMap<u16, Vec<Heard>>> {
    let mut ports: BTreeMap<u16, Vec<Heard>> = BTreeMap::new();
    for listener in net::listening().ok()?.into_iter().filter(|l| l.protocol == "tcp") {
        let heard = Heard { address: listener.address, unit: listener.unit };
        ports.entry(u16::try_from(listener.port).ok()?).or_default().push(heard);
    }
    Some(ports)
}

fn sockets() -> BTreeMap<PathBuf, String> {
    let entries = procfs::net::unix().unwrap_or_default();
    let holders = processes::sockets();
    let unit = |inode| {
        let pid = holders.get(&inode)?.first()?;
        Some(processes::one(*pid)?.unit)
    };
    let named = entries.into_iter().filter_map(|entry| Some((entry.path?, entry.inode)));
    named.filter_map(|(path, inode)| Some((path, unit(inode)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_at_one_address_is_not_reached_at_another() {
        for (host, listens, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.9.1.1", false),
            ("127.9.1.1", "0.0.0.0", true),
            ("[::1]", "0.0.0.0", false),
            ("127.0.0.1", "::", true),
            ("[::1]", "::1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("localhost", "::1", true),
            ("localhost", "0.0.0.0", true),
            ("localhost", "127.9.1.1", false),
            ("127.0.0.1", "localhost", true),
            ("192.0.2.7", "*", true),
        ] {
            assert_eq!(reaches(host, listens), expected, "{host} {listens}");
        }
    }
}
