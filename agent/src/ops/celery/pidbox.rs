//! kombu's pidbox protocol over Redis: a request is published to all workers, and each puts its
//! answer into a list that is bound for this one request. Facts: kombu/pidbox.py and
//! kombu/transport/redis.py of kombu 5.2 to 5.7.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use data_encoding::BASE64;
use hostler_core::clock::Clock;
use jiff::Timestamp;
use redis::{Cmd, Pipeline};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::host::redis::{Server, Trouble};

/// Separates the parts of a binding.
const SEPARATOR: &str = "\x06\x16";
/// Microseconds after which what a request left at the broker is cleared away by the next one of this host:
/// its agent died, for no request takes as long.
const LEFT_OVER_US: i64 = 120_000_000;
/// Longest that the server is made to wait for an answer at a time. While it waits nothing else is
/// heard on this connection, and what is left behind is not cleared away.
const WAIT: Duration = Duration::from_millis(500);
/// Answers that are taken; a fleet's workers at one broker are fewer.
const MOST: usize = 10_000;

/// Whom no worker is called like: all of their names have an @.
const NOBODY: &str = "hostler";

/// The mailbox of an application's workers.
pub(super) struct Mailbox {
    pub(super) server: Server,
    exchange: String,
    /// Who asks: how the addresses for answers to this host begin.
    asker: String,
    clock: Arc<dyn Clock>,
    cancelled: CancellationToken,
}

/// What came of a request.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Workers that were subscribed when it was published.
    pub subscribed: usize,
    /// Answers that came; more than names where two workers have one name.
    pub answered: usize,
    /// The answers, by name.
    pub by_worker: BTreeMap<String, Value>,
    /// Until the last of them.
    pub took: Duration,
}

impl Answers {
    /// Workers that did not answer.
    pub(super) fn missing(&self) -> usize {
        self.subscribed.saturating_sub(self.answered)
    }
}

impl Mailbox {
    /// Over this server, and until `cancelled`.
    pub(super) fn new(
        server: Server,
        exchange: &str,
        clock: Arc<dyn Clock>,
        cancelled: CancellationToken,
    ) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let asker = format!("{NOBODY}@{host}.");
        Self { server, exchange: exchange.to_owned(), asker, clock, cancelled }
    }

    /// Names of workers that bound themselves here once; some may be gone.
    pub(super) async fn bound(&mut self) -> Result<Vec<String>, Trouble> {
        let suffix = format!(".{}.pidbox", self.exchange);
        let members: Vec<String> = self
            .server
            .ask(&["SMEMBERS", &format!("_kombu.binding.{}.pidbox", self.exchange)])
            .await?;
        let name = |member: &String| {
            let queue = member.rsplit(SEPARATOR).next()?;
            Some(queue.strip_suffix(&suffix)?.to_owned())
        };
        Ok(members.iter().filter_map(name).collect())
    }

    /// Whether messages to an exchange reach a queue.
    pub(super) async fn is_bound(&mut self, exchange: &str, queue: &str) -> Result<bool, Trouble> {
        let members: Vec<String> =
            self.server.ask(&["SMEMBERS", &format!("_kombu.binding.{exchange}")]).await?;
        Ok(members.iter().any(|m| m.rsplit(SEPARATOR).next() == Some(queue)))
    }

    /// Asks every worker, and waits until all have answered or the time is over.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        arguments: Value,
        longest: Duration,
    ) -> Result<Answers, Trouble> {
        let address = format!("{}{}", self.asker, self.clock.id());
        let reply = Reply::of(&self.exchange, &address);
        let mut bound = Bound::new(&self.server, &reply);
        let cancelled = self.cancelled.clone();
        let asked = tokio::select! {
            asked = self.exchange(&reply, &address, &mut bound, method, arguments, longest) => asked,
            () = cancelled.cancelled() => Err(Trouble::Cancelled),
        };
        let cleaned = bound.clear().await;
        let answers = asked?;
        cleaned?;
        Ok(answers)
    }

    async fn exchange(
        &mut self,
        reply: &Reply,
        address: &str,
        bound: &mut Bound,
        method: &str,
        arguments: Value,
        longest: Duration,
    ) -> Result<Answers, Trouble> {
        let ticket = self.clock.id().to_string();
        let message =
            request(&self.exchange, reply, address, &ticket, method, &arguments, &Value::Null);
        let channel = format!("/{}.{}.pidbox", self.server.db, self.exchange);
        // Bound first, in the same breath: no answer comes before its list is there.
        let mut published = Pipeline::new();
        published.cmd("SADD").arg(&reply.bindings).arg(&reply.binding).ignore();
        published.cmd("PUBLISH").arg(&channel).arg(&message);
        published.cmd("SMEMBERS").arg(&reply.bindings);
        self.server.note(&format!(
            "SADD of a binding for the answers, PUBLISH {channel} {method}, SMEMBERS of the bindings, BRPOP of \
             the answers; SREM and DEL of the binding and its list"
        ));
        let began = Instant::now();
        let (subscribed, bindings): (usize, Vec<String>) = self.server.pipeline(&published).await?;
        let now = self.clock.now();
        for left in bindings.iter().filter_map(|binding| left_over(binding, &self.asker, now)) {
            bound.take_along(&Reply::of(&self.exchange, left));
        }
        let mut answers = Answers { subscribed, ..Answers::default() };
        self.server.patient(longest + Duration::from_secs(2));
        while answers.answered < subscribed.min(MOST) {
            let Some(left) = longest.checked_sub(began.elapsed()).filter(|l| !l.is_zero()) else {
                break;
            };
            let mut pop = Cmd::new();
            let wait = left.min(WAIT);
            pop.arg("BRPOP").arg(&reply.list).arg(wait.as_secs_f64().max(0.01));
            let answer = self.server.query::<Option<(String, String)>>(&pop);
            let Ok(popped) = timeout(left + Duration::from_secs(1), answer).await else { break };
            let Some((_, text)) = popped? else { continue };
            if let Some((worker, answer)) = read(&text, &ticket) {
                answers.by_worker.insert(worker, answer);
                answers.answered += 1;
                answers.took = began.elapsed();
            }
        }
        Ok(answers)
    }
}

