//! `redis.big-keys`: which keys, and which kinds of keys, take the memory.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use hostler_proto::{
    operation::RedisBigKeys,
    ops::{RedisBigKeys as Report, RedisBigKeysRequest, RedisKey, RedisKind},
    wire::Failure,
};
use redis::{Cmd, Pipeline};
use tokio::time::Instant;

use super::{connect, kind};
use crate::operation::{Answer, Context, Probe};

/// Keys of one step of the scan.
const STEP: usize = 1000;
/// Elements of a key from which its size is estimated, as redis-cli --memkeys does.
const SAMPLES: usize = 5;
/// Kinds that are counted; the rest goes into one.
const KINDS: usize = 10_000;
/// Kinds that are told.
const TOLD: usize = 20;
const REST: &str = "(others)";

impl Probe for RedisBigKeys {
    async fn observe(
        request: RedisBigKeysRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let (mut server, name) = connect(&cx.host, &request.server).await?;
        let failed = |trouble: crate::host::redis::Trouble| trouble.failure(&name);
        let total: u64 = server.ask(&["DBSIZE"]).await.map_err(failed)?;
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let mut found = Found::new(request.top as usize);
        let began = Instant::now();
        let mut cursor: u64 = 0;
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(cursor).arg("COUNT").arg(STEP);
            if !request.r#match.is_empty() {
                scan.arg("MATCH").arg(&request.r#match);
            }
            let (next, keys): (u64, Vec<Vec<u8>>) = server.query(&scan).await.map_err(failed)?;
            if !keys.is_empty() {
                let mut sizes = Pipeline::with_capacity(keys.len());
                for key in &keys {
                    sizes.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(SAMPLES);
                }
                // A key may be gone since the scan saw it.
                let sizes: Vec<Option<u64>> = server.pipeline(&sizes).await.map_err(failed)?;
                for (key, size) in keys.into_iter().zip(sizes) {
                    if let Some(size) = size {
                        found.add(key, size);
                    }
                }
            }
            cursor = next;
            cx.progress("looking at keys", found.scanned, total, "keys");
            if cursor == 0 || found.scanned >= limit {
                break;
            }
            let due = Duration::from_secs_f64(found.scanned as f64 / f64::from(request.rate));
            let early = due.saturating_sub(began.elapsed());
            if !cx.pause(early).await {
                break;
            }
        }
        let mut types = Pipeline::new();
        let (largest, mut data) = found.told(total);
        for (_, key) in &largest {
            types.cmd("TYPE").arg(key);
        }
        let types: Vec<String> = match largest.is_empty() {
            true => Vec::new(),
            false => server.pipeline(&types).await.map_err(failed)?,
        };
        let shown = |key: &[u8]| match std::str::from_utf8(key) {
            Ok(text) => text.to_owned(),
            Err(_) => key.escape_ascii().to_string(),
        };
        let key = |((bytes, key), r#type): ((u64, Vec<u8>), String)| RedisKey {
            key: shown(&key),
            r#type,
            bytes,
        };
        data.keys = largest.into_iter().zip(types).map(key).collect();
        let first = data.keys.first().map_or(String::new(), |k| {
            format!("; the largest is {} with {} KiB", k.key, k.bytes >> 10)
        });
        let mib = data.bytes >> 20;
        let summary = format!("{} of {total} keys take {mib} MiB{first}", data.scanned);
        let what = format!("{}: SCAN, MEMORY USAGE, TYPE", server.place);
        Ok(Answer::ok(summary, data).evidence("redis", what))
    }
}

/// What was found so far: bounded, however many keys there are.
struct Found {
    top: usize,
    largest: BinaryHeap<Reverse<(u64, Vec<u8>)>>,
    kinds: HashMap<String, (u64, u64)>,
    scanned: u64,
    bytes: u64,
}

impl Found {
    fn new(top: usize) -> Self {
        let largest = BinaryHeap::with_capacity(top + 1);
        Self { top, largest, kinds: HashMap::new(), scanned: 0, bytes: 0 }
    }

    fn add(&mut self, key: Vec<u8>, size: u64) {
        self.scanned += 1;
        self.bytes += size;
        let kind = kind(&key);
        let kind = match self.kinds.len() < KINDS || self.kinds.contains_key(&kind) {
            true => kind,
            false => REST.to_owned(),
        };
        let of = self.kinds.entry(kind).or_default();
        *of = (of.0 + 1, of.1 + size);
        let smallest = self.largest.peek().map_or(0, |Reverse((size, _))| *size);
        if self.largest.len() < self.top || size > smallest {
            // SCAN may show a key twice.
            if !self.largest.iter().any(|Reverse((_, other))| *other == key) {
                self.largest.push(Reverse((size, key)));
                if self.largest.len() > self.top {
                    self.largest.pop();
                }
            }
        }
    }

    fn told(self, total: u64) -> (Vec<(u64, Vec<u8>)>, Report) {
        let mut kinds: Vec<RedisKind> = self
            .kinds
            .into_iter()
            .map(|(kind, (keys, bytes))| RedisKind { kind, keys, bytes })
            .collect();
        kinds.sort_by(|a, b| (b.bytes, &a.kind).cmp(&(a.bytes, &b.kind)));
        kinds.truncate(TOLD);
        let largest = self.largest.into_sorted_vec().into_iter().map(|Reverse(key)| key);
        let report =
            Report { keys: Vec::new(), kinds, scanned: self.scanned, total, bytes: self.bytes };
        (largest.collect(), report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_are_kept_in_order_and_one_that_is_seen_twice_counts_once() {
        let mut found = Found::new(2);
        for (key, size) in [("a:1", 10), ("a:2", 30), ("b", 20), ("a:2", 30), ("a:3", 5)] {
            found.add(key.as_bytes().to_vec(), size);
        }
        let (largest, report) = found.told(4);
        assert_eq!(largest, [(30, b"a:2".to_vec()), (20, b"b".to_vec())]);
        let kinds: Vec<_> = report.kinds.iter().map(|k| (k.kind.as_str(), k.keys)).collect();
        assert_eq!(kinds, [("a:*", 4), ("b", 1)]);
    }
}
