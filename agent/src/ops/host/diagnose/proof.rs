//! What the looks that told of a cause really asked of the system: the SQL, the calls, the command lines.

use hostler_proto::wire::Evidence;

use super::Search;

/// Pieces that are carried along.
const MOST: usize = 40;
/// Characters of one of them.
const LONG: usize = 2000;
/// Lines that a program said.
const TAIL: usize = 5;

impl Search<'_> {
    /// Carries along what a look asked whose answer is a cause, or led to one.
    pub(super) fn prove(&mut self, asked: &[Evidence]) {
        for evidence in asked {
            let piece = bounded(evidence);
            if self.proof.len() < MOST && !self.proof.contains(&piece) {
                self.proof.push(piece);
            }
        }
    }

    /// As [`Self::prove`], of a program or a call whose answer was no operation's.
    pub(super) fn prove_one(&mut self, kind: &str, what: String) {
        self.prove(&[Evidence::new(kind, what)]);
    }
}

fn short(what: &str) -> String {
    what.chars().take(LONG).collect()
}

fn bounded(evidence: &Evidence) -> Evidence {
    let tail = &evidence.tail[evidence.tail.len().saturating_sub(TAIL)..];
    Evidence {
        kind: evidence.kind.clone(),
        what: short(&evidence.what),
        exit_code: evidence.exit_code,
        tail: tail.iter().map(|line| short(line)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use hostler_proto::wire::{Finding, Status};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        host::Host,
        operation::{Answer, Context},
    };

    #[test]
    fn the_sql_behind_a_cause_is_told_and_that_of_what_is_well_is_not() {
        let (events, _) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(Path::new("/nonexistent"));
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let mut search = Search::new(&cx);
        let asked = |sql: &str| Answer::ok("", ()).evidence("sql", sql);
        search.causes_of(Some(asked("SELECT 1")), Status::Warning);
        let slow = Finding::new(Status::Warning, "7", "a statement has run for 70 s");
        search.causes_of(Some(asked("SELECT pid").finding(slow.clone())), Status::Warning);
        search.causes_of(Some(asked("SELECT pid").finding(slow.clone())), Status::Warning);
        search.causes_of(Some(asked("SELECT low").finding(slow)), Status::Critical);
        let told: Vec<_> =
            search.answer("postgres").evidence.into_iter().map(|e| (e.kind, e.what)).collect();
        let looks = ("operations".to_owned(), "0 looks, listed in the result".to_owned());
        assert_eq!(told, [looks, ("sql".to_owned(), "SELECT pid".to_owned())]);
    }

    #[test]
    fn what_is_carried_along_has_a_bound() {
        let (events, _) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(Path::new("/nonexistent"));
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let mut search = Search::new(&cx);
        for n in 0..MOST + 5 {
            let tail = (0..50).map(|n| n.to_string()).collect();
            let what = format!("{n} {}", "ä".repeat(LONG));
            search.prove(&[Evidence { kind: "argv".into(), what, tail, exit_code: Some(1) }]);
        }
        assert_eq!(search.proof.len(), MOST);
        let first = &search.proof[0];
        assert_eq!((first.what.chars().count(), first.tail.len()), (LONG, TAIL));
        assert_eq!((first.tail[0].as_str(), first.exit_code), ("45", Some(1)));
    }
}
