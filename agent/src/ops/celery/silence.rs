//! Workers that are subscribed and do not answer: which they are, and what to make of that.

use hostler_proto::{
    ops::CeleryWorker,
    wire::{Finding, Status},
};

use super::{local::Local, pidbox::Answers};

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
    let mut tell = |name: &str, process: Option<&Local>| {
        let (state, finding) = silent(name, process, tool);
        let (name, state) = (name.to_owned(), state.to_owned());
        workers.push(CeleryWorker { name, state, ..CeleryWorker::default() });
        findings.push(finding);
    };
    let mut left = answers.missing();
    // A process that runs here is no name of one that is gone.
    let mut here: Vec<(&Local, String)> = local
        .iter()
        .map(|process| (process, process.name()))
        .filter(|(_, name)| !answers.by_worker.contains_key(name) && !name.contains('%'))
        .collect();
    here.sort_by_key(|(_, name)| !bound.contains(name));
    for (process, name) in here.iter().take(left) {
        tell(name, Some(process));
    }
    let elsewhere: Vec<&str> = bound
        .iter()
        .filter(|name| !here.iter().any(|(_, local)| local == *name))
        .map(String::as_str)
        .collect();
    left = left.saturating_sub(here.len());
    let certain = elsewhere.len() <= left;
    for name in elsewhere.iter().filter(|_| certain) {
        tell(name, None);
    }
    if certain {
        left = left.saturating_sub(elsewhere.len());
    }
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

/// What to make of a worker that is subscribed and does not answer.
fn silent(name: &str, local: Option<&Local>, tool: bool) -> (&'static str, Finding) {
    let finding = |status, summary: String, why: &str| {
        let next = match local {
            Some(process) if !process.unit.is_empty() => {
                format!("journal read --unit {} --lines 50", process.unit)
            }
            _ => "host processes --by cpu".to_owned(),
        };
        Finding::new(status, name, summary).why(why).next(next)
    };
    match local {
        Some(process) if process.stopped => {
            let summary = format!("{name} is hung: its process {} is stopped", process.pid);
            (
                "hung",
                finding(Status::Critical, summary, "a signal stopped it; SIGCONT lets it go on"),
            )
        }
        Some(process) if process.solo => {
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
