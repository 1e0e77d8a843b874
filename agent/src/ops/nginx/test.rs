//! `nginx.test`: whether the configuration could be loaded.

use hostler_proto::{
    operation::NginxTest,
    ops::{NginxTest as Report, NginxTestRequest},
    wire::{Failure, Finding, Status},
};

use crate::{
    host::exec::{End, Program},
    operation::{Answer, Context, Probe},
};

/// The nginx whose configuration is tested.
pub(crate) const PROGRAM: &str = "/usr/sbin/nginx";

impl Probe for NginxTest {
    async fn observe(_: NginxTestRequest, _: &Context) -> Result<Answer<Report>, Failure> {
        let mut running = Program::new(PROGRAM).arg("-t").start()?;
        while running.line().await?.is_some() {}
        Ok(judge(&running.end().await?))
    }
}

/// Level and text of a message: `[emerg] TEXT`, or `TIME [emerg] PID#TID: TEXT`.
fn parts(message: &str) -> Option<(&str, &str)> {
    let (level, text) = message.split_once('[')?.1.split_once("] ")?;
    let number = |part: &str| part.split('#').all(|n| n.parse::<u32>().is_ok());
    match text.split_once(": ") {
        Some((ids, text)) if number(ids) => Some((level, text)),
        _ => Some((level, text)),
    }
}

/// nginx says everything on its error output, and ends a message with ` in FILE:LINE`.
fn judge(end: &End) -> Answer<Report> {
    let said = end.tail.iter().map(|l| l.trim_start_matches("nginx: ").to_owned());
    let messages: Vec<String> = said
        .filter(|l| !l.ends_with("syntax is ok") && !l.ends_with("test is successful"))
        .collect();
    let mut findings = Vec::new();
    for message in &messages {
        let Some((level, text)) = parts(message) else { continue };
        let status = match level {
            "emerg" | "alert" | "crit" | "error" => Status::Critical,
            _ => Status::Warning,
        };
        let place = text.rsplit_once(" in ").map_or("configuration", |(_, place)| place);
        let finding = Finding::new(status, place, text);
        findings.push(finding.why(match status {
            Status::Critical => {
                "a reload would be refused, and a restart would not come up again: correct it there on \
                 the host, and then `systemd reload nginx`"
            }
            _ => "nginx loads it all the same; correct it there on the host",
        }));
    }
    let well = end.code == Some(0);
    let summary =
        if well { "the configuration can be loaded" } else { "the configuration is refused" };
    let mut answer = Answer::ok(summary, Report { messages });
    answer.evidence.push(end.evidence());
    if !well && findings.is_empty() {
        let said = end.failure().message;
        let finding = Finding::new(Status::Unknown, "nginx", said);
        findings.push(finding.why("it said no, and not why").next("systemd status nginx"));
    }
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_with_and_without_the_time_that_some_have() {
        let text = "unknown directive \"x\" in /etc/nginx/a.conf:1";
        for message in
            [format!("[emerg] {text}"), format!("2026/11/26 06:58:57 [emerg] 491#491: {text}")]
        {
            assert_eq!(parts(&message), Some(("emerg", text)));
        }
        assert_eq!(parts("configuration file x test failed"), None);
    }
}
