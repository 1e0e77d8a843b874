//! kombu's pidbox protocol over Redis: a request is published to all workers, and each puts its
//! answer into a list that is bound for this one request. Facts: kombu/pidbox.py and
//! kombu/transport/redis.py of kombu 5.2 to 5.7.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use data_encoding::BASE64;
use hostler_core::clock::Clock;
use redis::{Cmd, Pipeline};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::host::redis::{Server, Trouble};

/// Separates the parts of a binding.
const SEPARATOR: &str = "\x06\x16";
/// Seconds after which the list for answers goes by itself, should this process die.
const LEFT_OVER_S: u64 = 30;
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
        Self { server, exchange: exchange.to_owned(), clock, cancelled }
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
        let address = self.clock.id().to_string();
        let reply = Reply::of(&self.exchange, &address);
        let bound = Bound::new(&self.server, &reply);
        let cancelled = self.cancelled.clone();
        let asked = tokio::select! {
            asked = self.exchange(&reply, &address, method, arguments, longest) => asked,
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
        self.server.note(&format!(
            "SADD of a binding for the answers, PUBLISH {channel} {method}, BRPOP of the answers; SREM and \
             DEL of both"
        ));
        let began = Instant::now();
        let (subscribed,): (usize,) = self.server.pipeline(&published).await?;
        let mut answers = Answers { subscribed, ..Answers::default() };
        self.server.patient(longest + Duration::from_secs(2));
        let mut lifetime_set = false;
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
            if !lifetime_set && answers.answered < subscribed {
                lifetime_set = true;
                let lifetime = LEFT_OVER_S.to_string();
                let mut expire = Cmd::new();
                expire.arg("EXPIRE").arg(&reply.list).arg(&lifetime);
                let _: u64 = self.server.query(&expire).await?;
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

/// What one request leaves at the broker until it is cleared away. A binding that stays would be
/// answered for ever, so that it goes with this, too: when the operation ends in the middle.
struct Bound {
    server: Server,
    clear: Option<Pipeline>,
}

impl Bound {
    fn new(server: &Server, reply: &Reply) -> Self {
        let mut clear = Pipeline::new();
        clear.cmd("SREM").arg(&reply.bindings).arg(&reply.binding).ignore();
        clear.cmd("DEL").arg(&reply.list).ignore();
        Self { server: server.clone(), clear: Some(clear) }
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
