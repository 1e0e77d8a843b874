//! Workers that are subscribed and do not answer: which they are, and what to make of that.

use std::collections::BTreeMap;

use hostler_proto::{
    ops::CeleryWorker,
    wire::{Finding, Status},
};

use super::{local::Local, pidbox::Answers};
use crate::order::Order as _;

/// The workers that did not answer, as far as their names are known, and what is told of them. `bound`
/// are names that workers left at the broker: some of those are gone.
pub(super) fn told(
    app: &str,
    answers: &Answers,
    bound: &[String],
    local: &[Local],
    tool: bool,
) -> (Vec<CeleryWorker>, Vec<Finding>) {
    let (mut workers, mut findings) = (Vec::new(), Vec::new());
    let mut tell = |name: &str, processes: &[&Local]| {
        let (state, finding) = silent(name, processes, tool);
        let (name, state) = (name.to_owned(), state.to_owned());
        workers.push(CeleryWorker { name, state, ..CeleryWorker::default() });
        findings.push(finding);
    };
    let mut left = answers.missing();
    let here = by_name(local, answers);
    // A process that runs here is no name of one that is gone.
    let known = |(name, processes): &(&String, &Vec<&Local>)| {
        bound.contains(name) || processes.iter().any(|p| p.own)
    };
    let (mut known, others): (Vec<_>, Vec<_>) = here.iter().partition(known);
    known.order_by_key(|(_, processes)| !processes.iter().any(|p| p.stopped));
    for (name, processes) in known.iter().take(left) {
        tell(name, processes);
    }
    left = left.saturating_sub(known.len());
    let away = bound.iter().filter(|name| !here.contains_key(*name));
    let mut rest: Vec<(&str, &[&Local])> = away.map(|name| (name.as_str(), &[][..])).collect();
    // What is bound is this application's; a process that nobody knows may be another's.
    if rest.len() < left {
        rest.extend(others.iter().map(|(name, processes)| (name.as_str(), processes.as_slice())));
    }
    let certain = rest.len() <= left;
    for (name, processes) in rest.iter().filter(|_| certain) {
        tell(name, processes);
    }
    if certain {
        left = left.saturating_sub(rest.len());
        // Several of one name, all of them silent.
        let more = here.iter().flat_map(|(name, all)| all.iter().skip(1).map(move |_| (name, all)));
        for (name, processes) in more.take(left) {
            tell(name, processes);
            left -= 1;
        }
    }
    let elsewhere: Vec<&str> = rest.iter().map(|(name, _)| *name).collect();
    let of = answers.subscribed;
    let nameless = |summary: String, why: &str| {
        Finding::new(Status::Critical, app, summary)
            .why(why)
            .next("host processes --by cpu".to_owned())
    };
    match (left, certain) {
        (0, _) => {}
        (_, true) => findings.push(nameless(
            format!("{left} of {of} workers of celery \"{app}\" do not answer, and have no name"),
            "they are subscribed, but what they bound at the broker is gone (FLUSHDB, or it was \
             evicted); a restart of the workers binds it anew",
        )),
        (_, false) => findings.push(nameless(
            format!("{left} of {of} workers do not answer: of {}", list(&elsewhere)),
            "workers that are gone left their names at the broker, so that nobody can tell which",
        )),
    }
    (workers, findings)
}

fn list(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What is said of an answer in which workers are missing: none when all are there.
pub(super) fn part(app: &str, answers: &Answers) -> Option<Finding> {
    let missing = answers.missing();
    (missing > 0).then(|| {
        let summary = format!("{missing} of {} workers did not answer", answers.subscribed);
        Finding::new(Status::Unknown, app, summary)
            .why("what they have is not in this list")
            .next(format!("celery workers {app}"))
    })
}

/// The processes of workers that did not answer, by name: of those that have one name the application's own,
/// where it is known which that are.
fn by_name<'l>(local: &'l [Local], answers: &Answers) -> BTreeMap<String, Vec<&'l Local>> {
    let mut here: BTreeMap<String, Vec<&Local>> = BTreeMap::new();
    for process in local {
        let name = process.name();
        if !answers.by_worker.contains_key(&name) && !name.contains('%') {
            here.entry(name).or_default().push(process);
        }
    }
    for processes in here.values_mut().filter(|all| all.iter().any(|p| p.own)) {
        processes.retain(|process| process.own);
    }
    here
}

/// The process that it is: the only one of the name, or the only one that is stopped.
fn culprit<'l>(processes: &[&'l Local]) -> Option<&'l Local> {
    let mut stopped = processes.iter().filter(|process| process.stopped);
    match (processes, stopped.next(), stopped.next()) {
        ([only], ..) => Some(only),
        (_, Some(stopped), None) => Some(stopped),
        _ => None,
    }
}

