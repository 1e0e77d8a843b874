//! Celery's own tool, for brokers that are no Redis: `celery -A APP inspect WHAT --json`, run as the
//! application's user, since it imports the application.
//!
//! It tells less than the broker does. It waits the whole time for answers, whoever answers; who is
//! connected and silent it does not know; and it has the arguments of tasks sent to it, which the
//! agent leaves where they are: nothing of an answer goes on but the fields that are named here.

use std::{collections::BTreeMap, ffi::OsString, path::Path, time::Duration};

use hostler_proto::wire::{ErrorCode, Evidence, Failure};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::pidbox::Answers;
use crate::{
    host::{
        blocking,
        exec::{End, Line, Program},
        files, owner, processes,
    },
    stack::Celery,
};

/// Python starts, imports the application and connects, beside the time for answers.
const START: Duration = Duration::from_secs(10);
/// Longest answer of all workers together; as values it takes many times that.
const ANSWER: usize = 1 << 20;
/// More workers than this are not named; all are asked then.
const DESTINATIONS: usize = 500;
/// Exit status of the tool when nobody answered, or when the broker did not (EX_UNAVAILABLE).
const UNAVAILABLE: i32 = 69;
/// And when it does not understand what it is told, or finds no application.
const USAGE: i32 = 2;

/// The tool for one application.
pub(super) struct Tool<'h> {
    pub(super) name: &'h str,
    command: &'h Path,
    pub(super) app: &'h str,
    pub(super) entry: &'h Celery,
    user: (u32, u32),
    variables: Vec<(String, OsString)>,
}

impl<'h> Tool<'h> {
    /// Finds the user, and reads the application's variables.
    pub(super) async fn of(
        entry: &'h Celery,
        command: &'h Path,
        app: &'h str,
        user: &'h str,
    ) -> Result<Self, Failure> {
        let refused = |message: String| {
            let name = &entry.name;
            Failure::new(ErrorCode::PreconditionFailed, format!("celery \"{name}\": {message}"))
                .hint("look at its [[celery]] in the stack file")
        };
        let (wanted, file) = (user.to_owned(), entry.environment_file.clone());
        let read = blocking(move || {
            let Some((uid, gid)) = processes::account(&wanted) else {
                return Ok(Err(format!("/etc/passwd has no user {wanted}")));
            };
            let text = match &file {
                None => Ok(Vec::new()),
                Some(file) => {
                    files::small_of(file, uid).map_err(|e| format!("{}: {e}", file.display()))
                }
            };
            Ok(text.map(|text| ((uid, gid), variables(&String::from_utf8_lossy(&text)))))
        });
        let (account, variables) = read.await?.map_err(refused)?;
        if account.0 == 0 {
            let message = "an application's code is not run as root; name a user that may read it";
            return Err(refused(message.to_owned()));
        }
        let own = rustix::process::geteuid();
        if !own.is_root() && own.as_raw() != account.0 {
            return Err(refused(format!("this agent is not root and cannot run it as {user}")));
        }
        Ok(Self { name: &entry.name, command, app, entry, user: account, variables })
    }

