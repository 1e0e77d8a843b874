//! `redis.config`: the configuration that counts now.

use std::collections::BTreeMap;

use hostler_proto::{
    operation::RedisConfig,
    ops::{RedisConfig as Report, RedisConfigRequest, RedisSetting},
    wire::Failure,
};

use super::connect;
use crate::operation::{Answer, Context, Probe};

/// Settings that are secrets. Whether they are set may be seen.
const SECRET: [&str; 4] =
    ["requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass"];

impl Probe for RedisConfig {
    async fn observe(request: RedisConfigRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let (mut server, name) = connect(&cx.host, &request.server).await?;
        let read: BTreeMap<String, String> = server
            .ask(&["CONFIG", "GET", &request.pattern])
            .await
            .map_err(|trouble| trouble.failure(&name))?;
        let settings: Vec<_> = read.into_iter().map(setting).collect();
        let summary = match settings.as_slice() {
            [] => format!("redis \"{name}\" has no setting that matches \"{}\"", request.pattern),
            [one] => format!("{} is {}", one.name, one.value),
            many => format!("{} settings", many.len()),
        };
        let what = format!("{}: CONFIG GET {}", server.place, request.pattern);
        Ok(Answer::ok(summary, Report { settings }).evidence("redis", what))
    }
}

fn setting((name, value): (String, String)) -> RedisSetting {
    let value = match SECRET.contains(&name.as_str()) && !value.is_empty() {
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
        assert_eq!(shown("requirepass", "hunter2"), "***");
        assert_eq!(shown("requirepass", ""), "");
        assert_eq!(shown("maxmemory", "256mb"), "256mb");
    }
}
