//! `redis.monitor`: what clients do, for a moment, counted. Neither values nor whole keys leave the
//! host.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use hostler_proto::{
    operation::RedisMonitor,
    ops::{CommandCount, RedisMonitor as Report, RedisMonitorRequest},
    wire::{Failure, Finding, Status},
};
use tokio::time::{Instant, timeout_at};

use super::{entry, kind, unanswered, unusable, words::told};
use crate::{
    host::redis::Server,
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Pairs of command and kind that are told.
const TOLD: usize = 50;
/// And counted.
const COUNTED: usize = 10_000;

impl Probe for RedisMonitor {
    async fn observe(
        request: RedisMonitorRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let server = match Server::connect(entry).await {
            Ok(server) => server,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let asked = format!("{}: MONITOR", server.place);
        let monitor = match server.monitor().await {
            Ok(monitor) => monitor,
            Err(trouble) => return Ok(unanswered(entry, &trouble, asked)),
        };
        let mut lines = monitor.into_on_message::<String>();
        let began = Instant::now();
        let until = began + Duration::from_secs(request.time_s.into());
        let (mut counts, mut seen) = (HashMap::<(String, String), u64>::new(), 0);
        let mut lost = false;
        while seen < u64::from(request.limit) {
            let line = tokio::select! {
                line = timeout_at(until, lines.next()) => line,
                () = cx.cancelled.cancelled() => break,
            };
            let Ok(Some(line)) = line else {
                lost = line.is_ok();
                break;
            };
            seen += 1;
            let Some(counted) = read(&line) else { continue };
            if counts.len() < COUNTED || counts.contains_key(&counted) {
                *counts.entry(counted).or_default() += 1;
            }
        }
        drop(lines);
        let window_s = began.elapsed().as_secs_f64();
        let mut commands: Vec<_> = counts
            .into_iter()
            .map(|((command, kind), count)| CommandCount { command, kind, count })
            .collect();
        commands
            .order_by(|a, b| (b.count, &a.command, &a.kind).cmp(&(a.count, &b.command, &b.kind)));
        commands.truncate(TOLD);
        let most = commands
            .first()
            .map_or(String::new(), |c| format!("; most often {} {}", c.command, c.kind));
        let summary = format!("{seen} commands in {window_s:.1} s{most}");
        let data = Report { commands, seen, window_s };
        let answer = Answer::ok(summary, data).evidence("redis", asked);
        let lost = lost.then(|| {
            let name = &entry.name;
            let summary = format!("redis \"{name}\" ended the connection after {window_s:.1} s");
            Finding::new(Status::Unknown, name, summary).why("what came then was not seen")
        });
        Ok(lost.into_iter().fold(answer, Answer::finding).unknown_first())
    }
}

/// `1339518083.107412 [0 127.0.0.1:60866] "get" "user:1"` as command and kind of key.
fn read(line: &str) -> Option<(String, String)> {
    let (_, words) = line.split_once("] ")?;
    let words = words.trim_start_matches('"').split("\" \"");
    let told = told(words.map(|word| word.trim_end_matches('"').to_owned()))?;
    Some((told.name, kind(told.key.unwrap_or_default().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_command_and_a_kind_of_key() {
        let line =
            "1339518083.107412 [0 127.0.0.1:60866] \"set\" \"user:17\" \"a \\\"quoted\\\" value\"";
        assert_eq!(read(line), Some(("SET".into(), "user:*".into())));
        let secret = "1.0 [0 lua] \"auth\" \"hunter2\"";
        assert_eq!(read(secret), Some(("AUTH".into(), String::new())));
        let echoed = "1.0 [0 127.0.0.1:5] \"ECHO\" \"hunter2\"";
        assert_eq!(read(echoed), Some(("ECHO".into(), String::new())));
        assert_eq!(read("OK"), None);
    }
}
