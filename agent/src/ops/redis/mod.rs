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

use hostler_proto::wire::Failure;

use crate::{
    host::{Host, redis::Server},
    stack::{Redis, named},
};

/// The server of that name in the stack file.
fn entry<'h>(host: &'h Host, name: &str) -> Result<&'h Redis, Failure> {
    named(&host.stack.redis, "redis", name, |r| &r.name)
}

/// Connects to the server of that name.
async fn connect(host: &Host, name: &str) -> Result<(Server, String), Failure> {
    let entry = entry(host, name)?;
    let server = Server::connect(entry).await.map_err(|t| t.failure(&entry.name))?;
    Ok((server, entry.name.clone()))
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
