//! `redis.big-keys`: which keys, and which kinds of keys, take the memory.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use hostler_proto::{
    operation::RedisBigKeys,
    ops::{RedisBigKeys as Report, RedisBigKeysRequest, RedisKey, RedisKind},
    wire::{Failure, Finding, Status},
};
use redis::{Cmd, Pipeline, RedisResult};
use tokio::time::Instant;

use super::{entry, info::Info, kind, unanswered, unusable};
use crate::{
    host::redis::{Server, Trouble},
    operation::{Answer, Context, Probe},
    order::Order as _,
    stack::Redis,
};

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
        let primary = entry(&cx.host, &request.server)?;
        let replica = match &primary.replica {
            Some(name) => Some(entry(&cx.host, name)?),
            None => None,
        };
        let (mut server, looked_at, not_there) = match place(primary, replica).await {
            Ok(place) => place,
            Err(trouble) => return Ok(unusable(primary, &trouble)),
        };
        let answer = match walk(&mut server, &looked_at.name, &request, cx).await {
            Ok(answer) => answer.evidence("redis", server.evidence()),
            Err(trouble) => unanswered(looked_at, &trouble, server.evidence()),
        };
        Ok(not_there.into_iter().fold(answer, Answer::finding).unknown_first())
    }
}

/// Looks at every key.
async fn walk(
    server: &mut Server,
    name: &str,
    request: &RedisBigKeysRequest,
    cx: &Context,
) -> Result<Answer<Report>, Trouble> {
    let total: u64 = server.ask(&["DBSIZE"]).await?;
    let limit = if request.limit == 0 { u64::MAX } else { request.limit };
    let mut found = Found::new(request.top as usize);
    let began = Instant::now();
    let mut cursor: u64 = 0;
    let mut walked: u64 = 0;
    loop {
        let mut scan = Cmd::new();
        scan.arg("SCAN").arg(cursor).arg("COUNT").arg(STEP);
        if !request.r#match.is_empty() {
            scan.arg("MATCH").arg(&request.r#match);
        }
        server.note(&format!(
            "SCAN 0 COUNT {STEP} MATCH {}, and so on",
            match request.r#match.as_str() {
                "" => "*",
                pattern => pattern,
            }
        ));
        let (next, keys): (u64, Vec<Vec<u8>>) = server.query(&scan).await?;
        if !keys.is_empty() {
            let mut sizes = Pipeline::with_capacity(keys.len());
            for key in &keys {
                sizes.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(SAMPLES);
            }
            server.note(&format!("MEMORY USAGE of each, SAMPLES {SAMPLES}"));
            // The scan shows keys that the user may not look at.
            sizes.ignore_errors();
            // A key may be gone since the scan saw it.
            let sizes: Vec<RedisResult<Option<u64>>> = server.pipeline(&sizes).await?;
            for (key, size) in keys.into_iter().zip(sizes) {
                match size.map_err(Trouble::from) {
                    Ok(Some(size)) => found.add(key, size),
                    Ok(None) => {}
                    Err(Trouble::Forbidden(said)) => found.hide(said),
                    Err(trouble) => return Err(trouble),
                }
            }
        }
        cursor = next;
        let looked = found.scanned + found.hidden;
        cx.progress("looking at keys", looked, total, "keys");
        if cursor == 0 || looked >= limit {
            break;
        }
        // With a pattern the server looks at many more keys than it shows.
        walked = walked.saturating_add(STEP as u64).max(looked);
        let due = Duration::from_secs_f64(walked as f64 / f64::from(request.rate));
        let early = due.saturating_sub(began.elapsed());
        if !cx.pause(early).await {
            break;
        }
    }
    let mut types = Pipeline::new();
    let said = std::mem::take(&mut found.said);
    let (largest, mut data) = found.told(total);
    for (_, key) in &largest {
        types.cmd("TYPE").arg(key);
    }
    types.ignore_errors();
    let types: Vec<RedisResult<String>> = match largest.is_empty() {
        true => Vec::new(),
        false => {
            server.note("TYPE of those that are told");
            server.pipeline(&types).await?
        }
    };
    let shown = |key: &[u8]| match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => key.escape_ascii().to_string(),
    };
    let key = |((bytes, key), r#type): ((u64, Vec<u8>), RedisResult<String>)| RedisKey {
        key: shown(&key),
        r#type: r#type.unwrap_or_default(),
        bytes,
    };
    data.keys = largest.into_iter().zip(types).map(key).collect();
    let first = data.keys.first().map_or(String::new(), |k| {
        format!("; the largest is {} with {} KiB", k.key, k.bytes >> 10)
    });
    let mib = data.bytes >> 20;
    let summary = format!("{} of {total} keys take {mib} MiB{first}", data.scanned);
    data.looked_at = name.to_owned();
    let hidden = data.hidden;
    let answer = Answer::ok(summary, data);
    let hidden = (hidden > 0).then(|| {
        let summary = format!("{hidden} of {total} keys may not be looked at");
        let why = format!("how large they are is not known: {said}; docs/checks.md has the ACL");
        Finding::new(Status::Unknown, "keys", summary).why(why)
    });
    Ok(hidden.into_iter().fold(answer, Answer::finding))
}

