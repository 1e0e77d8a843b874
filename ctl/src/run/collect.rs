//! What has come back so far, of all hosts.

use std::{cmp::Reverse, collections::BTreeMap};

use hostler_proto::wire::{
    Delivery, Event, HostEvent, LogLine, Progress, RunStarted, RunSummary, event,
};

use crate::{
    exit::Exit,
    show::report::{End, Report},
};

/// Most text of log lines that is kept until the end; what is shown as it comes is not kept.
const MAX_LINES: usize = 64 << 20;

/// What an event asks to be shown at once.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Nothing.
    None,
    /// A log line.
    Line(LogLine),
    /// The host has ended.
    Ended,
}

/// The reports of a run in the making.
#[derive(Debug, Default)]
pub struct Collected {
    reports: BTreeMap<String, Report>,
    ended: usize,
    doing: String,
    summary: Option<RunSummary>,
    keep_lines: bool,
    kept: usize,
    left_out: usize,
}

impl Collected {
    /// Nothing yet. Log lines are kept only for what is written at the end.
    pub fn new(keep_lines: bool) -> Self {
        Self { keep_lines, ..Self::default() }
    }

    /// Lines are shown as they come.
    pub fn keep_no_lines(&mut self) {
        self.keep_lines = false;
    }

    /// The hosts that it concerns.
    pub fn started(&mut self, started: RunStarted) {
        for host in started.hosts {
            self.reports.entry(host.clone()).or_insert_with(|| Report::begun(host));
        }
    }

    /// Takes in what a host tells.
    pub fn event(&mut self, event: HostEvent) -> News {
        let delivery = event.delivery();
        let entry = self.reports.entry(event.host.clone());
        let report = entry.or_insert_with(|| Report::begun(&event.host));
        if delivery != Delivery::Unspecified {
            report.delivery = delivery;
        }
        let Some(Event { event: Some(told) }) = event.event else { return News::None };
        match told {
            event::Event::Progress(progress) => {
                self.doing = format!("{}: {}", event.host, told_progress(&progress));
                News::None
            }
            event::Event::Step(step) => {
                report.steps.push(step);
                News::None
            }
            event::Event::Line(line) => {
                report.line_count += 1;
                if !self.keep_lines {
                    return News::Line(line);
                }
                self.kept += line.text.len() + line.source.len() + line.cursor.len();
                if self.kept <= MAX_LINES {
                    report.lines.push(line);
                } else {
                    self.left_out += 1;
                }
                News::None
            }
            event::Event::Outcome(outcome) => {
                report.end = End::Outcome(outcome);
                report.ended = true;
                self.ended += 1;
                News::Ended
            }
            event::Event::Failure(failure) => {
                report.end = End::Failure(failure);
                report.ended = true;
                self.ended += 1;
                News::Ended
            }
        }
    }

    /// The end, as the controller counts it.
    pub fn summarised(&mut self, summary: RunSummary) {
        self.summary = Some(summary);
    }

    /// The controller has told the end.
    pub fn is_complete(&self) -> bool {
        self.summary.is_some()
    }

    /// Log lines that did not fit into the document.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How far it is, in one line.
    pub fn progress(&self) -> String {
        let (ended, all) = (self.ended, self.reports.len());
        match self.doing.as_str() {
            "" => format!("{ended} of {all} hosts"),
            doing => format!("{ended} of {all} hosts, {doing}"),
        }
    }

    /// The report of one host.
    pub fn report(&self, host: &str) -> Option<&Report> {
        self.reports.get(host)
    }

    /// All reports: failures first, the worst first, then by name.
    pub fn reports(&self) -> Vec<Report> {
        let mut reports: Vec<_> = self.reports.values().cloned().collect();
        reports.sort_by(|a, b| a.rank().cmp(&b.rank()));
        reports
    }

    /// How the program ends. Hosts of which nothing was heard did not answer.
    pub fn exit(&self) -> Exit {
        let summary = self.summary.unwrap_or_else(|| self.counted());
        let failures = self.reports.values().filter(|r| r.outcome().is_none());
        Exit::of_run(&summary, failures.map(Report::exit))
    }

