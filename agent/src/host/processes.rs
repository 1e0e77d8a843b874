//! Processes and the sockets they hold, read from /proc. Everything here blocks for milliseconds.

use std::{collections::HashMap, os::unix::fs::MetadataExt, sync::LazyLock};

use procfs::process::{FDTarget, Process, all_processes};

/// Kinds of units that have processes.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// A process at one moment.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number.
    pub pid: u32,
    /// The number of the process that made it.
    pub parent: u32,
    /// Its program's name.
    pub command: String,
    /// Its effective user's number.
    pub uid: u32,
    /// The systemd unit it belongs to.
    pub unit: String,
    /// Clock ticks of processor time so far.
    pub ticks: u64,
    /// When it started, in clock ticks since boot: with the pid it is the process.
    pub started: u64,
    /// Resident memory, in bytes.
    pub memory: u64,
    /// Its threads.
    pub threads: u32,
    /// State letter.
    pub state: char,
}

/// Every process that could be read; one that ends meanwhile is left out.
pub fn all() -> Vec<Seen> {
    all_processes().into_iter().flatten().flatten().filter_map(|p| seen(&p)).collect()
}

/// Every process of this host that has a command line, with it. Those of containers are left out: the
/// units, paths and names that they go by are not this host's.
pub fn with_arguments() -> Vec<(Seen, Vec<String>)> {
    let all = all_processes().into_iter().flatten().flatten();
    let read = |p: Process| {
        let arguments = p.cmdline().ok().filter(|a| !a.is_empty())?;
        let seen = seen(&p)?;
        (!in_container(seen.pid)).then_some((seen, arguments))
    };
    all.filter_map(read).collect()
}

/// Whether a process has another number where it lives: in a PID namespace of its own, as every kind of
/// container has one. A mount namespace tells nothing: services of this host have those, too.
pub fn in_container(pid: u32) -> bool {
    // Unlike the namespace itself, everybody may read this of everybody's process.
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

/// The directory that a process works in.
pub fn working_directory(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// One process.
pub fn one(pid: u32) -> Option<Seen> {
    seen(&Process::new(i32::try_from(pid).ok()?).ok()?)
}

/// The state letter of a process; none when it is gone.
pub fn state(pid: u32) -> Option<char> {
    Some(Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?.state)
}

/// When a process began, in seconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "ticks of an uptime are far below 2^52")]
pub fn began_s(process: &Seen) -> Option<f64> {
    let booted = procfs::boot_time_secs().ok()?;
    Some(booted as f64 + process.started as f64 / procfs::ticks_per_second() as f64)
}

fn seen(process: &Process) -> Option<Seen> {
    let stat = process.stat().ok()?;
    let uid = process.uid().unwrap_or(0);
    Some(Seen {
        pid: u32::try_from(stat.pid).ok()?,
        parent: u32::try_from(stat.ppid).unwrap_or(0),
        unit: unit(process),
        uid,
        ticks: stat.utime + stat.stime,
        started: stat.starttime,
        memory: stat.rss.saturating_mul(procfs::page_size()),
        threads: u32::try_from(stat.num_threads).unwrap_or(0),
        state: stat.state,
        command: stat.comm,
    })
}

fn unit(process: &Process) -> String {
    let groups = groups(process);
    let unit = groups.iter().find_map(|group| unit_of(group, &ROOT));
    unit.unwrap_or_default().to_owned()
}

/// The control groups that systemd put a process into: one, but where old and new ones are mixed.
fn groups(process: &Process) -> Vec<String> {
    let groups = process.cgroups().map(|g| g.0).unwrap_or_default().into_iter();
    let systemd = groups
        .filter(|g| g.controllers.is_empty() || g.controllers.iter().any(|c| c == "name=systemd"));
    systemd.map(|group| group.pathname).collect()
}

/// Where this host's own control groups begin: not at the top where it is a container that sees those of its
/// host.
static ROOT: LazyLock<String> = LazyLock::new(|| {
    let first = Process::new(1).map(|first| groups(&first)).unwrap_or_default();
    let root = first.iter().find_map(|group| group.strip_suffix("/init.scope"));
    root.unwrap_or_default().to_owned()
});

/// The unit of this host that a control group belongs to, as `cg_path_get_unit` of systemd has it: the first
/// beneath slices. What is beneath that is no unit of this host: a user's own manager has services there, and
/// a container those of its systemd, which may be called as those of the host are.
fn unit_of<'g>(group: &'g str, root: &str) -> Option<&'g str> {
    let mut parts = group.strip_prefix(root)?.split('/').filter(|part| !part.is_empty());
    // One that is called as a file of the kernel's there has a '_' before it.
    let unit = parts.find(|part| !part.ends_with(".slice"))?;
    let unit = unit.strip_prefix('_').unwrap_or(unit);
    UNITS.iter().any(|kind| unit.ends_with(kind)).then_some(unit)
}

/// Whether a unit is one service, which can be ended and started alone: with a user's own manager ends all that
/// the user runs.
pub fn is_service(unit: &str) -> bool {
    unit.ends_with(".service") && !unit.starts_with("user@")
}

/// Whether anything still runs in a process group.
pub fn any_in_group(group: i32) -> bool {
    let all = all_processes().into_iter().flatten().flatten();
    all.filter_map(|process| process.stat().ok())
        .any(|stat| stat.pgrp == group && stat.state != 'Z')
}

