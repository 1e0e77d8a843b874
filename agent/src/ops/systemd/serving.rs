//! Whether units that are active also do their work, as far as one sees it from outside: a signal stopped
//! none, and each takes the connections that come to it. Nothing is sent to them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hostler_proto::{
    operation::{Operation, SystemdStatus},
    ops::SystemdStatusRequest,
    wire::{Finding, Status},
};

use super::unit::Unit;
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{
        backlog::{self, Backlog, Backlogs},
        blocking, processes,
    },
    operation::Context,
};

const NAME: &str = <SystemdStatus as Operation>::NAME;
/// Whoever accepts connections does so at once: what waits a moment later is worth the whole look.
const MOMENT: Duration = Duration::from_millis(200);
/// systemd itself, which keeps the sockets of what it has not started yet.
const SYSTEMD: u32 = 1;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// What is wrong, one finding for each unit.
    pub(super) findings: Vec<Finding>,
    /// What was looked at.
    pub(super) asked: Vec<(&'static str, String)>,
}

/// Looks at units that are active and nothing else is wrong with; where none was named, at all but some.
pub(super) async fn serving(
    cx: &Context,
    request: &SystemdStatusRequest,
    active: &[&Unit],
    except: &[String],
) -> Serving {
    let mut found = Serving::default();
    for unit in active.iter().filter(|unit| unit.status.main_pid > 0) {
        let (name, pid) = (unit.status.name.as_str(), unit.status.main_pid);
        let state = blocking(move || Ok(processes::one(pid))).await.ok().flatten();
        if let Some(finding) = state.and_then(|seen| stopped(name, pid, seen.state)) {
            found.findings.push(finding);
            found.asked.push(("file", format!("/proc/{pid}/stat")));
        }
    }
    let named = !request.unit.is_empty();
    let meant = |unit: &str| match named {
        true => active.iter().any(|there| there.status.name == unit),
        false => unit.ends_with(".service") && !except.iter().any(|name| name == unit),
    };
    found.asked.push(("netlink", "sock_diag: what waits at sockets that listen".to_owned()));
    let window = Duration::from_secs(request.accept_s.into());
    for (unit, waiting) in waiting(cx, window, &meant).await {
        if !found.findings.iter().any(|finding| finding.subject == unit) {
            found.findings.push(judge(&unit, &waiting, request.accept_s));
        }
    }
    found
}

/// What is to say of a unit whose main process is in some state.
pub(crate) fn stopped(unit: &str, pid: u32, state: char) -> Option<Finding> {
    let (said, why, next) = match state {
        'T' => (
            "is stopped",
            "a signal stopped it; SIGCONT lets it go on",
            format!("systemd restart {unit}"),
        ),
        't' => (
            "is held by a debugger",
            "it goes on when the debugger lets it",
            "host processes --by cpu".to_owned(),
        ),
        _ => return None,
    };
    let summary = format!("{unit} is hung: its process {pid} {said}");
    Some(Finding::new(Status::Critical, unit, summary).why(why).next(next))
}

/// A socket at which somebody waited all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Waiting {
    backlog: Backlog,
    /// How many waited from the beginning to the end.
    all_the_time: usize,
    /// Nobody of them was accepted.
    none_taken: bool,
}

/// The worst socket of each unit that is meant, at which somebody waits for so long.
async fn waiting(
    cx: &Context,
    window: Duration,
    meant: &(dyn Fn(&str) -> bool + Sync),
) -> BTreeMap<String, Waiting> {
    let mut of_units = BTreeMap::new();
    // That a kernel does not tell what waits says nothing about a unit.
    let look = || async { blocking(|| Ok(backlog::look().unwrap_or_default())).await };
    let Ok(first) = look().await else { return of_units };
    if first.is_empty() || !cx.pause(MOMENT).await {
        return of_units;
    }
    let Ok(second) = look().await else { return of_units };
    if still(&first, &second).is_empty() {
        return of_units;
    }
    let Ok(holders) = blocking(|| Ok(processes::sockets())).await else { return of_units };
    let units: HashMap<u64, String> = still(&first, &second)
        .into_keys()
        .filter_map(|inode| Some((inode, holder(holders.get(&inode)?)?)))
        .filter(|(_, unit)| meant(unit))
        .collect();
    if units.is_empty() || !cx.pause(window.saturating_sub(MOMENT)).await {
        return of_units;
    }
    let Ok(last) = look().await else { return of_units };
    for (inode, waiting) in still(&first, &last) {
        let Some(unit) = units.get(&inode) else { continue };
        let worst: &mut Waiting = of_units.entry(unit.clone()).or_default();
        let badness = |w: &Waiting| (w.none_taken || w.backlog.is_full(), w.all_the_time);
        if badness(&waiting) > badness(worst) {
            *worst = waiting;
        }
    }
    of_units
}

