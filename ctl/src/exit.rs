//! How the program ends: the one table of exit statuses, and the error that carries one.

use hostler_proto::{
    args::ArgumentError,
    failure::joint,
    wire::{ErrorCode, Failure, RunSummary},
};
use thiserror::Error;

use crate::context::ContextError;

/// An exit status of hostlerctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for is done, and nothing is critical.
    AllWell = 0,
    /// An operation failed, or a probe is critical.
    Failed = 1,
    /// The command line cannot be carried out as it is.
    Usage = 2,
    /// Not every host answered.
    Unanswered = 3,
    /// The operator, or the certificate, may not.
    Denied = 4,
    /// There was no controller to ask, or it did not answer in time.
    Controller = 5,
    /// The selector matches nothing.
    NoHost = 6,
}

impl Exit {
    /// Every exit status, in order.
    pub const ALL: [Self; 7] = [
        Self::AllWell,
        Self::Failed,
        Self::Usage,
        Self::Unanswered,
        Self::Denied,
        Self::Controller,
        Self::NoHost,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it tells, for `hostlerctl help exit-codes`.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AllWell => "all well: done everywhere, and nothing is critical",
            Self::Failed => "an operation failed, or a probe is critical, on at least one host",
            Self::Usage => "the command line is wrong, or a confirmation was not given",
            Self::Unanswered => {
                "not every host answered: unreachable, or the state or outcome is unknown"
            }
            Self::Denied => "not allowed, by the controller or by the host's own policy",
            Self::Controller => "the controller cannot be reached, or did not answer in time",
            Self::NoHost => "no host matches the selector",
        }
    }

    /// How a run ended. The summary counts; `failures` are the statuses of the hosts that failed,
    /// and tell whether they failed because they were not allowed, or did not answer.
    pub fn of_run(summary: &RunSummary, failures: impl IntoIterator<Item = Self>) -> Self {
        if summary.critical > 0 {
            return Self::Failed;
        }
        let order = [Self::Failed, Self::Denied, Self::Usage, Self::Unanswered];
        let worst = |code: &Self| order.iter().position(|o| o == code).unwrap_or(order.len());
        let failed = failures.into_iter().filter(|f| *f != Self::AllWell).min_by_key(worst);
        match summary {
            RunSummary { failed: 1.., .. } => failed.unwrap_or(Self::Failed),
            RunSummary { unknown: 1.., .. } | RunSummary { unreachable: 1.., .. } => {
                Self::Unanswered
            }
            _ => Self::AllWell,
        }
    }

    /// How a host's failure counts.
    pub fn of_failure(failure: &Failure) -> Self {
        let code = failure.meaning().exit;
        Self::ALL.into_iter().find(|e| e.code() == code).unwrap_or(Self::Failed)
    }
}

/// Text of `hostlerctl help exit-codes`.
pub fn table() -> String {
    Exit::ALL.iter().map(|e| format!("{}  {}\n", e.code(), e.meaning())).collect()
}

/// Why the program ends before its work is done: what happened, to what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}{}{hint}", joint(message, hint))]
pub struct Problem {
    /// The status to exit with.
    pub exit: Exit,
    /// What happened, to what.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Problem {
    /// A problem without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: String::new() }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The reader of the output has seen enough; nothing is said about it.
    pub fn is_silent(&self) -> bool {
        self.exit == Exit::AllWell
    }
}

/// A controller's refusal. Unlike a host's failure, silence of the controller itself has a status
/// of its own.
impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let exit = match failure.code() {
            ErrorCode::Unreachable | ErrorCode::Timeout => Exit::Controller,
            _ => Exit::of_failure(&failure),
        };
        Self { exit, message: failure.message, hint: failure.hint }
    }
}

impl From<ArgumentError> for Problem {
    fn from(error: ArgumentError) -> Self {
        Failure::from(error).into()
    }
}

impl From<ContextError> for Problem {
    fn from(error: ContextError) -> Self {
        let hint = error.advice();
        Self::usage(error.to_string()).hint(hint)
    }
}

/// Errors of writing the output; a closed pipe is a quiet end.
impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::AllWell, ""),
            _ => Self::new(Exit::Failed, format!("the output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_exit_statuses_are_numbered_without_gaps() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_table_of_exit_statuses_is_what_help_shows() {
        insta::assert_snapshot!(table(), @"
        0  all well: done everywhere, and nothing is critical
        1  an operation failed, or a probe is critical, on at least one host
        2  the command line is wrong, or a confirmation was not given
        3  not every host answered: unreachable, or the state or outcome is unknown
        4  not allowed, by the controller or by the host's own policy
        5  the controller cannot be reached, or did not answer in time
        6  no host matches the selector
        ");
    }

    #[test]
    fn every_error_code_has_an_exit_status_of_the_table() {
        for code in (1..=15).filter_map(|n| ErrorCode::try_from(n).ok()) {
            let failure = Failure::new(code, "x");
            assert_eq!(Exit::of_failure(&failure).code(), failure.meaning().exit, "{code:?}");
        }
    }

    #[test]
    fn a_silent_controller_and_a_silent_host_are_told_apart() {
        let failure = Failure::new(ErrorCode::Unreachable, "gone");
        assert_eq!(Exit::of_failure(&failure), Exit::Unanswered);
        assert_eq!(Problem::from(failure).exit, Exit::Controller);
    }

    #[test]
    fn hosts_that_failed_because_they_forbid_it_are_told_from_those_that_broke() {
        let summary = RunSummary { ok: 3, failed: 2, ..RunSummary::default() };
        assert_eq!(Exit::of_run(&summary, [Exit::Denied, Exit::Denied]), Exit::Denied);
        assert_eq!(Exit::of_run(&summary, [Exit::Denied, Exit::Failed]), Exit::Failed);
        assert_eq!(Exit::of_run(&summary, [Exit::Unanswered]), Exit::Unanswered);
        assert_eq!(Exit::of_run(&summary, []), Exit::Failed);
    }

    proptest! {
        #[test]
        fn a_run_is_all_well_exactly_when_every_host_is_ok_or_warns(
            ok in 0_u32..3, warning in 0_u32..3, critical in 0_u32..3,
            unknown in 0_u32..3, failed in 0_u32..3, unreachable in 0_u32..3,
        ) {
            let summary = RunSummary {
                ok, warning, critical, unknown, failed, unreachable, took_s: 0.0,
            };
            let exit = Exit::of_run(&summary, (0..failed).map(|_| Exit::Failed));
            let expected = match (critical + failed, unknown + unreachable) {
                (0, 0) => Exit::AllWell,
                (0, _) => Exit::Unanswered,
                _ => Exit::Failed,
            };
            prop_assert_eq!(exit, expected);
        }
    }
}
