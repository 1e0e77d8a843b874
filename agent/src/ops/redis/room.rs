//! How much more memory a server without maxmemory can take: what its host has available, or what its
//! control group allows where that is less.

use std::{
    fs,
    path::{Component, Path},
};

use crate::{host::kernel, ops::host::meminfo};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// What is left for a server of this host, whose process it says to be; none where the kernel does not tell.
/// Blocks for the files of the kernel.
pub(super) fn room(pid: &str) -> Option<u64> {
    let available = meminfo(&kernel("/proc/meminfo").ok()?, "MemAvailable");
    let allowed = group(pid).and_then(|group| allowed(Path::new(GROUPS), &group));
    Some(available.min(allowed.unwrap_or(u64::MAX)))
}

/// The control group of a server's process. One in a container counts its processes itself: whoever has
/// its number here is another.
fn group(pid: &str) -> Option<String> {
    let pid: u32 = pid.parse().ok()?;
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let command = of("comm")?;
    let is = ["redis", "valkey"].iter().any(|name| command.starts_with(name));
    let groups = of("cgroup").filter(|_| is)?;
    Some(groups.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned())
}

/// What a control group, and those above it, still allow; none where none has a limit. Pages of files
/// are given back when memory is short.
fn allowed(root: &Path, group: &str) -> Option<u64> {
    let group: &Path = Path::new(group.trim_start_matches('/'));
    if !group.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let left = |group: &Path| {
        let text = |file: &str| fs::read_to_string(root.join(group).join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        let stat = text("memory.stat").unwrap_or_default();
        let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let files: u64 = files.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
        let used = number("memory.current")?.saturating_sub(files);
        Some(number("memory.max")?.saturating_sub(used))
    };
    group.ancestors().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_whose_group_nobody_knows_has_what_the_host_has() {
        assert!(room("").is_some_and(|left| left > 0));
        assert_eq!(group(&std::process::id().to_string()), None, "this is no server");
    }

    #[test]
    fn the_least_that_a_control_group_or_one_above_it_allows_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |group: &str, max: &str, current: u64, files: u64| {
            let at = root.path().join(group);
            fs::create_dir_all(&at).expect("made");
            fs::write(at.join("memory.max"), format!("{max}\n")).expect("written");
            fs::write(at.join("memory.current"), format!("{current}\n")).expect("written");
            let stat = format!("anon 1\ninactive_file {files}\n");
            fs::write(at.join("memory.stat"), stat).expect("written");
        };
        let of = |group: &str| allowed(root.path(), group);
        write("system.slice", "max", 900, 0);
        write("system.slice/a.service", "1000", 300, 100);
        assert_eq!(of("/system.slice/a.service"), Some(800));
        assert_eq!((of("/system.slice"), of("/"), of("/../etc")), (None, None, None));
        write("system.slice", "950", 900, 0);
        assert_eq!(of("/system.slice/a.service"), Some(50));
        write("system.slice/a.service", "1000", 2000, 0);
        assert_eq!(of("/system.slice/a.service"), Some(0));
    }
}