/// The sockets at which somebody waited at both looks.
fn still(first: &Backlogs, now: &Backlogs) -> BTreeMap<u64, Waiting> {
    let both = now.iter().filter_map(|(inode, backlog)| Some((inode, backlog, first.get(inode)?)));
    both.map(|(inode, backlog, before)| {
        let all_the_time = backlog.since(before);
        let none_taken = backlog.took_none_since(before);
        (*inode, Waiting { backlog: backlog.clone(), all_the_time, none_taken })
    })
    .filter(|(_, waiting)| waiting.all_the_time > 0)
    .collect()
}

/// The unit of the processes that hold a socket.
fn holder(pids: &[u32]) -> Option<String> {
    let pid = pids.iter().find(|pid| **pid != SYSTEMD)?;
    Some(processes::one(*pid)?.unit)
}

fn judge(unit: &str, waiting: &Waiting, accept_s: u32) -> Finding {
    let Waiting { backlog, all_the_time, none_taken } = waiting;
    let (at, room) = (&backlog.at, backlog.room);
    let who = match all_the_time {
        1 => "one has waited".to_owned(),
        n => format!("{n} have waited"),
    };
    let for_long = amount::span(accept_s.into());
    let (status, said) = match (none_taken, backlog.is_full()) {
        (true, false) => (Status::Critical, format!("takes no connections at {at}")),
        (true, true) => (
            Status::Critical,
            format!("takes no connections at {at}, and there is no room for more than {room}"),
        ),
        (false, true) => (
            Status::Critical,
            format!("takes connections at {at} too slowly: there is no room for more than {room}"),
        ),
        (false, false) => (Status::Warning, format!("takes connections at {at} late")),
    };
    let bound = Bound::of(NAME, "accept-s", accept_s.into());
    let bounds = match status {
        Status::Critical => Bounds::critical(bound, ""),
        _ => Bounds::warning(bound, ""),
    };
    let finding = Finding::new(
        status,
        unit,
        format!("{unit} is active and {said}: {who} for {for_long} or more"),
    );
    let finding = finding
        .why(format!(
            "it hangs, or all of its workers are busy; what it said last: journal read --unit {unit}"
        ))
        .next(format!("systemd restart {unit}"));
    bounds.told(finding, accept_s.into(), "s")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(none_taken: bool, waiting: u32) -> (Status, String) {
        let (at, callers) = ("127.0.0.1:8000".to_owned(), Vec::new());
        let backlog = Backlog { at, waiting, room: 5, callers };
        let waiting = Waiting { backlog, all_the_time: 1 + usize::from(none_taken), none_taken };
        let finding = judge("web.service", &waiting, 2);
        assert_eq!((finding.value, finding.unit.as_str()), (Some(2.0), "s"));
        (finding.status(), finding.summary)
    }

    #[test]
    fn a_unit_that_accepts_nobody_is_not_well_however_active_it_is() {
        let web = |said: &str| format!("web.service is active and {said}");
        let hung = "takes no connections at 127.0.0.1:8000: 2 have waited for 2 s or more";
        assert_eq!(said(true, 2), (Status::Critical, web(hung)));
        let late = "takes connections at 127.0.0.1:8000 late: one has waited for 2 s or more";
        assert_eq!(said(false, 2), (Status::Warning, web(late)));
        for none_taken in [true, false] {
            let (status, said) = said(none_taken, 6);
            assert!(said.contains("no room for more than 5"), "{said}");
            assert_eq!(status, Status::Critical);
        }
    }

    #[test]
    fn a_main_process_that_a_signal_stopped_makes_its_unit_hung() {
        let found = stopped("web.service", 7, 'T').expect("a finding");
        assert_eq!(found.summary, "web.service is hung: its process 7 is stopped");
        assert_eq!(found.next, "systemd restart web.service");
        for well in ['S', 'R', 'I', 'D', ' '] {
            assert_eq!(stopped("web.service", 7, well), None, "{well}");
        }
    }

    #[test]
    fn only_who_waited_at_both_looks_counts() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let connect = || std::os::unix::net::UnixStream::connect(&path).expect("connected");
        let look = || -> Backlogs {
            let mut all = backlog::look().expect("the kernel tells");
            all.retain(|_, backlog| backlog.at == path.to_str().expect("text"));
            all
        };
        let _first = connect();
        let before = look();
        let (inode, waiting) = still(&before, &look()).pop_first().expect("one waits");
        assert_eq!((waiting.all_the_time, waiting.none_taken), (1, true));
        let holders = processes::sockets();
        assert!(holders[&inode].contains(&std::process::id()));
        let _accepted = listener.accept().expect("accepted");
        let _second = connect();
        assert!(still(&before, &look()).is_empty(), "another one waits now");
    }
}