    fn program(&self, what: &str, longest: Duration, of: &[&String]) -> Program {
        let mut program = Program::new(self.command.display().to_string()).arg("-A").arg(self.app);
        if let Some(directory) = &self.entry.directory {
            program = program.arg("--workdir").arg(directory);
        }
        program = program
            .arg("inspect")
            .arg("--json")
            .arg("--timeout")
            .arg(longest.as_secs_f64().to_string());
        if let Some(destination) = destination(of) {
            program = program.arg(destination);
        }
        program = program.arg(what).of_user(self.user.0, self.user.1).longest_line(ANSWER);
        self.variables.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// As one would type it.
    pub(super) fn line(&self, what: &str) -> String {
        format!("{} -A {} inspect --json {what}", self.command.display(), self.app)
    }

    /// Asks every worker. None that answers is an answer, too.
    pub(super) async fn ask(&self, what: &str, longest: Duration) -> Result<Answers, Failure> {
        self.ask_of(what, longest, &[]).await
    }

    /// Asks these workers, which ends as soon as all of them have answered; every one, when none is
    /// named.
    pub(super) async fn ask_of(
        &self,
        what: &str,
        longest: Duration,
        of: &[&String],
    ) -> Result<Answers, Failure> {
        let asked = self.answers(what, longest, of).await;
        asked.map_err(|failure| failure.evidence(Evidence::new("argv", self.line(what))))
    }

    async fn answers(
        &self,
        what: &str,
        longest: Duration,
        of: &[&String],
    ) -> Result<Answers, Failure> {
        let _turn = owner::turn().await;
        let began = Instant::now();
        let asked = async {
            let mut running = self.program(what, longest, of).start()?;
            let mut answer = None;
            // An application may write lines of its own when it is imported.
            while let Some(line) = running.line().await? {
                match line {
                    Line::Text(line) => answer = read(&line).or(answer),
                    Line::TooLong => {
                        let message = format!("the answers to {what} are longer than 1 MiB");
                        return Err(Failure::new(ErrorCode::LimitExceeded, message));
                    }
                }
            }
            Ok((running.end().await?, answer))
        };
        let Ok(asked) = timeout(longest + START, asked).await else {
            let message = format!("celery \"{}\": its tool did not end in time", self.name);
            return Err(Failure::new(ErrorCode::Unreachable, message)
                .hint("its broker may not answer; look at it first"));
        };
        let (end, answer) = asked?;
        let by_worker = match (end.code, answer) {
            (Some(0), Some(by_worker)) => by_worker,
            (Some(UNAVAILABLE), _) if said(&end, "No nodes replied").is_some() => BTreeMap::new(),
            (_, answer) => return Err(self.failed(&end, answer.is_some())),
        };
        let count = by_worker.len();
        let took = began.elapsed();
        Ok(Answers { subscribed: count, answered: count, by_worker, took })
    }

    fn failed(&self, end: &End, answered: bool) -> Failure {
        let name = self.name;
        let broker =
            ["Could not connect to the message broker", "OperationalError", "ConnectionRefused"];
        if let Some(line) = broker.iter().find_map(|words| said(end, words)) {
            let message = format!("celery \"{name}\": its broker does not answer: {line}");
            return Failure::new(ErrorCode::Unreachable, message)
                .hint("see whether the broker runs");
        }
        let last = end.tail.iter().rev().find(|line| !line.trim().is_empty());
        let line = last.map_or_else(|| "it said nothing".to_owned(), |line| harmless(line));
        let message = format!("celery \"{name}\": its tool could not ask: {line}");
        match end.code {
            Some(USAGE) => Failure::new(ErrorCode::PreconditionFailed, message)
                .hint("look at command, app and directory of its [[celery]] in the stack file"),
            Some(0) if !answered => Failure::new(ErrorCode::HostFault, message)
                .hint("its answer could not be read; `inspect --json` is needed, which came with Celery 4"),
            _ => Failure::new(ErrorCode::HostFault, message)
                .hint("try it by hand as the application's user"),
        }
    }
}

/// Those workers, for the command line; it does not become too long.
fn destination(of: &[&String]) -> Option<String> {
    let usable = |name: &&String| !name.contains(',');
    let names: Vec<&str> = of.iter().filter(|n| usable(n)).map(|n| n.as_str()).collect();
    (!of.is_empty() && names.len() == of.len() && of.len() <= DESTINATIONS)
        .then(|| format!("--destination={}", names.join(",")))
}

/// The last line with those words, fit to be shown.
fn said(end: &End, words: &str) -> Option<String> {
    end.tail.iter().rev().find(|line| line.contains(words)).map(|line| harmless(line))
}

/// Not too long, and without a password that a URL may hold.
fn harmless(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line.trim();
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        // A password may hold a slash.
        let end = after.find([' ', '\'', '"']).unwrap_or(after.len());
        let secret = after[..end].rfind('@').map_or(0, |at| at + 1);
        if secret > 0 {
            shown.push_str("***@");
        }
        rest = &after[secret..];
    }
    shown.push_str(rest);
    shown.chars().take(300).collect()
}

/// The answers of the workers, by name; none for another line.
fn read(line: &[u8]) -> Option<BTreeMap<String, Value>> {
    let Ok(Value::Object(answers)) = serde_json::from_slice(line) else { return None };
    Some(answers.into_iter().collect())
}

/// `NAME=VALUE` lines as systemd's EnvironmentFile has them: comments, and quotes around a value.
fn variables(text: &str) -> Vec<(String, OsString)> {
    let variable = |line: &str| {
        let line = line.trim();
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        let usable = !name.is_empty() && !value.contains('\0') && !name.contains('\0');
        usable.then(|| (name.to_owned(), OsString::from(value)))
    };
    text.lines().filter_map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_systemd_reads_them() {
        let text =
            "# BROKER=no\n\nBROKER=amqp://a:b@c//\nNAME = 'a b'\nexport X=\"1=2\"\nnothing\n";
        let read: Vec<_> = variables(text)
            .into_iter()
            .map(|(name, value)| format!("{name}|{}", value.to_string_lossy()))
            .collect();
        assert_eq!(read, ["BROKER|amqp://a:b@c//", "NAME|a b", "X|1=2"]);
    }

    #[test]
    fn no_password_of_a_url_is_shown() {
        for (line, shown) in [
            (
                "cannot reach amqp://me:hunter2@mq:5672//: refused",
                "cannot reach amqp://***@mq:5672//: refused",
            ),
            ("amqp://me:hun/ter2@mq//", "amqp://***@mq//"),
            ("see https://docs.example.org/x for more", "see https://docs.example.org/x for more"),
            ("[Errno 111] Connection refused", "[Errno 111] Connection refused"),
        ] {
            assert_eq!(harmless(line), shown);
        }
    }

    #[test]
    fn only_an_object_is_an_answer() {
        let answers = read(br#"{"celery@a": [{"id": "1"}]}"#).expect("read");
        assert_eq!(answers["celery@a"][0]["id"], "1");
        assert!(read(b"importing settings").is_none());
        assert!(read(b"[1]").is_none());
    }
}
