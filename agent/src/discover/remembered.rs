//! What a host without a stack file is checked for: what runs there, and what ran there before and
//! still starts at boot. Without that a service that did not come up would be no problem of anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, iter,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_core::durable;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Found;
use crate::stack::{Nginx, Pm2, Redis, Stack, Unit};

/// At boot the agent is there before many a service is.
const SOON: Duration = Duration::from_secs(300);
/// What is installed later is checked from within an hour on.
const LATER: Duration = Duration::from_secs(3600);
/// Where systemd is told what starts at boot (systemd.unit(5)).
const UNITS: [&str; 8] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/generator.early",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What is remembered of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    units: BTreeSet<String>,
    redis: BTreeMap<String, String>,
    pm2: BTreeSet<String>,
    nginx: bool,
}

impl Found {
    /// What is found now, with what was found before and still starts at boot.
    pub fn with_remembered(state_dir: &Path) -> Self {
        let mut found = Self::look();
        found.remember(read(&path(state_dir)), &starts_at_boot);
        found
    }

    /// What a host without a stack file is checked for: what needs no password and no choice, and what
    /// starts at boot. What somebody started by hand may end.
    pub fn stack(&self) -> Stack {
        let unit = |name: &String| Unit { name: name.clone(), after: Vec::new() };
        let pm2 = (!self.pm2.is_empty()).then(|| Pm2 { apps: Vec::new() });
        // Its configuration can be tested by root alone.
        let root = rustix::process::geteuid().is_root();
        let nginx = (self.nginx && root).then(Nginx::default);
        // One in a container or started by hand is not this host's to judge.
        let redis = self.redis.iter().filter(|(_, unit)| self.at_boot.contains(*unit));
        let redis = redis.map(|(address, unit)| Redis {
            name: self.redis_name(address).to_owned(),
            url: format!("redis://{address}/0"),
            username: None,
            password_file: None,
            ca_file: None,
            replica: None,
            after: unit.strip_suffix(".service").map(|u| format!("unit:{u}")).into_iter().collect(),
        });
        Stack {
            units: self.at_boot.iter().map(unit).collect(),
            redis: redis.collect(),
            pm2,
            nginx,
            ..Stack::default()
        }
    }

    fn remember(&mut self, before: Remembered, starts: &dyn Fn(&str) -> bool) {
        self.at_boot = self.units.iter().chain(&before.units).cloned().collect();
        self.at_boot.retain(|unit| starts(unit));
        self.units.extend(before.units.into_iter().filter(|unit| starts(unit)));
        for (address, unit) in before.redis {
            if starts(&unit) {
                self.redis.entry(address).or_insert(unit);
            }
        }
        self.nginx |= before.nginx && starts("nginx.service");
        if !before.pm2.is_empty() && self.units.iter().any(|u| u.starts_with("pm2")) {
            self.pm2.extend(before.pm2);
        }
    }

    fn remembered(&self) -> Remembered {
        Remembered {
            units: self.units.clone(),
            redis: self.redis.clone(),
            pm2: self.pm2.clone(),
            nginx: self.nginx,
        }
    }
}

/// Keeps in mind what is found on the host, now and then some minutes after the agent's start and each
/// hour, until `stop`. Each time `found` is told what is to be checked.
pub async fn keep_looking(state_dir: PathBuf, stop: CancellationToken, found: impl Fn(Stack)) {
    for wait in iter::once(SOON).chain(iter::repeat(LATER)) {
        let directory = state_dir.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = Found::with_remembered(&directory);
            let saved = save(&path(&directory), &found.remembered());
            (found.stack(), saved)
        });
        let Ok((stack, saved)) = looked.await else { return };
        if let Err(error) = saved {
            tracing::warn!(%error, "what was found on this host is not remembered");
        }
        found(stack);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("found.json")
}

/// Nothing when there is nothing that can be used.
fn read(path: &Path) -> Remembered {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn save(path: &Path, found: &Remembered) -> io::Result<()> {
    if read(path) == *found {
        return Ok(());
    }
    durable::replace(path, &serde_json::to_vec(found).map_err(io::Error::other)?)
}

/// Whether something that starts at boot wants that unit.
fn starts_at_boot(unit: &str) -> bool {
    wanted(&UNITS.map(Path::new), unit)
}

fn wanted(directories: &[&Path], unit: &str) -> bool {
    let entries = directories.iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten();
    let lists = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end))
    });
    // A link that leads nowhere is one of a unit that was removed.
    let mut links = lists.map(|list| list.path().join(unit));
    !unit.is_empty() && !unit.contains('/') && links.any(|link| link.exists())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_did_not_come_up_is_still_checked_when_it_starts_at_boot() {
        let before = Remembered {
            units: set(&["app.service", "gone.service", "pm2-x.service"]),
            redis: [("127.0.0.1:6379".to_owned(), "redis-server.service".to_owned())].into(),
            pm2: set(&["/home/x/.pm2"]),
            nginx: true,
        };
        let starts = |unit: &str| !["gone.service", "adhoc.service"].contains(&unit);
        let mut found = Found { units: set(&["db.service", "adhoc.service"]), ..Found::default() };
        found.remember(before, &starts);
        let all = ["adhoc.service", "app.service", "db.service", "pm2-x.service"];
        assert_eq!(found.units, set(&all));
        assert!(found.nginx && found.redis.contains_key("127.0.0.1:6379"));
        assert_eq!(found.pm2, set(&["/home/x/.pm2"]));
        let stack = found.stack();
        let units: Vec<_> = stack.units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(units, ["app.service", "db.service", "pm2-x.service"], "nobody starts adhoc");
    }

    #[test]
    fn what_is_remembered_is_read_again_and_what_was_spoilt_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = path(directory.path());
        assert_eq!(read(&file), Remembered::default());
        let found = Remembered { units: set(&["a.service"]), nginx: true, ..Default::default() };
        save(&file, &found).expect("saved");
        assert_eq!(read(&file), found);
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&file, "{").expect("written");
        assert_eq!(read(&file), Remembered::default());
    }

    #[test]
    fn a_unit_starts_at_boot_when_a_link_that_leads_somewhere_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let wants = directory.path().join("multi-user.target.wants");
        fs::create_dir(&wants).expect("created");
        fs::write(directory.path().join("a.service"), "").expect("written");
        symlink("../a.service", wants.join("a.service")).expect("linked");
        symlink("../b.service", wants.join("b.service")).expect("linked");
        let starts = |unit: &str| wanted(&[directory.path()], unit);
        assert!(starts("a.service"));
        assert!(!starts("b.service") && !starts("c.service") && !starts(""));
    }
}
