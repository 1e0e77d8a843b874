//! `celery.queues`: tasks that wait, and tasks that workers took and have not finished.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostler_proto::{
    operation::{CeleryQueues, Operation},
    ops::{CeleryQueue, CeleryQueues as Report, CeleryQueuesRequest},
    wire::{Failure, Finding, Status},
};
use redis::Pipeline;
use serde_json::{Value, json};

use super::{App, Broker, millis, pidbox::Answers, silence, text, tool::Tool};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{
        blocking,
        past::Past,
        redis::{Server, Trouble},
    },
    operation::{Answer, Context, Probe},
};

/// kombu keeps each priority in a list of its own; these are its default steps.
const PRIORITIES: [&str; 4] = ["", "\x06\x163", "\x06\x166", "\x06\x169"];
/// Workers are asked for their queues no longer than this.
const ASKED_MS: u32 = 2000;
/// And by Celery's own tool no longer than this.
const PATIENT_MS: u32 = 1000;
/// Largest queue of which the next message is fetched: that may be as large as all of it, and its
/// size cannot be asked.
const LARGEST: u64 = 16 << 20;
/// Tasks of a queue that is larger than that in any case; the server counts what they take one by one.
const MOST: u64 = 100_000;
/// Longest name of a message that is remembered; they are UUIDs.
const LONGEST: usize = 100;
/// Seconds of waiting that are worth a word.
const LONG_S: f64 = 60.0;

impl Probe for CeleryQueues {
    async fn observe(
        request: CeleryQueuesRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let mut app = match App::connect(cx, &request.app).await? {
            App::Redis(app) => app,
            App::Tool(tool) => return consumed(&tool).await,
        };
        let (data, answers) = look(&mut app, cx).await.map_err(|t| app.failed(&t))?;
        let answer = judge(app.name, data, &request);
        let answer = answer.evidence("redis", app.mailbox.server.evidence());
        Ok(match silence::part(app.name, &answers) {
            // A worker that is silent may be the only one that takes from some queue.
            Some(part) => answer.finding(part).summed_up(),
            None => answer,
        })
    }
}

/// The queues that workers of another broker take tasks from: their tool knows no more.
async fn consumed(tool: &Tool<'_>) -> Result<Answer<Report>, Failure> {
    let told = tool.ask("active_queues", millis(PATIENT_MS)).await?;
    let told = told.by_worker.values().filter_map(Value::as_array).flatten();
    let names: BTreeSet<String> = told.map(|queue| text(queue, "name")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let taken = match names.as_slice() {
        [] => "no worker that answers takes tasks from any".to_owned(),
        names => format!("workers take tasks from {}", names.join(", ")),
    };
    let summary = format!("how many tasks wait cannot be told over this broker; {taken}");
    let finding = Finding::new(Status::Unknown, "waiting", summary)
        .why("Celery's own tool does not tell; the broker's does: rabbitmqctl list_queues");
    Ok(Answer::unmeasured(finding).evidence("argv", tool.line("active_queues")))
}

async fn look(app: &mut Broker<'_>, cx: &Context) -> Result<(Report, Answers), Trouble> {
    let answers = app.mailbox.ask("active_queues", json!({}), millis(ASKED_MS)).await?;
    let told = answers.by_worker.values().filter_map(Value::as_array).flatten();
    let mut names: BTreeSet<String> = told.map(|queue| text(queue, "name")).collect();
    names.extend(app.entry.queues.iter().cloned());
    names.remove("");
    if names.is_empty() {
        names.insert("celery".to_owned());
    }
    let now_us = cx.host.clock.now().as_microsecond();
    #[expect(clippy::cast_precision_loss, reason = "seconds of a date are far below 2^53")]
    let now = now_us as f64 / 1e6;
    let server = &mut app.mailbox.server;
    let mut data = Report::default();
    // The message that is next of each list, with the number of its queue.
    let mut heads: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let lengths = lengths(server, &name).await?;
        let mut first = None;
        for (priority, length) in PRIORITIES.iter().zip(&lengths).filter(|(_, n)| **n > 0) {
            let list = format!("{name}{priority}");
            let next = next(server, &list, *length).await?;
            heads.extend(delivery(&next).map(|id| (format!("{list} {id}"), data.queues.len())));
            // Those of the highest priority are taken first.
            first.get_or_insert(next);
        }
        let next = first.unwrap_or_default();
        data.queues.push(CeleryQueue {
            waiting: lengths.iter().sum(),
            next: text(&next["headers"], "task"),
            // Only some senders add a time; there is no guess.
            oldest_s: next["headers"]["timestamp"].as_f64().map(|t| (now - t).max(0.0)),
            name,
            waited_at_least_s: None,
        });
    }
    let state_dir = &cx.host.policy.state_dir;
    let past = Past::of(state_dir, <CeleryQueues as Operation>::NAME, app.name, Duration::ZERO);
    let there: Vec<String> = heads.keys().cloned().collect();
    let since = blocking(move || Ok(past.since(there.into_iter(), now_us)));
    for (head, since_us) in since.await.unwrap_or_default() {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of some months")]
        let waited = (now_us - since_us) as f64 / 1e6;
        if let Some(queue) = heads.get(&head).and_then(|queue| data.queues.get_mut(*queue)) {
            let before = queue.waited_at_least_s.unwrap_or(0.0);
            queue.waited_at_least_s = Some(before.max(waited));
        }
    }
    data.unfinished = server.ask(&["HLEN", "unacked"]).await?;
    let oldest: Vec<(String, f64)> =
        server.ask(&["ZRANGE", "unacked_index", "0", "0", "WITHSCORES"]).await?;
    data.oldest_unfinished_s = oldest.first().map(|(_, taken)| (now - taken).max(0.0));
    Ok((data, answers))
}

