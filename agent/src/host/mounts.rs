//! Mounted file systems, from /proc/self/mountinfo.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use hostler_proto::wire::{ErrorCode, Failure};
use procfs::process::{MountInfo, Process};

/// File systems of networks, which have no block device and yet hold files.
const NETWORKED: [&str; 9] =
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "virtiofs", "zfs"];

/// A mounted file system that is backed by storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: String,
    /// From what.
    pub device: String,
    /// Its type.
    pub kind: String,
    /// Nothing can be written through this mount.
    pub read_only: bool,
    /// Nothing can be written to the file system itself, through whatever mount: so it was mounted
    /// at first, or so the kernel made it after an error.
    pub sealed: bool,
    /// Number of its device, as `stat` gives it for files on it.
    pub number: String,
}

/// The mounts that are backed by storage, each file system once: of several mounts of the same one
/// (bind mounts) the shortest path stays. Blocks for about a millisecond.
///
/// # Errors
/// When /proc cannot be read.
pub fn mounts() -> Result<Vec<Mount>, Failure> {
    let read = table()?;
    let mut mounts: Vec<Mount> = read
        .into_iter()
        .filter_map(|m| {
            let device = m.mount_source.unwrap_or_default();
            let networked = NETWORKED.contains(&m.fs_type.as_str());
            // A file that is mounted over another is no place to look for space. A network mount is
            // not looked at here: its server may be gone.
            let stored = !networked && device.starts_with('/') && !m.mount_point.is_file();
            let root = m.mount_point == Path::new("/");
            (networked || stored || root).then(|| Mount {
                point: m.mount_point.to_string_lossy().into_owned(),
                device,
                kind: m.fs_type,
                sealed: m.super_options.contains_key("ro"),
                read_only: m.mount_options.contains_key("ro") || m.super_options.contains_key("ro"),
                number: m.majmin,
            })
        })
        .collect();
    mounts.sort_by(|a, b| (a.point.len(), &a.point).cmp(&(b.point.len(), &b.point)));
    let mut seen = HashSet::new();
    mounts.retain(|m| seen.insert((m.number.clone(), m.device.clone())));
    Ok(mounts)
}

fn table() -> Result<Vec<MountInfo>, Failure> {
    Process::myself().and_then(|p| p.mountinfo()).map(|m| m.0).map_err(|e| {
        let message = format!("/proc/self/mountinfo cannot be read: {e}");
        Failure::new(ErrorCode::HostFault, message).hint("is /proc mounted for the agent?")
    })
}

/// The file system of a path, as far as mounts show it.
#[derive(Debug)]
pub struct Around {
    /// Numbers of all mounts of that file system.
    pub ids: HashSet<i32>,
    /// Where other file systems are mounted below the path.
    pub others_below: Vec<String>,
}

/// Looks around a path that holds no link.
///
/// # Errors
/// When /proc cannot be read.
pub fn around(path: &Path) -> Result<Around, Failure> {
    let table = table()?;
    // Of several mounts at one place the last one counts.
    let own = table.iter().filter(|m| path.starts_with(&m.mount_point));
    let own = own.max_by_key(|m| m.mount_point.as_os_str().len()).map(|m| m.majmin.clone());
    let same = |m: &&MountInfo| Some(&m.majmin) == own.as_ref();
    let below = table.iter().map(|m| &m.mount_point).filter(|p| *p != path && p.starts_with(path));
    let others: BTreeSet<String> = below.map(|p| p.to_string_lossy().into_owned()).collect();
    Ok(Around {
        ids: table.iter().filter(same).map(|m| m.mnt_id).collect(),
        others_below: others.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_system_is_listed_once_and_none_that_lives_in_memory() {
        let mounts = mounts().expect("read");
        let mut devices: Vec<_> = mounts.iter().map(|m| (&m.number, &m.device)).collect();
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), mounts.len());
        assert!(mounts.iter().all(|m| m.kind != "tmpfs" && m.kind != "proc"));
    }
}
