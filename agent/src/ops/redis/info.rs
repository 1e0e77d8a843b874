//! The answer to INFO.

use std::collections::HashMap;

use hostler_proto::ops::RedisReplication as Replication;

/// Replicas that are told.
const REPLICAS: usize = 100;

/// Its fields by name.
pub(super) struct Info<'a>(HashMap<&'a str, &'a str>);

impl<'a> Info<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        Self(text.lines().filter_map(|l| l.trim_end().split_once(':')).collect())
    }

    pub(super) fn text(&self, key: &str) -> &'a str {
        self.0.get(key).copied().unwrap_or_default()
    }

    pub(super) fn number(&self, key: &str) -> u64 {
        self.told(key).unwrap_or(0)
    }

    /// A number; none where it is not told.
    pub(super) fn told(&self, key: &str) -> Option<u64> {
        self.text(key).parse().ok()
    }

    /// Whether anything is told at all.
    pub(super) fn says(&self) -> bool {
        !self.0.is_empty()
    }

    pub(super) fn master(&self) -> String {
        format!("{}:{}", self.text("master_host"), self.text("master_port"))
    }

    /// What it says of its master, or of its replicas.
    pub(super) fn replication(&self) -> Vec<Replication> {
        if self.text("role") == "slave" {
            // While the link is down the first is -1, and the other one there.
            let since = |key: &str| self.text(key).parse::<u64>().ok();
            return vec![Replication {
                peer: self.master(),
                role: "master".to_owned(),
                state: match self.text("master_sync_in_progress") {
                    "1" => "copying".to_owned(),
                    _ => self.text("master_link_status").to_owned(),
                },
                silent_s: since("master_last_io_seconds_ago")
                    .or_else(|| since("master_link_down_since_seconds")),
                behind_bytes: None,
            }];
        }
        let written = self.number("master_repl_offset");
        // Whoever answers there may say any number.
        let count = self.number("connected_slaves").min(REPLICAS as u64);
        let replicas = (0..count).filter_map(|n| {
            // ip=127.0.0.1,port=6380,state=online,offset=14,lag=1,type=replica
            let text = self.0.get(format!("slave{n}").as_str())?;
            let part = |key| text.split(',').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
            let number = |key| part(key).and_then(|n| n.parse::<u64>().ok());
            let online = part("state") == Some("online");
            Some(Replication {
                peer: format!("{}:{}", part("ip").unwrap_or("?"), part("port").unwrap_or("?")),
                role: "replica".to_owned(),
                state: if online { "up" } else { "copying" }.to_owned(),
                silent_s: number("lag").filter(|_| online),
                behind_bytes: number("offset")
                    .filter(|_| online)
                    .map(|at| written.saturating_sub(at)),
            })
        });
        replicas.collect()
    }

    /// Keys of all databases.
    pub(super) fn keys(&self) -> u64 {
        self.databases("keys=")
    }

    /// Keys of all databases that go by themselves some day.
    pub(super) fn expiring(&self) -> u64 {
        self.databases("expires=")
    }

    fn databases(&self, what: &str) -> u64 {
        let database = |key: &str| key.strip_prefix("db").is_some_and(|n| n.parse::<u32>().is_ok());
        let count = |text: &str| {
            let keys = text.split(',').find_map(|part| part.strip_prefix(what));
            keys.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        };
        let counts = self.0.iter().filter(|(key, _)| database(key)).map(|(_, text)| count(text));
        counts.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_tells_of_its_master_and_a_master_of_its_replicas() {
        let replica = "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n\
            master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n\
            master_sync_in_progress:0\r\nmaster_link_down_since_seconds:7\r\n";
        let told = Info::read(replica).replication();
        assert_eq!((told[0].peer.as_str(), told[0].state.as_str()), ("10.0.0.1:6379", "down"));
        assert_eq!((told[0].silent_s, told[0].behind_bytes), (Some(7), None));
        let master = "role:master\r\nconnected_slaves:2\r\nmaster_repl_offset:500\r\n\
            slave0:ip=10.0.0.2,port=6380,state=online,offset=480,lag=1\r\n\
            slave1:ip=10.0.0.3,port=6381,state=wait_bgsave,offset=0,lag=0\r\n";
        let told = Info::read(master).replication();
        assert_eq!((told[0].silent_s, told[0].behind_bytes), (Some(1), Some(20)));
        assert_eq!((told[1].state.as_str(), told[1].behind_bytes), ("copying", None));
    }

    #[test]
    fn impossible_numbers_take_no_time_and_are_no_panic() {
        let most = u64::MAX;
        let text =
            format!("role:master\r\nconnected_slaves:{most}\r\ndb0:keys={most}\r\ndb1:keys=2\r\n");
        let info = Info::read(&text);
        assert_eq!((info.replication().len(), info.keys()), (0, most));
    }
}