/// Which processes hold which sockets, by inode. Those of other users are seen only by root.
pub fn sockets() -> HashMap<u64, Vec<u32>> {
    let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let Ok(pid) = u32::try_from(process.pid()) else { continue };
        for fd in process.fd().into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                let of = holders.entry(inode).or_default();
                if of.last() != Some(&pid) {
                    of.push(pid);
                }
            }
        }
    }
    holders
}

/// The sockets that one process holds, by inode; of another user's process only root sees them.
pub fn sockets_of(pid: u32) -> Vec<u64> {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    let files = process.and_then(|process| process.fd().ok()).into_iter().flatten().flatten();
    let socket = |target| match target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    };
    files.filter_map(|file| socket(file.target)).collect()
}

/// A file without a name that a process still holds open.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The path that it had.
    pub path: String,
    /// Space on the disk, in bytes.
    pub bytes: u64,
    /// Who holds it.
    pub pid: u32,
}

/// Deleted files on a file system, by its number, that are still open, each once. Those of other users'
/// processes are seen only by root.
pub fn deleted(number: &str) -> Vec<Deleted> {
    let mut found = HashMap::new();
    // Every namespace has mounts of its own, this process and the services of systemd among them.
    let mut numbers = Numbers::default();
    for process in all_processes().into_iter().flatten().flatten() {
        let Ok(pid) = u32::try_from(process.pid()) else { continue };
        let mut read = false;
        for fd in process.fd().into_iter().flatten().flatten() {
            let FDTarget::Path(path) = fd.target else { continue };
            let path = path.to_string_lossy();
            let Some(path) = path.strip_suffix(" (deleted)") else { continue };
            let Some(id) = mount(pid, fd.fd) else { continue };
            if !numbers.0.contains_key(&id) && !std::mem::replace(&mut read, true) {
                numbers.add(&process);
            }
            // Asked first: a file on a dead network mount never tells how large it is.
            if numbers.0.get(&id).is_none_or(|of_it| of_it != number) {
                continue;
            }
            let Ok(file) = std::fs::metadata(format!("/proc/{pid}/fd/{}", fd.fd)) else { continue };
            if file.nlink() == 0 {
                // Blocks of stat(2) have 512 bytes, whatever the file system's are.
                let bytes = file.blocks().saturating_mul(512);
                found.entry((file.dev(), file.ino())).or_insert(Deleted {
                    path: path.to_owned(),
                    bytes,
                    pid,
                });
            }
        }
    }
    found.into_values().collect()
}

/// Numbers of file systems by those of their mounts, which are never the same in two namespaces. The device
/// of a file tells less: on an overlay it is that of one of the layers.
#[derive(Default)]
struct Numbers(HashMap<i32, String>);

impl Numbers {
    /// Adds those that a process sees.
    fn add(&mut self, process: &Process) {
        let mounts = process.mountinfo().map(|m| m.0).unwrap_or_default();
        self.0.extend(mounts.into_iter().map(|m| (m.mnt_id, m.majmin)));
    }
}

/// Number of the mount that a descriptor was opened through.
fn mount(pid: u32, fd: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Numbers of a user and of its main group, from /etc/passwd.
pub fn account(name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = text.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let found = fields.next() == Some(name);
        found.then_some(fields)
    })?;
    Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Names of users by number, from /etc/passwd.
#[derive(Debug)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// Reads them.
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        };
        Self(text.lines().filter_map(user).collect())
    }

    /// The name, or the number where it has none.
    pub fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_hosts_own_whatever_a_user_or_a_container_has_beneath_it() {
        for (group, unit) in [
            ("/system.slice/nginx.service", "nginx.service"),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                "postgresql@15-main.service",
            ),
            ("/system.slice/gitlab.service/workers/nginx.service", "gitlab.service"),
            ("/init.scope", "init.scope"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                "user@1000.service",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ab.scope",
                "user@1000.service",
            ),
            (
                "/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
                "machine-web.scope",
            ),
            (
                "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
                "systemd-nspawn@web.service",
            ),
            ("/machine.slice/libpod-ab.scope/container", "libpod-ab.scope"),
            ("/system.slice/docker-ab.scope/system.slice/nginx.service", "docker-ab.scope"),
            ("/system.slice/_cpu.service", "cpu.service"),
            ("/docker/ab/system.slice/nginx.service", ""),
            ("/lxc.payload.web/system.slice/nginx.service", ""),
            ("/../../system.slice/nginx.service", ""),
            ("/", ""),
        ] {
            assert_eq!(unit_of(group, "").unwrap_or_default(), unit, "{group}");
        }
        let own = "/docker/ab";
        assert_eq!(unit_of("/docker/ab/system.slice/nginx.service", own), Some("nginx.service"));
        assert_eq!(unit_of("/system.slice/nginx.service", own), None, "it is its host's");
        let services = ["nginx.service", "user@1000.service", "session-3.scope"].map(is_service);
        assert_eq!(services, [true, false, false]);
    }

    #[test]
    fn this_very_process_and_its_socket_are_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let own = std::process::id();
        let seen = all().into_iter().find(|p| p.pid == own).expect("own process");
        assert!(seen.memory > 1 << 20 && seen.threads >= 1);
        assert!(sockets().values().any(|pids| pids.contains(&own)));
        assert!(!in_container(own) && with_arguments().iter().any(|(seen, _)| seen.pid == own));
        assert_eq!(Users::read().name(0), "root");
        assert_eq!((account("root"), account("roo")), (Some((0, 0)), None));
        drop(listener);
    }
}
