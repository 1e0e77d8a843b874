//! Mounted file systems, from /proc/self/mountinfo.

use std::{collections::HashSet, path::Path};

use hostler_proto::wire::{ErrorCode, Failure};
use procfs::process::Process;

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
    let read = Process::myself().and_then(|p| p.mountinfo()).map_err(|e| {
        let message = format!("/proc/self/mountinfo cannot be read: {e}");
        Failure::new(ErrorCode::HostFault, message).hint("is /proc mounted for the agent?")
    })?;
    let mut mounts: Vec<Mount> = read
        .into_iter()
        .filter_map(|m| {
            let device = m.mount_source.unwrap_or_default();
            let networked = NETWORKED.contains(&m.fs_type.as_str());
            // A file that is mounted over another is no place to look for space. A network mount is
            // not looked at here: its server may be gone.
            let stored = device.starts_with('/') && !m.mount_point.is_file();
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