    /// The counts, from what was heard.
    fn counted(&self) -> RunSummary {
        let mut summary = RunSummary::default();
        for report in self.reports.values() {
            let count = match (report.word(), report.exit()) {
                ("warning", _) => &mut summary.warning,
                ("critical", _) => &mut summary.critical,
                ("unknown", _) => &mut summary.unknown,
                (_, Exit::AllWell) => &mut summary.ok,
                (_, Exit::Unanswered) => &mut summary.unreachable,
                _ => &mut summary.failed,
            };
            *count += 1;
        }
        summary
    }

    /// The counts in the words that the hosts are shown with: "38 ok, 1 critical, 1 unreachable".
    pub fn counts(&self) -> String {
        // The best first, as most are.
        let mut counts: BTreeMap<Reverse<u8>, (usize, &str)> = BTreeMap::new();
        for report in self.reports.values() {
            counts.entry(Reverse(report.rank().0)).or_insert((0, report.word())).0 += 1;
        }
        let told: Vec<_> = counts.values().map(|(n, what)| format!("{n} {what}")).collect();
        match self.summary.unwrap_or_default().took_s {
            took if took > 0.0 => {
                format!("{} in {}", told.join(", "), crate::show::value::duration(took))
            }
            _ => told.join(", "),
        }
    }
}

fn told_progress(progress: &Progress) -> String {
    match (progress.done, progress.total) {
        (0, 0) => progress.doing.clone(),
        (done, 0) => format!("{} {done} {}", progress.doing, progress.unit),
        (done, total) => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{} {percent} %", progress.doing)
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{ErrorCode, Failure, Outcome, Status};

    use super::*;

    fn ended(host: &str, end: event::Event) -> HostEvent {
        HostEvent {
            host: host.into(),
            event: Some(Event { event: Some(end) }),
            delivery: Delivery::Reported.into(),
        }
    }

    fn outcome(status: Status) -> event::Event {
        event::Event::Outcome(Outcome { status: status.into(), ..Outcome::default() })
    }

    #[test]
    fn a_host_of_which_nothing_was_heard_is_neither_well_nor_failed() {
        let mut collected = Collected::new(false);
        collected
            .started(RunStarted { hosts: vec!["a".into(), "b".into()], ..RunStarted::default() });
        assert_eq!(collected.event(ended("a", outcome(Status::Ok))), News::Ended);
        assert_eq!(collected.exit(), Exit::Unanswered);
        assert_eq!(collected.reports()[0].word(), "outcome-unknown");
        assert_eq!(collected.counts(), "1 ok, 1 outcome-unknown");
    }

    #[test]
    fn a_host_that_said_nothing_in_time_is_counted_with_the_word_that_it_is_shown_with() {
        let mut collected = Collected::new(false);
        collected.event(ended("a", outcome(Status::Ok)));
        let silent = Failure::new(ErrorCode::Timeout, "b said nothing until 2 s");
        collected.event(ended("b", event::Event::Failure(silent)));
        assert_eq!(collected.reports()[0].word(), "timeout");
        assert_eq!(collected.counts(), "1 ok, 1 timeout");
        assert_eq!(collected.exit(), Exit::Unanswered);
    }

    #[test]
    fn the_worst_comes_first() {
        let mut collected = Collected::new(false);
        collected.event(ended("a", outcome(Status::Ok)));
        collected.event(ended("b", outcome(Status::Critical)));
        let denied = Failure::new(ErrorCode::PermissionDenied, "no");
        collected.event(ended("c", event::Event::Failure(denied)));
        let hosts: Vec<_> = collected.reports().into_iter().map(|r| r.host).collect();
        assert_eq!(hosts, ["c", "b", "a"]);
        assert_eq!(collected.exit(), Exit::Failed);
    }

    #[test]
    fn lines_are_kept_only_for_a_document_and_only_so_many() {
        let line = |n: usize| {
            let line = LogLine { text: "x".repeat(n), ..LogLine::default() };
            ended("a", event::Event::Line(line))
        };
        let mut shown = Collected::new(false);
        assert!(matches!(shown.event(line(3)), News::Line(_)));
        assert_eq!(shown.report("a").expect("a").line_count, 1);
        let mut kept = Collected::new(true);
        assert_eq!(kept.event(line(3)), News::None);
        kept.event(line(MAX_LINES));
        assert_eq!((kept.report("a").expect("a").lines.len(), kept.left_out()), (1, 1));
    }
}
