//! Follows a run from its start to its summary, and shows what comes.

use std::time::Duration;

use hostler_core::telemetry;
use hostler_proto::{
    catalogue::OperationSpec,
    wire::{CancelRequest, Kind, LogLine, RunRequest, run_event},
};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    collect::{Collected, News},
    follows, how_many,
    interrupt::{Interrupts, Step},
};
use crate::{
    connect::Controller,
    exit::{Exit, Problem},
    screen::{Screen, harmless},
    show::{
        Form,
        json::{self, Entry, Line},
        report::{Report, WELL},
        table, value,
    },
};

/// How often the progress line is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);

/// Sends the request and shows what comes back, until the end or until Ctrl-C.
///
/// # Errors
/// When the controller refuses it, or is lost before the end.
pub async fn run(
    spec: &OperationSpec,
    controller: &Controller,
    request: RunRequest,
    form: Form,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let acts = spec.kind == Kind::Action && !request.plan;
    let follows = follows(spec, &request.request);
    let (invocation, confirmed) = (request.invocation.clone(), request.confirmed > 0);
    let timeout_s = request.timeout_s;
    let mut interrupts = Interrupts::listen(acts)?;
    let mut shown = Shown {
        spec,
        form,
        screen,
        collected: Collected::new(match form {
            Form::Json | Form::Yaml => true,
            // Those of many hosts are shown in the order of their times.
            Form::Table | Form::Wide => spec.follows && !follows,
            Form::Jsonl | Form::Name => false,
        }),
        lines: false,
    };
    let span = tracing::info_span!("command", operation = spec.name);
    let request = span.in_scope(|| {
        let mut request = tonic::Request::new(request);
        telemetry::send(request.metadata_mut());
        request
    });
    let mut operations = controller.operations();
    let started = tokio::select! {
        started = operations.run(request) => started.map_err(|s| controller.unmatched(s))?,
        step = interrupts.next() => {
            let message = match step {
                Step::End => "interrupted before the controller answered".to_owned(),
                _ => format!(
                    "interrupted before the controller answered; `hostlerctl audit show \
                     {invocation}` tells whether it began"
                ),
            };
            return Err(Problem::new(Exit::Unanswered, message));
        }
    };
    let mut stream = started.into_inner();
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(event)) => match event.event {
                    Some(run_event::Event::Started(started)) => {
                        // Where it was confirmed it was told before.
                        if !confirmed && started.hosts.len() > 1 {
                            let told = how_many(&spec.name, started.hosts.len(), started.of);
                            shown.screen.say(&told);
                        }
                        // Nothing has to be put in order, and lines can be shown as they come.
                        if started.hosts.len() == 1 && !form.is_data() {
                            shown.collected.keep_no_lines();
                        }
                        shown.collected.started(started);
                    }
                    Some(run_event::Event::Host(event)) => shown.event(event)?,
                    Some(run_event::Event::Summary(summary)) => {
                        shown.collected.summarised(summary);
                    }
                    None => {}
                },
                Ok(None) if shown.collected.is_complete() => break Ok(()),
                Ok(None) => break Err(controller.cut_short()),
                Err(status) => break Err(controller.problem(status)),
            },
            step = interrupts.next() => match step {
                Step::End => break Ok(()),
                Step::Leave => break Ok(()),
                Step::Detach => shown.screen.tell(&format!(
                    "it goes on without you: `hostlerctl audit show {invocation}` tells how it \
                     ends\npress Ctrl-C again within 3 s to cancel it"
                )),
                Step::Cancel => cancel(controller, &invocation, shown.screen).await,
            },
            _ = redraw.tick() => shown.progress(),
        }
    };
    shown.finish(follows)?;
    if follows && timeout_s > 0 && shown.collected.is_complete() {
        shown.screen.say(&format!("it was followed for {timeout_s} s, as --timeout says"));
    }
    match ended {
        Err(problem) if acts => {
            let hint = format!("`hostlerctl audit show {invocation}` tells how it ended");
            Err(Problem { hint, ..problem })
        }
        Err(problem) => Err(problem),
        // Whoever follows until Ctrl-C has got what was asked for.
        Ok(()) if follows && !shown.collected.is_complete() => Ok(Exit::AllWell),
        Ok(()) => Ok(shown.collected.exit()),
    }
}

async fn cancel(controller: &Controller, invocation: &str, screen: &mut Screen) {
    let mut operations = controller.operations();
    let request = CancelRequest { invocation: invocation.to_owned() };
    match controller.answer(operations.cancel(request)).await {
        Ok(reply) => {
            screen.tell(&format!("cancelled where it still ran: {} hosts", reply.cancelled))
        }
        Err(problem) => screen.tell(&format!("it could not be cancelled: {problem}")),
    }
}

struct Shown<'a> {
    spec: &'a OperationSpec,
    form: Form,
    screen: &'a mut Screen,
    collected: Collected,
    /// Log lines were shown: a progress line would only flicker between them.
    lines: bool,
}