/// The server to look at, and which it is: the replica that the stack file names for it, when that one
/// follows it; else itself, with what is to be said of that.
async fn place<'h>(
    primary: &'h Redis,
    replica: Option<&'h Redis>,
) -> Result<(Server, &'h Redis, Option<Finding>), Trouble> {
    let mut itself = Server::connect(primary).await?;
    let info = itself.ask::<String>(&["INFO", "replication"]).await.unwrap_or_default();
    let own = Info::read(&info);
    let name = &primary.name;
    let Some(replica) = replica else {
        let unused = own.replication().into_iter().find(|r| r.role == "replica");
        let finding = unused.map(|replica| {
            let summary = format!("redis \"{name}\" has a replica, {}", replica.peer);
            Finding::new(Status::Ok, name, summary)
                .why("name it with replica in the stack file, and that one is looked at")
        });
        return Ok((itself, primary, finding));
    };
    let looked = async {
        let mut server = Server::connect(replica).await?;
        let info: String = server.ask(&["INFO", "replication"]).await?;
        Ok::<_, Trouble>((server, info))
    };
    let why = match looked.await {
        Ok((server, info)) => match follows(&Info::read(&info), &own) {
            Ok(()) => return Ok((server, replica, None)),
            Err(why) => why.to_owned(),
        },
        Err(trouble) => format!("it {trouble}"),
    };
    let summary = format!("\"{name}\" itself was looked at, not its replica \"{}\"", replica.name);
    let finding = Finding::new(Status::Warning, &replica.name, summary).why(why);
    Ok((itself, primary, Some(finding)))
}

/// Whether a server is a replica of another one, by the history that both tell of; or why not.
fn follows(replica: &Info<'_>, primary: &Info<'_>) -> Result<(), &'static str> {
    let told = replica.replication();
    let Some(master) = told.first().filter(|peer| peer.role == "master") else {
        return Err("it is no replica");
    };
    let (own, theirs) = (replica.text("master_replid"), primary.text("master_replid"));
    match (master.state.as_str(), own.is_empty() || theirs.is_empty()) {
        ("up", false) if own == theirs => Ok(()),
        ("up", false) => Err("it follows another master"),
        ("up", true) => Err("whether it follows that one cannot be told"),
        _ => Err("it has lost its master"),
    }
}

/// What was found so far: bounded, however many keys there are.
struct Found {
    top: usize,
    largest: BinaryHeap<Reverse<(u64, Vec<u8>)>>,
    kinds: HashMap<String, (u64, u64)>,
    scanned: u64,
    bytes: u64,
    /// Keys that may not be looked at, and what the server said of the first.
    hidden: u64,
    said: String,
}

impl Found {
    fn new(top: usize) -> Self {
        let largest = BinaryHeap::with_capacity(top + 1);
        let kinds = HashMap::new();
        Self { top, largest, kinds, scanned: 0, bytes: 0, hidden: 0, said: String::new() }
    }

    fn hide(&mut self, said: String) {
        if self.hidden == 0 {
            self.said = said;
        }
        self.hidden += 1;
    }

    fn add(&mut self, key: Vec<u8>, size: u64) {
        self.scanned += 1;
        self.bytes = self.bytes.saturating_add(size);
        let kind = kind(&key);
        let kind = match self.kinds.len() < KINDS || self.kinds.contains_key(&kind) {
            true => kind,
            false => REST.to_owned(),
        };
        let of = self.kinds.entry(kind).or_default();
        *of = (of.0 + 1, of.1.saturating_add(size));
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
        kinds.order_by(|a, b| (b.bytes, &a.kind).cmp(&(a.bytes, &b.kind)));
        kinds.truncate(TOLD);
        let largest = self.largest.into_sorted_vec().into_iter().map(|Reverse(key)| key);
        let (scanned, bytes, hidden) = (self.scanned, self.bytes, self.hidden);
        let report = Report { kinds, scanned, total, bytes, hidden, ..Report::default() };
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

    #[test]
    fn only_a_replica_of_the_very_server_is_looked_at_in_its_place() {
        let replica = "role:slave\r\nmaster_link_status:up\r\nmaster_replid:aa\r\n";
        let of = |replica: &str, primary: &str| {
            follows(&Info::read(replica), &Info::read(primary)).map_err(ToOwned::to_owned)
        };
        let primary = "role:master\r\nmaster_replid:aa\r\n";
        assert_eq!(of(replica, primary), Ok(()));
        for (replica, primary, why) in [
            (replica, "role:master\r\nmaster_replid:bb\r\n", "it follows another master"),
            (replica, "", "whether it follows that one cannot be told"),
            (&*replica.replace(":up", ":down"), primary, "it has lost its master"),
            (primary, primary, "it is no replica"),
        ] {
            assert_eq!(of(replica, primary), Err(why.to_owned()));
        }
    }
}
