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
use rustix::io::Errno;

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

/// How the kernel is asked what waits.
type Look = fn() -> Result<Backlogs, Errno>;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// What is wrong, one finding for each unit.
    pub(super) findings: Vec<Finding>,
    /// What was looked at.
    pub(super) asked: Vec<(&'static str, String)>,
}

/// Looks at units that are active and nothing else is wrong with, each with its main process; where none was
/// named, also at what waits at the sockets of all others but some.
pub(super) async fn serving(
    cx: &Context,
    request: &SystemdStatusRequest,
    active: &[(String, u32)],
    except: &[String],
) -> Serving {
    served(cx, request, active, except, backlog::look).await
}

async fn served(
    cx: &Context,
    request: &SystemdStatusRequest,
    active: &[(String, u32)],
    except: &[String],
    look: Look,
) -> Serving {
    let mut found = Serving::default();
    let processes: Vec<u32> = active.iter().map(|(_, pid)| *pid).collect();
    let states = blocking(move || Ok(processes.into_iter().map(processes::state).collect()));
    let states: Vec<Option<char>> = states.await.unwrap_or_default();
    for ((name, pid), state) in active.iter().zip(states) {
        if let Some(finding) = state.and_then(|state| stopped(name, *pid, state)) {
            found.findings.push(finding);
            found.asked.push(("file", format!("/proc/{pid}/stat")));
        }
    }
    let named = !request.unit.is_empty();
    let meant = |unit: &str| match named {
        true => active.iter().any(|(there, _)| there == unit),
        false => processes::is_service(unit) && !except.iter().any(|name| name == unit),
    };
    let window = Duration::from_secs(request.accept_s.into());
    // That a kernel does not tell what waits says nothing about a unit.
    let Some(waiting) = waiting(cx, window, &meant, look).await else { return found };
    found.asked.push(("netlink", "sock_diag: what waits at sockets that listen".to_owned()));
    for (unit, waiting) in waiting {
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

/// The worst socket of each unit that is meant, at which somebody waits for so long; none where nobody tells
/// what waits.
async fn waiting(
    cx: &Context,
    window: Duration,
    meant: &(dyn Fn(&str) -> bool + Sync),
    look: Look,
) -> Option<BTreeMap<String, Waiting>> {
    let mut of_units = BTreeMap::new();
    let look = || async { blocking(move || Ok(look().ok())).await.ok().flatten() };
    let first = look().await?;
    if first.is_empty() || !cx.pause(MOMENT).await {
        return Some(of_units);
    }
    let second = look().await?;
    if still(&first, &second).is_empty() {
        return Some(of_units);
    }
    let holders = blocking(|| Ok(processes::sockets())).await.ok()?;
    let units: HashMap<u64, String> = still(&first, &second)
        .into_keys()
        .filter_map(|inode| Some((inode, holder(holders.get(&inode)?)?)))
        .filter(|(_, unit)| meant(unit))
        .collect();
    if units.is_empty() || !cx.pause(window.saturating_sub(MOMENT)).await {
        return Some(of_units);
    }
    let last = look().await?;
    for (inode, waiting) in still(&first, &last) {
        let Some(unit) = units.get(&inode) else { continue };
        let worst: &mut Waiting = of_units.entry(unit.clone()).or_default();
        let badness = |w: &Waiting| (w.none_taken || w.backlog.is_full(), w.all_the_time);
        if badness(&waiting) > badness(worst) {
            *worst = waiting;
        }
    }
    Some(of_units)
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
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::Host;

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

    #[tokio::test]
    async fn what_waits_is_evidence_only_where_the_kernel_told_it() {
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(std::path::Path::new("/"));
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let request = SystemdStatusRequest { accept_s: 2, ..SystemdStatusRequest::default() };
        let silent = served(&cx, &request, &[], &[], || Err(Errno::NOENT)).await;
        assert_eq!((silent.asked, silent.findings), (vec![], vec![]));
        let told = served(&cx, &request, &[], &[], || Ok(Backlogs::new())).await;
        assert_eq!((told.asked.len(), told.asked[0].0), (1, "netlink"));
    }

    #[tokio::test]
    async fn a_stopped_process_is_seen_of_a_unit_that_nobody_named() {
        #[expect(clippy::disallowed_methods, reason = "it is only held, and ended at once")]
        let mut held = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("started");
        let pid = rustix::process::Pid::from_child(&held);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
        let stopped = rustix::process::WaitOptions::UNTRACED;
        rustix::process::waitpid(Some(pid), stopped).expect("it stands");
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(std::path::Path::new("/"));
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let active =
            [("other.service".to_owned(), std::process::id()), ("web.service".into(), held.id())];
        let request = SystemdStatusRequest::default();
        let found = served(&cx, &request, &active, &[], || Ok(Backlogs::new())).await;
        held.kill().and_then(|()| held.wait()).expect("ended");
        let said: Vec<&str> = found.findings.iter().map(|f| f.subject.as_str()).collect();
        assert_eq!(said, ["web.service"]);
        assert!(found.asked.contains(&("file", format!("/proc/{}/stat", active[1].1))));
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