impl Shown<'_> {
    fn event(&mut self, event: hostler_proto::wire::HostEvent) -> Result<(), Problem> {
        let host = event.host.clone();
        match self.collected.event(event) {
            News::None => {}
            News::Line(line) => {
                self.lines = true;
                let text = match self.form {
                    Form::Jsonl => json::line(&Line::of(Some(&host), &line))?,
                    Form::Name => return Ok(()),
                    _ => log_line(&host, &line),
                };
                self.screen.data(&text)?;
            }
            News::Ended if self.form == Form::Jsonl => {
                if let Some(report) = self.collected.report(&host) {
                    self.screen.data(&json::line(&Entry::of(report, self.spec))?)?;
                }
            }
            News::Ended => {}
        }
        Ok(())
    }

    fn progress(&mut self) {
        if self.screen.traits().watched && !self.lines {
            let text = self.collected.progress();
            self.screen.progress(&text);
        }
    }

    fn finish(&mut self, follows: bool) -> Result<(), Problem> {
        self.screen.clear();
        let reports = self.collected.reports();
        let traits = self.screen.traits();
        match self.form {
            // The lines are the data; only what went wrong is left to tell.
            Form::Table | Form::Wide if self.spec.follows => {
                let lines = merged(&reports).map(|(host, line)| log_line(host, line));
                self.screen.data(&lines.collect::<String>())?;
                let (ill, well): (Vec<_>, Vec<_>) =
                    reports.into_iter().partition(|r| r.rank().0 < WELL);
                let quiet = follows && !self.collected.is_complete();
                let plain = crate::screen::Traits { colour: false, ..traits };
                if !ill.is_empty() && !quiet {
                    self.screen.tell(table::states(&ill, false, plain).trim_end());
                    let findings = table::findings(&ill, plain);
                    if !findings.is_empty() {
                        self.screen.tell(findings.trim_end());
                    }
                }
                // Nothing at all could as well be a mistake of whoever asked.
                let silent: Vec<_> = well.into_iter().filter(|r| r.line_count == 0).collect();
                if !silent.is_empty() && !quiet {
                    self.screen.say(table::states(&silent, false, plain).trim_end());
                }
            }
            Form::Table | Form::Wide => {
                let text = table::reports(&reports, self.spec, self.form, traits);
                self.screen.data(&text)?;
            }
            Form::Name => {
                let names: String = reports.iter().map(|r| harmless(&r.host) + "\n").collect();
                self.screen.data(&names)?;
            }
            Form::Json | Form::Yaml => {
                let entries: Vec<_> = reports.iter().map(|r| Entry::of(r, self.spec)).collect();
                self.screen.data(&json::list(&entries, self.form)?)?;
            }
            Form::Jsonl => {
                // The others were written when they ended. Whoever ends a follow asks for no ends.
                let quiet = follows && !self.collected.is_complete();
                for report in reports.iter().filter(|r| !r.ended && !quiet) {
                    self.screen.data(&json::line(&Entry::of(report, self.spec))?)?;
                }
            }
        }
        if self.collected.left_out() > 0 {
            let left_out = self.collected.left_out();
            self.screen.tell(&format!("{left_out} log lines were left out; use -o jsonl for all"));
        }
        if self.collected.is_complete() && self.collected.reports().len() > 1 {
            let counts = self.collected.counts();
            self.screen.say(&counts);
        }
        Ok(())
    }
}

/// The lines of all hosts in the order of their times. One without a time belongs to the line before it.
fn merged(reports: &[Report]) -> impl Iterator<Item = (&str, &LogLine)> {
    let mut lines = Vec::new();
    for report in reports {
        let mut last = 0;
        for line in &report.lines {
            last = if line.time_us == 0 { last } else { line.time_us };
            lines.push((last, report.host.as_str(), line));
        }
    }
    // A stable sort keeps what one host told at one time as it was told.
    lines.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    lines.into_iter().map(|(_, host, line)| (host, line))
}

fn log_line(host: &str, line: &LogLine) -> String {
    let parts = [
        harmless(host),
        value::fine_moment(line.time_us),
        harmless(&line.source),
        harmless(&line.text),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    parts.join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_many_hosts_stand_in_the_order_of_their_times_and_traces_stay_together() {
        let report = |host: &str, lines: &[(i64, &str)]| {
            let line = |(time_us, text): &(i64, &str)| LogLine {
                time_us: *time_us,
                text: (*text).into(),
                ..LogLine::default()
            };
            Report { lines: lines.iter().map(line).collect(), ..Report::begun(host) }
        };
        let reports = [
            report("b", &[(2, "error"), (0, "  at x"), (0, "  at y"), (5, "end")]),
            report("a", &[(2, "same time"), (3, "between")]),
        ];
        let texts: Vec<_> = merged(&reports).map(|(host, l)| (host, l.text.as_str())).collect();
        let trace = [("b", "error"), ("b", "  at x"), ("b", "  at y")];
        let all = [&[("a", "same time")], &trace[..], &[("a", "between"), ("b", "end")]].concat();
        assert_eq!(texts, all);
    }

    #[test]
    fn a_log_line_is_one_line_whatever_the_host_sends() {
        let line = LogLine {
            time_us: 1_774_742_400_123_000,
            source: "nginx.service".into(),
            text: "GET /\x1b]0;owned\x07 200\nfaked line".into(),
            ..LogLine::default()
        };
        assert_eq!(
            log_line("web-1", &line),
            "web-1 2026-03-29T00:00:00.123Z nginx.service GET / 200 faked line\n"
        );
    }
}
