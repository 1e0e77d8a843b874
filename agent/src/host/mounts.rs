//! Mounted file systems, from /proc/self/mountinfo.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
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
/// (bind mounts) the shortest path stays. One that others cover is left out: its path leads to those.
/// Blocks for about a millisecond.
///
/// # Errors
/// When /proc cannot be read.
pub fn mounts() -> Result<Vec<Mount>, Failure> {
    let read = table()?;
    let mut mounts: Vec<Mount> = read
        .iter()
        .filter_map(|m| {
            let device = m.mount_source.clone().unwrap_or_default();
            let networked = NETWORKED.contains(&m.fs_type.as_str());
            // A file that is mounted over another is no place to look for space. What somebody else
            // serves is not looked at here: whoever does may be gone.
            let served = networked || m.fs_type.starts_with("fuse");
            let stored = device.starts_with('/') && (served || !m.mount_point.is_file());
            let root = m.mount_point == Path::new("/");
            let counts = (networked || stored || root) && !is_covered(m, &read);
            counts.then(|| Mount {
                point: m.mount_point.to_string_lossy().into_owned(),
                device,
                kind: m.fs_type.clone(),
                sealed: m.super_options.contains_key("ro"),
                read_only: m.mount_options.contains_key("ro") || m.super_options.contains_key("ro"),
                number: m.majmin.clone(),
            })
        })
        .collect();
    mounts.sort_by(|a, b| (a.point.len(), &a.point).cmp(&(b.point.len(), &b.point)));
    let mut seen = HashSet::new();
    mounts.retain(|m| seen.insert((m.number.clone(), m.device.clone())));
    Ok(mounts)
}

/// Whether a path leads to another mount than to the one that is there: one that was mounted over it or
/// over a directory above it, and not below the one that it belongs to.
fn is_covered(mount: &MountInfo, table: &[MountInfo]) -> bool {
    let mut line = HashSet::from([mount.mnt_id]);
    let mut above = mount.pid;
    while let Some(next) = table.iter().find(|m| m.mnt_id == above)
        && line.insert(next.mnt_id)
    {
        above = next.pid;
    }
    table.iter().any(|m| !line.contains(&m.mnt_id) && mount.mount_point.starts_with(&m.mount_point))
}

/// Which of some directories lie on a file system, by its number. Only the kernel's table is asked: what
/// lies on a network mount is not touched. A link counts as where it is.
///
/// # Errors
/// When /proc cannot be read.
pub fn on(number: &str, directories: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let table = table()?;
    let lies = |path: &&PathBuf| {
        let over = table.iter().filter(|m| path.starts_with(&m.mount_point));
        // Of several mounts at one place the last one counts.
        over.max_by_key(|m| m.mount_point.as_os_str().len()).is_some_and(|m| m.majmin == number)
    };
    Ok(directories.iter().filter(lies).cloned().collect())
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
    fn a_mount_that_another_one_covers_is_not_where_its_path_leads() {
        let mount = |id: i32, pid: i32, point: &str| {
            let line = format!("{id} {pid} 8:{id} / {point} rw - ext4 /dev/sd{id} rw");
            MountInfo::from_line(&line).expect("a line")
        };
        let table = [
            mount(1, 0, "/"),
            mount(2, 1, "/mnt"),
            mount(3, 2, "/mnt/below"),
            // Over /mnt, and hence over what lies below that.
            mount(4, 2, "/mnt"),
            mount(5, 4, "/mnt/above"),
            mount(6, 1, "/mntx"),
        ];
        let covered: Vec<_> =
            table.iter().filter(|m| is_covered(m, &table)).map(|m| m.mnt_id).collect();
        assert_eq!(covered, [2, 3]);
    }

    #[test]
    fn a_directory_lies_on_the_nearest_mount_above_it() {
        let mounts = mounts().expect("read");
        let Some(root) = mounts.iter().find(|m| m.point == "/") else { return };
        let directories = [PathBuf::from("/etc"), PathBuf::from("/proc/self")];
        assert_eq!(on(&root.number, &directories).expect("read"), [PathBuf::from("/etc")]);
    }

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
