//! Workers that run on this host, as their processes show: a worker that does not answer may be
//! stopped, or may have a pool that cannot answer.

use std::collections::HashSet;

use crate::host::processes::{Seen, with_arguments};

/// The main process of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    pub pid: u32,
    /// The unit that it belongs to.
    pub unit: String,
    /// A signal stopped it.
    pub stopped: bool,
    /// It runs tasks in its main process, and answers nobody meanwhile.
    pub solo: bool,
    /// The application, as it was given to `celery -A`.
    pub app: String,
    /// Its node name, `%h` for this host.
    node: String,
    host: String,
}

impl Local {
    /// Whether it is the worker of that name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    /// Its name; some of it may still be `%` and a letter.
    pub(super) fn name(&self) -> String {
        self.node.replace("%h", &self.host).replace("%n", "celery")
    }

    /// A worker, for tests.
    #[cfg(test)]
    pub(super) fn example(name: &str, stopped: bool, solo: bool) -> Self {
        let unit = "celery.service".to_owned();
        let (node, host) = (name.to_owned(), String::new());
        Self { pid: 7, unit, stopped, solo, app: "shop".to_owned(), node, host }
    }

    fn of(seen: &Seen, arguments: &[String], host: &str) -> Option<Self> {
        let celery = |a: &String| a == "celery" || a.ends_with("/celery");
        let at = arguments.iter().position(celery)?;
        let rest = &arguments[at + 1..];
        rest.iter().find(|a| *a == "worker")?;
        let value = |long: &str, short: &str| {
            rest.iter().enumerate().find_map(|(at, a)| {
                let joined = a.strip_prefix(long).and_then(|v| v.strip_prefix('='));
                match joined {
                    Some(value) => Some(value.to_owned()),
                    None if a == long || a == short => rest.get(at + 1).cloned(),
                    None => None,
                }
            })
        };
        let node = value("--hostname", "-n").unwrap_or_else(|| "celery@%h".to_owned());
        Some(Self {
            pid: seen.pid,
            unit: seen.unit.clone(),
            stopped: matches!(seen.state, 'T' | 't'),
            solo: value("--pool", "-P").is_some_and(|pool| pool == "solo"),
            app: value("--app", "-A").unwrap_or_default(),
            node: if node.contains('@') { node } else { format!("{node}@%h") },
            host: host.to_owned(),
        })
    }
}

/// The workers of this host; of each its main process. Blocks on /proc.
pub(super) fn workers() -> Vec<Local> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let all: Vec<(Seen, Local)> = with_arguments()
        .into_iter()
        .filter_map(|(seen, arguments)| {
            let local = Local::of(&seen, &arguments, host.trim())?;
            Some((seen, local))
        })
        .collect();
    let pids: HashSet<u32> = all.iter().map(|(seen, _)| seen.pid).collect();
    // The processes of a pool have the command line of the one that made them.
    all.into_iter()
        .filter(|(seen, _)| !pids.contains(&seen.parent))
        .map(|(_, local)| local)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(line: &str) -> Option<Local> {
        let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        let seen = Seen {
            pid: 7,
            parent: 1,
            command: "python3".into(),
            uid: 0,
            unit: "celery.service".into(),
            ticks: 0,
            started: 0,
            memory: 0,
            threads: 1,
            state: 'T',
        };
        Local::of(&seen, &words, "h1")
    }

    #[test]
    fn a_worker_is_known_by_its_command_line() {
        let plain = local("/srv/venv/bin/python /srv/venv/bin/celery -A app worker -l info");
        let plain = plain.expect("a worker");
        assert_eq!(plain.app, "app");
        assert!(plain.is("celery@h1") && plain.stopped && !plain.solo);
        let named = local("celery -A app worker --pool=solo -n mail@%h").expect("a worker");
        assert!(named.is("mail@h1") && named.solo && !named.is("celery@h1"));
        assert!(local("celery -A app beat").is_none());
        assert!(local("vim celery.py worker").is_none());
    }
}
