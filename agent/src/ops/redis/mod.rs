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

use super::home::{DISCOVER, Home};
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

/// What to do where the server takes only who comes from its own host.
const PROTECTED: &str = "it has no password, and takes nobody who does not come over the loopback address or its \
                         socket: name it by one of these in the url of a [[redis]] in /etc/hostler/stack.toml";

/// What to do where a server that was found ends connections.
const TLS: &str = "if it takes TLS only, name it with rediss:// as the url of a [[redis]] in \
                   /etc/hostler/stack.toml, with its authority as ca_file; else its log says why it ends them";

/// The server of that name in the stack file.
fn entry<'h>(host: &'h Host, name: &str) -> Result<&'h Redis, Failure> {
    named(&host.stack.redis, "redis", name, |r| &r.name)
}

/// Where the server runs.
fn home(entry: &Redis) -> Home<'_> {
    Home::of(&entry.after, &["redis", "valkey"], "redis-server", whereabouts(entry))
}

/// What was found out about a server that cannot be used: how bad that is, and why.
fn unusable<R: Default>(entry: &Redis, trouble: &Trouble) -> Answer<R> {
    let why = match trouble {
        Trouble::Unreachable(_) => Unmeasured::Away,
        Trouble::Ended(_) if !entry.found => Unmeasured::Away,
        Trouble::Silent(_) => Unmeasured::Silent,
        Trouble::Hung(_) => Unmeasured::Hung,
        _ => Unmeasured::Otherwise,
    };
    let answer = Answer::unmeasured(found(entry, trouble)).evidence("redis", place(&entry.url));
    Answer { unmeasured: Some(why), ..answer }
}

/// What is said of it.
fn found(entry: &Redis, trouble: &Trouble) -> Finding {
    let (status, why) = match trouble {
        _ if trouble.is_protected() => (Status::Unknown, PROTECTED),
        // Without a password nothing was tried that the server could be blamed for.
        Trouble::Denied(_) if entry.password_file.is_none() => (Status::Unknown, PASSWORD),
        // Nobody said how it is asked, and the title of its process does not tell.
        Trouble::Ended(_) if entry.found => (Status::Unknown, TLS),
        Trouble::Stack(_) | Trouble::Forbidden(_) => (Status::Unknown, trouble.hint()),
        _ => (Status::Critical, trouble.hint()),
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Silent(_) => home(entry).status(),
        Trouble::Hung(_) => home(entry).whose(),
        Trouble::Ended(_) | Trouble::Loading => home(entry).log(),
        Trouble::Denied(_) if entry.found => DISCOVER.to_owned(),
        _ => String::new(),
    };
    let name = &entry.name;
    Finding::new(status, name, format!("redis \"{name}\" {trouble}")).why(why).next(next)
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
    fn a_server_that_ends_connections_is_critical_only_where_somebody_said_how_it_is_asked() {
        let named: Redis =
            toml::from_str("name = \"main\"\nurl = \"redis://127.0.0.1:1/0\"").expect("an entry");
        let after = vec!["unit:redis@1".to_owned()];
        let seen = Redis::at("main", "127.0.0.1:1", 0, after);
        let ended = Trouble::Ended("Connection reset by peer".into());
        assert_eq!(found(&named, &ended).status(), Status::Critical);
        let of_found = found(&seen, &ended);
        assert_eq!(of_found.status(), Status::Unknown);
        assert!(of_found.why.contains("rediss://"), "{of_found:?}");
        assert_eq!(of_found.next, "journal read --unit redis@1 --lines 50");
        let said = "DENIED Running in protected mode".to_owned();
        let protected = found(&seen, &Trouble::Denied(said));
        assert_eq!(protected.status(), Status::Unknown);
        assert!(protected.why.contains("loopback"), "{protected:?}");
        for trouble in [Trouble::Hung("".into()), Trouble::Unreachable("refused".into())] {
            assert_eq!(found(&seen, &trouble).status(), Status::Critical, "{trouble}");
        }
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