/// What tells one message from all others: kombu numbers what is sent, while a task that is tried again
/// keeps its id.
fn delivery(message: &Value) -> Option<&str> {
    let tag = message["properties"]["delivery_tag"].as_str();
    let id = tag.or_else(|| message["headers"]["id"].as_str())?;
    // Whoever sends it names it.
    (!id.is_empty() && id.len() <= LONGEST).then_some(id)
}

/// The message that workers take next from a list of so many; none where that could be large.
async fn next(server: &mut Server, queue: &str, length: u64) -> Result<Value, Trouble> {
    if length > MOST {
        return Ok(Value::Null);
    }
    // Of all its elements: from a sample nobody can tell how large the one is.
    let size = match server.ask(&["MEMORY", "USAGE", queue, "SAMPLES", "0"]).await {
        Err(Trouble::Forbidden(_) | Trouble::Refused(_)) => None,
        size => size?,
    };
    if size.is_none_or(|size: u64| size > LARGEST) {
        return Ok(Value::Null);
    }
    // Workers take from the right end.
    let next: Option<String> = server.ask(&["LINDEX", queue, "-1"]).await?;
    Ok(next.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Tasks that wait in a queue, of all priorities.
pub(super) async fn waiting(server: &mut Server, queue: &str) -> Result<u64, Trouble> {
    Ok(lengths(server, queue).await?.iter().sum())
}

/// The same of each priority.
async fn lengths(server: &mut Server, queue: &str) -> Result<Vec<u64>, Trouble> {
    let mut lengths = Pipeline::new();
    for priority in PRIORITIES {
        lengths.cmd("LLEN").arg(format!("{queue}{priority}"));
    }
    server.note(&format!("LLEN of every priority of {queue}"));
    server.pipeline(&lengths).await
}

#[expect(clippy::cast_precision_loss, reason = "numbers of tasks")]
fn judge(app: &str, data: Report, request: &CeleryQueuesRequest) -> Answer<Report> {
    let bound = |parameter, value: u64| {
        Bound::of(<CeleryQueues as Operation>::NAME, parameter, value as f64)
    };
    let bounds =
        Bounds::new(bound("warning", request.warning), bound("critical", request.critical), "");
    let mut findings = Vec::new();
    for queue in &data.queues {
        let waiting = queue.waiting as f64;
        if let Some(status) = bounds.above(waiting) {
            let summary = format!("{} tasks wait in queue {}", queue.waiting, queue.name);
            let why = "they are sent faster than they are done, or nobody does them";
            let why = match queue.waited_at_least_s {
                Some(waited) if waited >= LONG_S => {
                    format!("{why}: the next one has waited at least {}", amount::span(waited))
                }
                _ => why.to_owned(),
            };
            let finding = Finding::new(status, &queue.name, summary)
                .why(why)
                .next(format!("celery workers {app}"));
            findings.push(bounds.told(finding, waiting, "tasks"));
        }
    }
    let waiting: u64 = data.queues.iter().map(|q| q.waiting).sum();
    let mut summary = format!(
        "{waiting} tasks wait in {} queues, {} are taken and not finished",
        data.queues.len(),
        data.unfinished
    );
    let waited = |queue: &&CeleryQueue| queue.waited_at_least_s.filter(|s| *s >= LONG_S);
    let longest = data.queues.iter().filter_map(|q| Some((waited(&q)?, &q.name)));
    if let Some((waited, queue)) = longest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        let waited = amount::span(waited);
        summary.push_str(&format!("; the next in {queue} has waited at least {waited}"));
    }
    let figures: Vec<_> = data.queues.iter().map(|q| (q.name.clone(), q.waiting as f64)).collect();
    let mut answer = Answer::ok(summary, data);
    for (queue, waiting) in figures {
        answer = answer.figure("waiting", &queue, waiting, "tasks");
    }
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, waiting: u64, waited: Option<f64>) -> CeleryQueue {
        let waited_at_least_s = waited;
        CeleryQueue { name: name.into(), waiting, waited_at_least_s, ..CeleryQueue::default() }
    }

    #[test]
    fn the_longest_wait_that_was_seen_is_told_as_the_least_that_it_is() {
        let request = CeleryQueuesRequest { warning: 10, critical: 100, ..Default::default() };
        let queues =
            vec![queue("a", 2, Some(59.0)), queue("b", 20, Some(300.0)), queue("c", 0, None)];
        let told = judge("shop", Report { queues, ..Report::default() }, &request);
        assert!(told.findings[0].why.ends_with("has waited at least 5 min"), "{told:?}");
        let well = vec![queue("a", 2, Some(59.0)), queue("b", 1, Some(300.0))];
        let told = judge("shop", Report { queues: well, ..Report::default() }, &request);
        assert!(told.summary.ends_with("; the next in b has waited at least 5 min"), "{told:?}");
        let told = judge(
            "shop",
            Report { queues: vec![queue("a", 2, Some(1.0))], ..Report::default() },
            &request,
        );
        assert!(told.summary.ends_with("not finished"), "{}", told.summary);
    }

    #[test]
    fn a_message_is_known_by_its_delivery_and_not_by_the_task_that_is_tried_again() {
        let tagged = json!({ "headers": { "id": "t" }, "properties": { "delivery_tag": "d" } });
        assert_eq!(delivery(&tagged), Some("d"));
        assert_eq!(delivery(&json!({ "headers": { "id": "t" } })), Some("t"));
        assert_eq!(delivery(&json!({ "headers": { "id": "t".repeat(LONGEST + 1) } })), None);
        assert_eq!(delivery(&Value::Null), None);
    }
}