/// What to make of a worker that is subscribed and does not answer, and of the processes of its name.
fn silent(name: &str, processes: &[&Local], tool: bool) -> (&'static str, Finding) {
    let culprit = culprit(processes);
    let finding = |status, summary: String, why: &str| {
        let next = match culprit {
            Some(process) if !process.unit.is_empty() => {
                format!("journal read --unit {} --lines 50", process.unit)
            }
            _ => "host processes --by cpu".to_owned(),
        };
        Finding::new(status, name, summary).why(why).next(next)
    };
    let busy = !processes.is_empty() && processes.iter().all(|p| p.solo && !p.stopped);
    match culprit {
        Some(process) if process.stopped => {
            let summary = format!("{name} is hung: its process {} is stopped", process.pid);
            (
                "hung",
                finding(Status::Critical, summary, "a signal stopped it; SIGCONT lets it go on"),
            )
        }
        _ if busy => {
            let summary = format!("{name} is busy: a solo pool cannot answer while a task runs");
            (
                "busy",
                finding(Status::Warning, summary, "no other task runs until that one has ended"),
            )
        }
        Some(process) if tool => {
            let summary =
                format!("{name} is hung: its process {} runs, and it does not answer", process.pid);
            let why = "it has lost its broker, or runs no task any more; or it has only begun";
            ("hung", finding(Status::Critical, summary, why))
        }
        None if !processes.is_empty() => {
            let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
            let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
            let summary = format!("{name} is hung: subscribed, and it does not answer");
            let why = format!(
                "the processes {} have this name, and nobody can tell which of them it is: name each \
                 with -n, or the unit of each application in `after` of its [[celery]]",
                list(&pids)
            );
            ("hung", finding(Status::Critical, summary, &why))
        }
        _ => {
            let summary = format!("{name} is hung: subscribed, and it does not answer");
            let why =
                "it holds the tasks that it took, and runs none; with a solo pool it may be busy";
            ("hung", finding(Status::Critical, summary, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answers(subscribed: usize, names: &[&str]) -> Answers {
        let by_worker = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
        Answers { subscribed, answered: names.len(), by_worker, ..Answers::default() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_worker_of_this_host_is_named_before_what_containers_that_are_gone_left_behind() {
        let bound = names(&["celery@1a2b3c", "celery@4d5e6f", "mail@h1"]);
        let local = [Local::example("mail@h1", true, false)];
        let (workers, findings) = told("app", &answers(1, &[]), &bound, &local, false);
        assert_eq!(workers[0].name, "mail@h1");
        assert_eq!((workers.len(), findings.len()), (1, 1));
        let (workers, _) = told("app", &answers(1, &[]), &[], &local, false);
        assert_eq!(workers[0].name, "mail@h1", "its binding is gone, its process is not");
    }

    #[test]
    fn a_process_is_blamed_only_where_it_is_the_one_that_does_not_answer() {
        let of = |pid: u32, unit: &str, stopped: bool, solo: bool| {
            let mut process = Local::example("celery@h1", stopped, solo);
            (process.pid, process.unit) = (pid, unit.to_owned());
            process
        };
        let said = |local: &[Local]| {
            let bound = names(&["celery@h1"]);
            let (mut workers, mut findings) = told("app", &answers(1, &[]), &bound, local, false);
            assert_eq!((workers.len(), findings.len()), (1, 1), "{findings:?}");
            (workers.remove(0).state, findings.remove(0))
        };
        // The other application's solo worker comes first, and is well.
        let (state, finding) = said(&[of(7, "a.service", false, true), of(8, "", true, false)]);
        assert_eq!(state, "hung");
        assert!(finding.summary.contains("its process 8 is stopped"), "{finding:?}");
        assert!(!finding.next.contains("a.service"), "{finding:?}");
        let (state, finding) =
            said(&[of(7, "a.service", false, true), of(8, "b.service", false, false)]);
        assert_eq!((state.as_str(), finding.next.as_str()), ("hung", "host processes --by cpu"));
        assert!(finding.why.contains("7, 8"), "{finding:?}");
        let mut own = of(8, "b.service", false, false);
        own.own = true;
        let (_, finding) = said(&[of(7, "a.service", true, false), own]);
        assert_eq!(finding.next, "journal read --unit b.service --lines 50");
        let (state, _) = said(&[of(7, "a.service", false, true), of(8, "", false, true)]);
        assert_eq!(state, "busy", "whichever it is");
    }

    #[test]
    fn several_workers_of_one_name_are_several() {
        let local =
            [Local::example("celery@h1", false, false), Local::example("celery@h1", false, false)];
        let bound = names(&["celery@h1"]);
        let (workers, findings) = told("app", &answers(2, &[]), &bound, &local, false);
        assert_eq!((workers.len(), findings.len()), (2, 2), "{findings:?}");
    }

    #[test]
    fn another_applications_worker_is_not_named_while_one_of_this_one_is_missing_elsewhere() {
        let local = [Local::example("other@h1", false, false)];
        let bound = names(&["celery@h9"]);
        let (workers, _) = told("app", &answers(1, &[]), &bound, &local, false);
        let told: Vec<_> = workers.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(told, ["celery@h9"]);
    }

    #[test]
    fn where_more_names_are_bound_than_workers_are_missing_nobody_is_blamed_alone() {
        let bound = names(&["celery@1a2b3c", "celery@4d5e6f"]);
        let (workers, findings) = told("app", &answers(2, &["celery@h1"]), &bound, &[], false);
        assert!(workers.is_empty());
        assert_eq!(findings[0].status(), Status::Critical);
        let said = "1 of 2 workers do not answer: of celery@1a2b3c, celery@4d5e6f";
        assert_eq!(findings[0].summary, said);
    }

    #[test]
    fn a_worker_without_a_name_is_told_as_one() {
        let (_, findings) = told("app", &answers(1, &[]), &[], &[], false);
        assert_eq!(findings[0].status(), Status::Critical);
        assert!(findings[0].summary.starts_with("1 of 1 workers"), "{findings:?}");
        let (workers, findings) = told("app", &answers(3, &["a@h"]), &names(&["b@h"]), &[], false);
        assert_eq!((workers.len(), findings.len()), (1, 2));
    }

    #[test]
    fn an_answer_without_all_workers_is_unknown_in_part() {
        assert_eq!(part("app", &answers(1, &["a@h"])), None);
        let finding = part("app", &answers(2, &["a@h"])).expect("a finding");
        assert_eq!(finding.status(), Status::Unknown);
        assert_eq!(finding.summary, "1 of 2 workers did not answer");
    }
}
