//! What became of an operation on one host.

use hostler_proto::wire::{
    Delivery, ErrorCode, Evidence, Failure, LogLine, Outcome, PlanStep, Status,
};

use crate::exit::Exit;

/// Rank of what nobody has to look at.
pub const WELL: u8 = 8;

/// Everything that one host told, and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The host.
    pub host: String,
    /// How it ended.
    pub end: End,
    /// What an action would do, or did.
    pub steps: Vec<PlanStep>,
    /// Log lines, where they are kept instead of being shown as they come.
    pub lines: Vec<LogLine>,
    /// How many log lines came, kept or shown.
    pub line_count: u64,
    /// It was told how it ended.
    pub ended: bool,
    /// How far the task is known to have come.
    pub delivery: Delivery,
}

/// How an operation ended on a host.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It ran to its end.
    Outcome(Outcome),
    /// It did not.
    Failure(Failure),
}

impl Report {
    /// A report of a host that has not ended yet; it stays this way when nothing more is heard.
    pub fn begun(host: impl Into<String>) -> Self {
        let failure = Failure::new(ErrorCode::OutcomeUnknown, "nothing was heard of how it ended");
        Self {
            host: host.into(),
            end: End::Failure(failure),
            steps: Vec::new(),
            lines: Vec::new(),
            line_count: 0,
            ended: false,
            delivery: Delivery::Unspecified,
        }
    }

    /// The state in one word.
    pub fn word(&self) -> &'static str {
        match &self.end {
            End::Outcome(outcome) => word(outcome.status()),
            End::Failure(failure) => match failure.code() {
                ErrorCode::Unreachable => "unreachable",
                ErrorCode::OutcomeUnknown => "outcome-unknown",
                ErrorCode::Timeout => "timeout",
                ErrorCode::Cancelled => "cancelled",
                _ => "failed",
            },
        }
    }

    /// The state in one line.
    pub fn summary(&self) -> String {
        match &self.end {
            End::Outcome(outcome) => outcome.summary.clone(),
            End::Failure(failure) => failure.to_string(),
        }
    }

    /// The outcome, if there is one.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.end {
            End::Outcome(outcome) => Some(outcome),
            End::Failure(_) => None,
        }
    }

    /// What was really asked of the system.
    pub fn evidence(&self) -> &[Evidence] {
        match &self.end {
            End::Outcome(outcome) => &outcome.evidence,
            End::Failure(failure) => &failure.evidence,
        }
    }

    /// How it counts for the program's exit status.
    pub fn exit(&self) -> Exit {
        match &self.end {
            End::Outcome(outcome) => match outcome.status() {
                Status::Critical => Exit::Failed,
                Status::Unknown => Exit::Unanswered,
                Status::Unspecified | Status::Ok | Status::Warning => Exit::AllWell,
            },
            End::Failure(failure) => Exit::of_failure(failure),
        }
    }

    /// Where it stands in a list: failures first, the worst first, then by name.
    pub fn rank(&self) -> (u8, &str) {
        let rank = match self.word() {
            "failed" => 0,
            "outcome-unknown" => 1,
            "timeout" => 2,
            "unreachable" => 3,
            "cancelled" => 4,
            "critical" => 5,
            "unknown" => 6,
            "warning" => 7,
            _ => WELL,
        };
        (rank, &self.host)
    }
}

/// A status in one word; an operation that only reports is `done`.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "done",
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Critical => "critical",
        Status::Unknown => "unknown",
    }
}
