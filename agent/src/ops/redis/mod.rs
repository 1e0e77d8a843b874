//! Redis and Valkey servers.

mod big_keys;
mod config;
mod info;
mod monitor;
mod room;
mod seen;
mod slow;
mod slow_log;
mod status;
mod words;

use hostler_proto::wire::{Failure, Finding, Status};
use redis::IntoConnectionInfo as _;

use crate::{
    host::{
        Host,
        redis::{Trouble, whereabouts},
    },
    operation::{Answer, Unmeasured},
    stack::{Redis, named},
};

/// What to do where the server asks for a password.
const PASSWORD: &str = "write it to a file of mode 0600, and name that as password_file of a [[redis]] in \
                        /etc/hostler/stack.toml; `hostler-agent discover` writes the rest";

/// The server of that name in the stack file.
fn entry<'h>(host: &'h Host, name: &str) -> Result<&'h Redis, Failure> {
    named(&host.stack.redis, "redis", name, |r| &r.name)
}

/// What was found out about a server that cannot be used: how bad that is, and why.
fn unusable<R: Default>(entry: &Redis, trouble: &Trouble) -> Answer<R> {
    let name = &entry.name;
    let summary = format!("redis \"{name}\" {trouble}");
    // Without a password nothing was tried that the server could be blamed for.
    let no_password = entry.password_file.is_none();
    let (status, why) = match trouble {
        Trouble::Denied(_) if no_password => (Status::Unknown, PASSWORD),
        Trouble::Stack(_) | Trouble::Forbidden(_) => (Status::Unknown, trouble.hint()),
        _ => (Status::Critical, trouble.hint()),
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Silent(_) => "systemd status redis-server".to_owned(),
        Trouble::Hung(_) => whereabouts(entry).map(|place| place.whose()).unwrap_or_default(),
        _ => String::new(),
    };
    let finding = Finding::new(status, name, summary).why(why).next(next);
    let answer = Answer::unmeasured(finding).evidence("redis", place(&entry.url));
    let why = match trouble {
        Trouble::Unreachable(_) => Unmeasured::Away,
        Trouble::Silent(_) => Unmeasured::Silent,
        Trouble::Hung(_) => Unmeasured::Hung,
        _ => Unmeasured::Otherwise,
    };
    Answer { unmeasured: Some(why), ..answer }
}

/// The same of one that let the agent in and was asked; some know no such command, and serve well.
fn unanswered<R: Default>(entry: &Redis, trouble: &Trouble, asked: String) -> Answer<R> {
    let mut answer = unusable(entry, trouble);
    if matches!(trouble, Trouble::Refused(_)) {
        answer.status = Status::Unknown;
        answer.findings.iter_mut().for_each(|finding| finding.set_status(Status::Unknown));
    }
    answer.evidence.clear();
    answer.evidence("redis", asked)
}

/// Where the server of a URL is, which may hold more than that.
fn place(url: &str) -> String {
    match url.into_connection_info() {
        Ok(info) => format!("{}, database {}", info.addr(), info.redis_settings().db()),
        Err(_) => "a url that cannot be read".to_owned(),
    }
}

/// The common form of a key's name: what looks like a number or an id becomes `*`.
fn kind(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let id = |part: &str| {
        let digits = part.chars().filter(char::is_ascii_digit).count();
        let hex = part.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        (digits > 0 && digits * 2 >= part.chars().count())
            || (hex && part.len() >= 8)
            || part.len() > 40
    };
    let mut out = String::new();
    let mut part = String::new();
    let end = |part: &mut String, out: &mut String| {
        if id(part) {
            if !out.ends_with('*') {
                out.push('*');
            }
        } else {
            out.push_str(part);
        }
        part.clear();
    };
    for c in text.chars().take(200) {
        if matches!(c, ':' | '.' | '/' | '_' | '|' | '{' | '}') || c.is_control() {
            end(&mut part, &mut out);
            out.push(if c.is_control() { '?' } else { c });
        } else {
            part.push(c);
        }
    }
    end(&mut part, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_unknown_unless_nobody_is_there() {
        let entry: Redis =
            toml::from_str("name = \"main\"\nurl = \"redis://127.0.0.1:1/0\"").expect("an entry");
        let of = |trouble| {
            let asked = "127.0.0.1:1: CONFIG GET *".to_owned();
            let answer = unanswered::<hostler_proto::ops::RedisConfig>(&entry, &trouble, asked);
            assert_eq!(answer.evidence[0].what, "127.0.0.1:1: CONFIG GET *");
            assert_eq!(answer.findings[0].status(), answer.status);
            (answer.status, answer.findings[0].why.clone())
        };
        let forbidden = of(Trouble::Forbidden("NOPERM".into()));
        assert_eq!(forbidden.0, Status::Unknown);
        assert!(forbidden.1.contains("ACL"), "{}", forbidden.1);
        assert_eq!(of(Trouble::Refused("ERR unknown command".into())).0, Status::Unknown);
        assert_eq!(of(Trouble::Unreachable("it is gone".into())).0, Status::Critical);
    }

    #[test]
    fn keys_that_differ_by_a_number_or_an_id_are_of_one_kind() {
        for (key, expected) in [
            ("session:4711", "session:*"),
            ("session:9f8e7d6c-1a2b-4c3d-8e9f-001122334455", "session:*"),
            ("user:12:posts:3", "user:*:posts:*"),
            ("celery-task-meta-9f8e7d6c-1a2b-4c3d-8e9f-001122334455", "*"),
            ("cache:front_page", "cache:front_page"),
            ("queue", "queue"),
            ("2024-11-05", "*"),
        ] {
            assert_eq!(kind(key.as_bytes()), expected);
        }
        assert_eq!(kind(b"a\x06\x16b"), "a??b");
    }
}
