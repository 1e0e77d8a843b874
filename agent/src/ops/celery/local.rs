//! Workers that run on this host, as their processes show: a worker that does not answer may be
//! stopped, or may have a pool that cannot answer.

use std::collections::HashSet;

use crate::{
    host::processes::{Seen, with_arguments},
    ops::systemd::full_name,
    stack::Celery,
};

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
    /// The stack file names its unit for the application that is looked at.
    pub own: bool,
    /// Its node name, `%h` for this host.
    node: String,
    host: String,
}

impl Local {
    /// Its name; some of it may still be `%` and a letter.
    pub(super) fn name(&self) -> String {
        self.node.replace("%h", &self.host).replace("%n", "celery")
    }

    /// A worker, for tests.
    #[cfg(test)]
    pub(super) fn example(name: &str, stopped: bool, solo: bool) -> Self {
        let unit = "celery.service".to_owned();
        let (node, host) = (name.to_owned(), String::new());
        Self { pid: 7, unit, stopped, solo, app: "shop".to_owned(), own: false, node, host }
    }

    fn of(seen: &Seen, arguments: &[String], host: &str) -> Option<Self> {
        if let [title, ..] = arguments
            && let Some(title) = title.strip_prefix("[celeryd: ")
        {
            return Self::titled(seen, title, host);
        }
        let celery = |a: &String| a == "celery" || a.ends_with("/celery");
        let at = arguments.iter().position(celery)?;
        let rest = &arguments[at + 1..];
        Self::started(seen, rest, host)
    }

    /// Where setproctitle is installed a worker calls itself
    /// `[celeryd: NAME:MainProcess] -active- (ARGUMENTS)`, and the processes of its pool otherwise.
    fn titled(seen: &Seen, title: &str, host: &str) -> Option<Self> {
        let (who, rest) = title.split_once(']')?;
        let node = who.strip_suffix(":MainProcess")?.to_owned();
        let arguments = rest.split_once('(').map_or("", |(_, arguments)| arguments);
        let arguments = arguments.trim_end_matches('\0').trim_end_matches(')');
        let words: Vec<String> = arguments.split_whitespace().map(ToOwned::to_owned).collect();
        Some(Self { node, ..Self::started(seen, &words, host)? })
    }

    fn started(seen: &Seen, rest: &[String], host: &str) -> Option<Self> {
        rest.iter().find(|a| *a == "worker")?;
        let value = |long: &str, short: &str| {
            rest.iter().enumerate().find_map(|(at, a)| {
                let joined = a.strip_prefix(long).and_then(|v| v.strip_prefix('='));
                // -Psolo
                let joined = joined.or_else(|| a.strip_prefix(short).filter(|v| !v.is_empty()));
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
            own: false,
            node: if node.contains('@') { node } else { format!("{node}@%h") },
            host: host.to_owned(),
        })
    }
}

/// Leaves out the workers of other applications of the stack file, and marks those that are this one's:
/// as far as it names the units of either.
pub(super) fn sort_out(workers: &mut Vec<Local>, entry: &Celery, all: &[Celery]) {
    let names = |entry: &Celery, worker: &Local| {
        let mut units = entry.after.iter().filter_map(|after| after.strip_prefix("unit:"));
        !worker.unit.is_empty() && units.any(|unit| full_name(unit) == worker.unit)
    };
    for worker in workers.iter_mut() {
        worker.own = names(entry, worker);
    }
    workers.retain(|worker| worker.own || !all.iter().any(|other| names(other, worker)));
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
        Local::of(&seen(), &words, "h1")
    }

    fn seen() -> Seen {
        Seen {
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
        }
    }

    #[test]
    fn a_worker_is_known_by_the_title_that_it_gave_itself() {
        let of = |title: &str| Local::of(&seen(), &[title.to_owned()], "h1");
        let main = of("[celeryd: mail@web-1:MainProcess] -active- (-A app worker -Psolo)");
        let main = main.expect("a worker");
        assert!(main.name() == "mail@web-1" && main.solo && main.app == "app");
        assert!(of("[celeryd: mail@web-1:ForkPoolWorker-1]").is_none());
    }

    #[test]
    fn workers_in_units_of_other_applications_are_left_out() {
        let entry = |name: &str, unit: &str| Celery {
            name: name.to_owned(),
            after: vec!["redis:main".to_owned(), format!("unit:{unit}")],
            ..Celery::default()
        };
        let worker = |unit: &str| Local {
            unit: unit.to_owned(),
            ..Local::example("celery@h1", false, false)
        };
        let all = [entry("shop", "shop-celery"), entry("mail", "mail.service")];
        let mut seen = vec![worker("mail.service"), worker("shop-celery.service"), worker("")];
        sort_out(&mut seen, &all[0], &all);
        let left: Vec<_> = seen.iter().map(|w| (w.unit.as_str(), w.own)).collect();
        assert_eq!(left, [("shop-celery.service", true), ("", false)]);
    }

    #[test]
    fn a_worker_is_known_by_its_command_line() {
        let plain = local("/srv/venv/bin/python /srv/venv/bin/celery -A app worker -l info");
        let plain = plain.expect("a worker");
        assert_eq!(plain.app, "app");
        assert!(plain.name() == "celery@h1" && plain.stopped && !plain.solo);
        let named = local("celery -A app worker --pool=solo -n mail@%h").expect("a worker");
        assert!(named.name() == "mail@h1" && named.solo && named.name() != "celery@h1");
        for solo in ["-P solo", "-Psolo", "--pool solo", "--pool=solo"] {
            let worker = local(&format!("/v/bin/celery -Aapp worker {solo} -nmail@%h"));
            let worker = worker.expect(solo);
            assert!(worker.solo && worker.name() == "mail@h1" && worker.app == "app", "{solo}");
        }
        assert!(local("celery -A app beat").is_none());
        assert!(local("vim celery.py worker").is_none());
    }
}
