//! `redis.config`: the configuration that counts now.

use std::collections::BTreeMap;

use hostler_proto::{
    operation::RedisConfig,
    ops::{RedisConfig as Report, RedisConfigRequest, RedisSetting},
    wire::Failure,
};

use super::{entry, unanswered, unusable};
use crate::{
    host::redis::Server,
    operation::{Answer, Context, Probe},
};

/// How names of settings end that are secrets: `requirepass`, `masterauth` or `primaryauth`,
/// `tls-key-file-pass`, and what modules call theirs. Whether they are set may be seen.
const SECRET: [&str; 5] = ["auth", "pass", "password", "secret", "token"];

impl Probe for RedisConfig {
    async fn observe(request: RedisConfigRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let entry = entry(&cx.host, &request.server)?;
        let mut server = match Server::connect(entry).await {
            Ok(server) => server,
            Err(trouble) => return Ok(unusable(entry, &trouble)),
        };
        let read = server.ask(&["CONFIG", "GET", &request.pattern]).await;
        let read: BTreeMap<String, String> = match read {
            Ok(read) => read,
            Err(trouble) => return Ok(unanswered(entry, &trouble, server.evidence())),
        };
        let name = &entry.name;
        let settings: Vec<_> = read.into_iter().map(setting).collect();
        let summary = match settings.as_slice() {
            [] => format!("redis \"{name}\" has no setting that matches \"{}\"", request.pattern),
            [one] => format!("{} is {}", one.name, one.value),
            many => format!("{} settings", many.len()),
        };
        Ok(Answer::ok(summary, Report { settings }).evidence("redis", server.evidence()))
    }
}

fn setting((name, value): (String, String)) -> RedisSetting {
    let called = name.to_ascii_lowercase();
    let secret = SECRET.iter().any(|end| called.ends_with(end));
    let value = match secret && !value.is_empty() {
        true => "***".to_owned(),
        false => value,
    };
    RedisSetting { name, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_masked_and_that_there_is_none_is_seen() {
        let shown = |name: &str, value: &str| setting((name.into(), value.into())).value;
        for name in ["requirepass", "masterauth", "primaryauth", "PRIMARYAUTH"] {
            assert_eq!(shown(name, "hunter2"), "***", "{name}");
        }
        for name in ["tls-key-file-pass", "tls-client-key-file-pass", "search.password"] {
            assert_eq!(shown(name, "hunter2"), "***", "{name}");
        }
        assert_eq!(shown("requirepass", ""), "");
        assert_eq!(shown("maxmemory", "256mb"), "256mb");
        assert_eq!(shown("tls-auth-clients", "no"), "no");
    }
}
