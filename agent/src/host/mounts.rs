//! Mounted file systems, from /proc/self/mountinfo.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use crate::order::Order as _;
use hostler_proto::wire::{ErrorCode, Failure};
use procfs::process::{MountInfo, Process};

/// File systems that hold files and have no block device of this host: those of networks and of clusters.
const NETWORKED: [&str; 20] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
    "virtiofs",
    "zfs",
];
/// What programs serve with FUSE is storage, but for these: they show something else as files, or once
/// more what is stored elsewhere.
const SHOWN: [&str; 8] = [
    "fuse-overlayfs",
    "gvfsd-fuse",
    "lxcfs",
    "portal",
    "snapfuse",
    "squashfuse",
    "squashfuse_ll",
    "vmware-vmblock",
];
/// File systems in memory below these are no place where programs of the host leave files: they are the
/// kernel's, systemd's, of one login, or of containers.
const NO_PLACE: [&str; 13] = [
    "/proc",
    "/run/containerd",
    "/run/containers",
    "/run/credentials",
    "/run/docker",
    "/run/host",
    "/run/netns",
    "/run/snapd",
    "/run/user",
    "/sys",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
];

/// A mounted file system that files are left on.
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

/// The mounts that are backed by storage, or by memory where programs leave files, each file system once: of several mounts of the same one
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
            (holds_files(m) && !is_covered(m, &read)).then(|| Mount {
                point: m.mount_point.to_string_lossy().into_owned(),
                device,
                kind: m.fs_type.clone(),
                sealed: m.super_options.contains_key("ro"),
                read_only: m.mount_options.contains_key("ro") || m.super_options.contains_key("ro"),
                number: m.majmin.clone(),
            })
        })
        .collect();
    mounts.order_by(|a, b| (a.point.len(), &a.point).cmp(&(b.point.len(), &b.point)));
    let mut seen = HashSet::new();
    mounts.retain(|m| seen.insert((m.number.clone(), m.device.clone())));
    Ok(mounts)
}

/// Whether files are left on what is mounted there.
fn holds_files(mount: &MountInfo) -> bool {
    let served =
        ["fuse", "fuseblk"].contains(&mount.fs_type.as_str()) || mount.fs_type.starts_with("fuse.");
    let kind = mount.fs_type.strip_prefix("fuse.").unwrap_or(&mount.fs_type);
    if served && (SHOWN.contains(&kind) || kind.ends_with(".AppImage")) {
        return false;
    }
    // What somebody else serves is not looked at here: whoever does may be gone.
    if served || NETWORKED.contains(&kind) || mount.mount_point == Path::new("/") {
        return true;
    }
    let stored = match kind {
        "tmpfs" => {
            let whole = mount.root == "/" && !mount.mount_options.contains_key("ro");
            let dev = mount.mount_point == Path::new("/dev");
            whole && !dev && !NO_PLACE.iter().any(|place| mount.mount_point.starts_with(place))
        }
        _ => mount.mount_source.as_ref().is_some_and(|device| device.starts_with('/')),
    };
    // A file that is mounted over another is no place to look for space.
    stored && !mount.mount_point.is_file()
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
    /// Number of its device, as every mount of it has it, in whatever namespace.
    pub number: Option<String>,
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
    let below = table.iter().map(|m| &m.mount_point).filter(|p| *p != path && p.starts_with(path));
    let others: BTreeSet<String> = below.map(|p| p.to_string_lossy().into_owned()).collect();
    Ok(Around { number: own, others_below: others.into_iter().collect() })
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
    fn whatever_holds_files_counts_and_what_only_looks_like_files_does_not() {
        let holds = |kind: &str, device: &str, point: &str| {
            let line = format!("1 0 0:7 / {point} rw - {kind} {device} rw");
            holds_files(&MountInfo::from_line(&line).expect("a line"))
        };
        for (kind, device) in [
            ("fuse.sshfs", "user@host:/export"),
            ("fuse.glusterfs", "gluster:/volume"),
            ("fuse.ceph-fuse", "ceph-fuse"),
            ("fuse.s3fs", "s3fs"),
            ("fuse.rclone", "remote:bucket"),
            ("fuse.mergerfs", "a:b"),
            ("fuse", "/dev/fuse"),
            ("fuseblk", "/dev/sdb1"),
            ("lustre", "10.0.0.1@tcp:/scratch"),
            ("beegfs", "beegfs_nodev"),
            ("nfs4", "server:/export"),
            ("ext4", "/dev/sda1"),
            ("tmpfs", "tmpfs"),
        ] {
            assert!(holds(kind, device, "/srv/x"), "{kind}");
        }
        // A file would be no place for files: what somebody serves counts without a look at it.
        for kind in ["fuse", "fuse.sshfs", "fuseblk", "nfs4"] {
            assert!(holds(kind, "/dev/sdb1", "/proc/self/mountinfo"), "{kind} was touched");
        }
        assert!(!holds("ext4", "/dev/sda1", "/proc/self/mountinfo"));
        for (kind, device, point) in [
            ("fuse.lxcfs", "lxcfs", "/var/lib/lxcfs"),
            ("fuse.portal", "portal", "/run/user/0/doc"),
            ("fuse.snapfuse", "/var/lib/snapd/snaps/core_1.snap", "/snap/core/1"),
            ("fuse.Tool.AppImage", "Tool.AppImage", "/tmp/.mount_Tool"),
            ("fusectl", "fusectl", "/sys/fs/fuse/connections"),
            ("overlay", "overlay", "/var/lib/docker/overlay2/1/merged"),
            ("tmpfs", "tmpfs", "/run/credentials/a.service"),
            ("tmpfs", "shm", "/var/lib/docker/containers/1/mounts/shm"),
            ("tmpfs", "tmpfs", "/dev"),
        ] {
            assert!(!holds(kind, device, point), "{kind} {point}");
        }
        assert!(["/tmp", "/run", "/run/lock", "/dev/shm"].iter().all(|p| holds("tmpfs", "t", p)));
        let line = "1 0 0:7 /systemd/inaccessible/dir /srv ro - tmpfs tmpfs rw";
        assert!(!holds_files(&MountInfo::from_line(line).expect("a line")), "a part of /run");
    }

    #[test]
    fn a_directory_lies_on_the_nearest_mount_above_it() {
        let mounts = mounts().expect("read");
        let Some(root) = mounts.iter().find(|m| m.point == "/") else { return };
        let directories = [PathBuf::from("/etc"), PathBuf::from("/proc/self")];
        assert_eq!(on(&root.number, &directories).expect("read"), [PathBuf::from("/etc")]);
    }

    #[test]
    fn every_file_system_is_listed_once_and_none_of_the_kernel() {
        let mounts = mounts().expect("read");
        let mut devices: Vec<_> = mounts.iter().map(|m| (&m.number, &m.device)).collect();
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), mounts.len());
        assert!(mounts.iter().all(|m| m.kind != "sysfs" && m.kind != "proc"));
    }
}
