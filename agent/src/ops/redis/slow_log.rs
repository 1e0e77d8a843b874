//! `redis.slow-log`: commands that were slow of late.

use hostler_proto::{
    operation::RedisSlowLog,
    ops::{LatencyEvent, RedisSlowLog as Report, RedisSlowLogRequest, SlowCommand},
    wire::{Failure, Finding, Status},
};
use redis::Value;

use super::{entry, slow, unanswered, unusable, words::told};
use crate::{
    host::redis::{Server, Trouble},
    operation::{Answer, Context, Probe},
};

impl Probe for RedisSlowLog {
    async fn observe(
        request: RedisSlowLogRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut server = match Server::connect(entry).await {
            Ok(server) => server,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let mut hidden = Vec::new();
        let data = match look(&mut server, &request, &mut hidden).await {
            Ok(data) => data,
            Err(trouble) => return Ok(unanswered(entry, &trouble, server.evidence())),
        };
        let (name, commands) = (&entry.name, &data.commands);
        let slowest = commands.iter().max_by(|a, b| a.took_s.total_cmp(&b.took_s));
        let summary = match slowest {
            None if hidden.contains(&"SLOWLOG GET") => "slow commands cannot be seen".to_owned(),
            None => "no command was slow".to_owned(),
            Some(slowest) => format!(
                "{} slow commands; the slowest took {:.1} ms: {}",
                commands.len(),
                slowest.took_s * 1e3,
                slowest.command
            ),
        };
        let answer = Answer::ok(summary, data).evidence("redis", server.evidence());
        let hidden = hidden.into_iter().map(|command| {
            let summary = format!("redis \"{name}\" does not allow {command} to the agent");
            Finding::new(Status::Unknown, command, summary)
                .why("docs/checks.md has the ACL that it needs")
        });
        let now_s = cx.host.clock.now().as_second();
        let slow = slow::judge(name, &answer.data, &request, now_s);
        let answer = slow.into_iter().fold(answer, Answer::finding);
        Ok(hidden.fold(answer, Answer::finding).unknown_first())
    }
}

/// What the user may not see is told, and the rest is shown all the same.
async fn look(
    server: &mut Server,
    request: &RedisSlowLogRequest,
    hidden: &mut Vec<&'static str>,
) -> Result<Report, Trouble> {
    let lines = request.lines.to_string();
    let log = server.ask::<Vec<Value>>(&["SLOWLOG", "GET", &lines]).await;
    let log = visible(log, "SLOWLOG GET", hidden)?;
    let length = server.ask::<u64>(&["SLOWLOG", "LEN"]).await;
    let length = visible(length.map(Some), "SLOWLOG LEN", hidden)?;
    let events = server.ask::<Vec<(String, i64, f64, f64)>>(&["LATENCY", "LATEST"]).await;
    let events = match visible(events, "LATENCY LATEST", hidden) {
        // Some servers do not know it, and notice nothing.
        Err(Trouble::Refused(said)) if unknown(&said) => Vec::new(),
        events => events?,
    };
    let events = events.into_iter().map(|(event, at_s, last_ms, longest_ms)| LatencyEvent {
        event,
        at_s,
        last_s: last_ms * 1e-3,
        longest_s: longest_ms * 1e-3,
    });
    let commands = log.iter().filter_map(command).collect();
    Ok(Report { commands, events: events.collect(), length })
}

/// Whether a server says that it knows no such command.
fn unknown(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("unknown command") || said.contains("unknown subcommand")
}

/// The answer; nothing, and the command's name, where the user may not ask for it.
fn visible<T: Default>(
    answer: Result<T, Trouble>,
    command: &'static str,
    hidden: &mut Vec<&'static str>,
) -> Result<T, Trouble> {
    match answer {
        Err(Trouble::Forbidden(_)) => {
            hidden.push(command);
            Ok(T::default())
        }
        answer => answer,
    }
}

/// One entry: id, time, microseconds, words, client, client's name.
fn command(entry: &Value) -> Option<SlowCommand> {
    let Value::Array(parts) = entry else { return None };
    let number = |at: usize| match parts.get(at) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    let Some(Value::Array(words)) = parts.get(3) else { return None };
    let shown = told(words.iter().map(text))?;
    let key = shown.key.iter().flat_map(|key| [' '].into_iter().chain(key.chars().take(100)));
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one command")]
    let took_s = number(2)? as f64 / 1e6;
    Some(SlowCommand {
        at_s: number(1)?,
        took_s,
        command: shown.name.chars().chain(key).collect(),
        arguments: u32::try_from(words.len().saturating_sub(1)).unwrap_or(u32::MAX),
        client: parts.get(4).map(text).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(words: &[&str]) -> Value {
        let text = |w: &&str| Value::BulkString(w.as_bytes().to_vec());
        let words = Value::Array(words.iter().map(text).collect());
        let client = Value::BulkString(b"127.0.0.1:5".to_vec());
        Value::Array(vec![
            Value::Int(1),
            Value::Int(1_700_000_000),
            Value::Int(12_500),
            words,
            client,
        ])
    }

    #[tokio::test]
    async fn that_nothing_is_told_of_latencies_is_well_only_where_the_server_knows_none() {
        const BEFORE: [&str; 3] = ["+PONG\r\n", "*0\r\n", ":7\r\n"];
        const FORBIDDEN: &str =
            "-NOPERM User a has no permissions to run the 'slowlog|len' command\r\n";
        const BROKEN: [&str; 4] =
            [BEFORE[0], BEFORE[1], BEFORE[2], "-ERR the monitor is broken\r\n"];
        const UNKNOWN: [&str; 4] = [
            BEFORE[0],
            BEFORE[1],
            FORBIDDEN,
            "-ERR unknown command 'LATENCY', with args beginning with: 'latest'\r\n",
        ];
        let seen = async |answers: &'static [&'static str]| {
            let entry = crate::host::redis::played::server(answers).await;
            let mut server = Server::connect(&entry).await.expect("a connection");
            let mut hidden = Vec::new();
            let seen = look(&mut server, &RedisSlowLogRequest::default(), &mut hidden).await;
            (seen, hidden)
        };
        let lost = seen(&BEFORE).await.0.expect_err("the connection is lost");
        assert!(matches!(lost, Trouble::Unreachable(_)), "{lost:?}");
        let broken = seen(&BROKEN).await.0.expect_err("an error");
        assert!(matches!(broken, Trouble::Refused(_)), "{broken:?}");
        let (unknown, hidden) = seen(&UNKNOWN).await;
        let unknown = unknown.expect("what there is");
        assert_eq!((unknown.events.len(), hidden), (0, vec!["SLOWLOG LEN"]));
        assert_eq!(unknown.length, None, "no zero stands for what was not measured");
    }

    #[test]
    fn values_and_passwords_of_slow_commands_are_left_out() {
        let set = command(&entry(&["SET", "user:1", "secret"])).expect("read");
        assert_eq!((set.command.as_str(), set.arguments, set.took_s), ("SET user:1", 2, 0.0125));
        for words in
            [&["AUTH", "secret"][..], &["eval", "return 'secret'", "0"], &["ECHO", "secret"]]
        {
            let shown = command(&entry(words)).expect("read").command;
            assert_eq!(shown, words[0].to_ascii_uppercase());
        }
        assert!(command(&Value::Nil).is_none());
    }
}