/// Whether a database of a server is the broker of workers that hear what is said to all of them. It is said
/// to one that nobody is, so that none does or answers anything. Nothing is written.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn is_broker(server: &mut Server, db: i64) -> Result<bool, Trouble> {
    const EXCHANGE: &str = "celery";
    let _: String = server.ask(&["SELECT", &db.to_string()]).await?;
    let bound: bool = server.ask(&["EXISTS", &format!("_kombu.binding.{EXCHANGE}.pidbox")]).await?;
    if !bound {
        return Ok(false);
    }
    // Workers whose channels have another prefix than kombu's own would never be heard of.
    let reply = Reply::of(EXCHANGE, NOBODY);
    let message = request(EXCHANGE, &reply, NOBODY, NOBODY, "ping", &json!({}), &json!([NOBODY]));
    let mut publish = Cmd::new();
    publish.arg("PUBLISH").arg(format!("/{db}.{EXCHANGE}.pidbox")).arg(message);
    let heard: usize = server.query(&publish).await?;
    Ok(heard > 0)
}

/// The address of a binding that an agent of this host left behind when it died.
fn left_over<'b>(binding: &'b str, asker: &str, now: Timestamp) -> Option<&'b str> {
    let address = binding.split(SEPARATOR).next()?;
    let id: Uuid = address.strip_prefix(asker)?.parse().ok()?;
    // Ids begin with their time.
    let (seconds, _) = id.get_timestamp()?.to_unix();
    let asked_us = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    (now.as_microsecond() - asked_us > LEFT_OVER_US).then_some(address)
}

/// What one request leaves at the broker until it is cleared away. A binding that stays would be
/// answered for ever, so that it goes with this, too: when the operation ends in the middle.
struct Bound {
    server: Server,
    clear: Option<Pipeline>,
}

impl Bound {
    fn new(server: &Server, reply: &Reply) -> Self {
        let mut bound = Self { server: server.clone(), clear: Some(Pipeline::new()) };
        bound.take_along(reply);
        bound
    }

    /// Clears away that, too.
    fn take_along(&mut self, reply: &Reply) {
        if let Some(clear) = &mut self.clear {
            clear.cmd("SREM").arg(&reply.bindings).arg(&reply.binding).ignore();
            clear.cmd("DEL").arg(&reply.list).ignore();
        }
    }

    async fn clear(mut self) -> Result<(), Trouble> {
        let Some(clear) = self.clear.clone() else { return Ok(()) };
        let cleared = self.server.pipeline(&clear).await;
        self.clear = None;
        cleared
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let (Some(clear), Ok(runtime)) = (self.clear.take(), Handle::try_current()) else { return };
        let mut server = self.server.clone();
        // An answer that does not come in time is given up by the connection.
        runtime.spawn(async move { server.pipeline::<()>(&clear).await });
    }
}

