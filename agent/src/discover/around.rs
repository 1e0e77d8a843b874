//! What is around the processes that were found: what a stack file may name that is no process.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// Ports at which somebody listens, in containers too, with the unit; none when nobody can tell.
    pub(super) ports: Option<BTreeMap<u16, String>>,
    /// Sockets that have a path, with the unit of who holds them.
    pub(super) sockets: BTreeMap<PathBuf, String>,
    /// The units of the stack file, by their full names there; none when nobody can tell.
    pub(super) units: Option<BTreeMap<String, Known>>,
    /// Applications of the PM2 daemons; none when one of those does not tell.
    pub(super) apps: Option<BTreeSet<String>>,
}

impl Around {
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

fn ports() -> Option<BTreeMap<u16, String>> {
    let listeners = net::listening().ok()?.into_iter().filter(|l| l.protocol == "tcp");
    listeners.map(|l| Some((u16::try_from(l.port).ok()?, l.unit))).collect()
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
