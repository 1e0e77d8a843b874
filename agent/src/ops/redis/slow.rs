//! Which of the slow commands and latency events of a server deserve attention: those of late that kept
//! all others waiting for long.

use hostler_proto::{
    operation::{Operation, RedisSlowLog},
    ops::{LatencyEvent, RedisSlowLog as Report, RedisSlowLogRequest},
    wire::{Finding, Status},
};

use crate::{
    amount,
    bounds::{Bound, Bounds},
};

/// Characters of a command that stand in a sentence.
const SHOWN: usize = 60;

/// What is said of them; a command is not told a second time as an event of that name.
pub(super) fn judge(
    name: &str,
    report: &Report,
    request: &RedisSlowLogRequest,
    now_s: i64,
) -> Vec<Finding> {
    let slow_s = f64::from(request.slow_ms) * 1e-3;
    let of_late = |at_s: i64| now_s.saturating_sub(at_s) <= i64::from(request.within_s);
    let bound = Bound::of(<RedisSlowLog as Operation>::NAME, "slow-ms", request.slow_ms.into());
    let origin = "ten times what Redis logs as slow (slowlog-log-slower-than)";
    let bounds = Bounds::warning(bound.times(1e-3), origin);
    let finding = |subject: &str, summary: String, why: &str, took_s: f64| {
        let finding = Finding::new(Status::Warning, subject, summary)
            .why(why)
            .next(format!("redis slow-log {name}"));
        bounds.told(finding, took_s, "s")
    };
    let late = amount::span(f64::from(request.within_s));
    let slow: Vec<_> =
        report.commands.iter().filter(|c| c.took_s >= slow_s && of_late(c.at_s)).collect();
    let slowest = slow.iter().max_by(|a, b| a.took_s.total_cmp(&b.took_s));
    let mut findings = Vec::new();
    if let Some(slowest) = slowest {
        let many = match slow.len() {
            1 => "1 command".to_owned(),
            n => format!("{n} commands"),
        };
        let command: String = slowest.command.chars().take(SHOWN).collect();
        let summary = format!(
            "redis \"{name}\" is slow: {many} of {} ms or more in the last {late}, the longest \
             {:.0} ms: {command}",
            request.slow_ms,
            slowest.took_s * 1e3
        );
        let why = "it carries out one command at a time: all others wait for as long";
        findings.push(finding(name, summary, why, slowest.took_s));
    }
    let told = |event: &&LatencyEvent| {
        event.last_s >= slow_s
            && of_late(event.at_s)
            && !(slowest.is_some() && event.event.ends_with("command"))
    };
    for event in report.events.iter().filter(told) {
        let LatencyEvent { event, last_s, .. } = event;
        let summary = format!(
            "redis \"{name}\" stood still for {:.0} ms in the last {late}: {event}",
            last_s * 1e3
        );
        findings.push(finding(event, summary, "all commands waited for as long", *last_s));
    }
    findings
}

#[cfg(test)]
mod tests {
    use hostler_proto::ops::SlowCommand;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn judged(commands: &[(i64, f64)], events: &[(&str, i64, f64)]) -> Vec<Finding> {
        let request = RedisSlowLogRequest { slow_ms: 100, within_s: 600, ..Default::default() };
        let command = |&(age, took_ms): &(i64, f64)| SlowCommand {
            at_s: NOW - age,
            took_s: took_ms / 1000.0,
            command: "eval".to_owned(),
            ..Default::default()
        };
        let event = |&(event, age, last_ms): &(&str, i64, f64)| LatencyEvent {
            event: event.to_owned(),
            at_s: NOW - age,
            last_s: last_ms / 1000.0,
            longest_s: 9.0,
        };
        let report = Report {
            commands: commands.iter().map(command).collect(),
            events: events.iter().map(event).collect(),
            length: None,
        };
        judge("main", &report, &request, NOW)
    }

    #[test]
    fn commands_that_kept_all_others_waiting_of_late_are_a_warning_and_older_ones_are_none() {
        let found = judged(&[(5, 12.5), (30, 1994.0), (90, 100.0)], &[]);
        assert_eq!((found.len(), found[0].status()), (1, Status::Warning));
        let said = "redis \"main\" is slow: 2 commands of 100 ms or more in the last 10 min, the \
                    longest 1994 ms: eval";
        assert_eq!(found[0].summary, said);
        assert_eq!((found[0].value, found[0].warning), (Some(1.994), Some(0.1)));
        assert!(found[0].source.contains("slowlog-log-slower-than"));
        assert_eq!(judged(&[(601, 1994.0), (5, 99.0)], &[]), []);
    }

    #[test]
    fn a_latency_event_of_late_is_told_unless_it_is_of_the_command_itself() {
        let events = [("fork", 60, 300.0), ("command", 60, 1994.0), ("aof-write", 700, 300.0)];
        let subjects = |found: Vec<Finding>| -> Vec<String> {
            found.into_iter().map(|finding| finding.subject).collect()
        };
        assert_eq!(subjects(judged(&[], &events)), ["fork", "command"]);
        assert_eq!(subjects(judged(&[(60, 1994.0)], &events)), ["main", "fork"]);
    }
}