/// Where answers to one request go.
struct Reply {
    exchange: String,
    bindings: String,
    binding: String,
    list: String,
}

impl Reply {
    fn of(exchange: &str, address: &str) -> Self {
        let list = format!("{address}.reply.{exchange}.pidbox");
        Self {
            exchange: format!("reply.{exchange}.pidbox"),
            bindings: format!("_kombu.binding.reply.{exchange}.pidbox"),
            binding: [address, "", &list].join(SEPARATOR),
            list,
        }
    }
}

fn request(
    exchange: &str,
    reply: &Reply,
    address: &str,
    ticket: &str,
    method: &str,
    arguments: &Value,
    destination: &Value,
) -> String {
    let body = json!({
        "method": method, "arguments": arguments, "destination": destination, "pattern": null,
        "matcher": null, "ticket": ticket,
        "reply_to": { "exchange": reply.exchange, "routing_key": address },
    });
    json!({
        "body": BASE64.encode(body.to_string().as_bytes()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        // Workers take the greater clock of theirs and this: a small one changes nothing.
        "headers": { "clock": 1 },
        "properties": {
            "delivery_mode": 2,
            "delivery_info": { "exchange": format!("{exchange}.pidbox"), "routing_key": "" },
            "priority": 0, "body_encoding": "base64",
            "delivery_tag": ticket,
        },
    })
    .to_string()
}

/// The worker and its answer; none for what answers another request.
fn read(text: &str, ticket: &str) -> Option<(String, Value)> {
    let message: Value = serde_json::from_str(text).ok()?;
    if message["headers"]["ticket"] != ticket {
        return None;
    }
    let body = message["body"].as_str()?;
    let body: Value = match message["properties"]["body_encoding"].as_str() {
        Some("base64") => serde_json::from_slice(&BASE64.decode(body.as_bytes()).ok()?).ok()?,
        _ => serde_json::from_str(body).ok()?,
    };
    let (worker, answer) = body.as_object()?.iter().next()?;
    Some((worker.clone(), answer.clone()))
}

#[cfg(test)]
mod tests {
    use hostler_core::clock::FixedClock;

    use super::*;

    #[test]
    fn an_answer_is_read_in_either_encoding_and_that_to_another_request_is_not() {
        let body = r#"{"celery@web-1":{"ok":"pong"}}"#;
        let message = |body: &str, encoding: &str| {
            json!({ "body": body, "headers": { "ticket": "t1" },
                    "properties": { "body_encoding": encoding } })
            .to_string()
        };
        let encoded = message(&BASE64.encode(body.as_bytes()), "base64");
        for text in [encoded.as_str(), &message(body, "")] {
            let (worker, answer) = read(text, "t1").expect("read");
            assert_eq!((worker.as_str(), &answer["ok"]), ("celery@web-1", &json!("pong")));
        }
        assert!(read(&encoded, "t2").is_none());
        assert!(read("{", "t1").is_none());
    }

    #[test]
    fn only_what_an_agent_of_this_host_left_long_ago_is_cleared_away() {
        let clock = FixedClock::at("2024-11-05T12:00:00Z".parse().expect("a time"));
        let binding = |address: &str| Reply::of("celery", address).binding;
        let address = format!("hostler@h1.{}", clock.id());
        let ours = binding(&address);
        let others =
            [binding(&clock.id().to_string()), binding(&format!("hostler@h10.{}", clock.id()))];
        assert_eq!(left_over(&ours, "hostler@h1.", clock.now()), None, "it may be under way");
        clock.advance(Duration::from_secs(121));
        assert_eq!(left_over(&ours, "hostler@h1.", clock.now()), Some(address.as_str()));
        for other in others {
            assert_eq!(left_over(&other, "hostler@h1.", clock.now()), None);
        }
        assert_eq!(left_over("hostler@h1.no-id", "hostler@h1.", clock.now()), None);
    }

    #[test]
    fn a_request_says_where_its_answers_go() {
        let reply = Reply::of("celery", "me");
        assert_eq!(reply.binding, "me\x06\x16\x06\x16me.reply.celery.pidbox");
        let text = request("celery", &reply, "me", "t1", "ping", &json!({}), &json!([NOBODY]));
        let message: Value = serde_json::from_str(&text).expect("json");
        let body = BASE64.decode(message["body"].as_str().expect("text").as_bytes()).expect("b64");
        let body: Value = serde_json::from_slice(&body).expect("json");
        assert_eq!(body["reply_to"]["routing_key"], "me");
    }
}
