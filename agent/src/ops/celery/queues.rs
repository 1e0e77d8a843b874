//! `celery.queues`: tasks that wait, and tasks that workers took and have not finished.

use std::collections::BTreeSet;

use hostler_proto::{
    finding::above,
    operation::CeleryQueues,
    ops::{CeleryQueue, CeleryQueues as Report, CeleryQueuesRequest},
    wire::{Failure, Finding, Status},
};
use redis::Pipeline;
use serde_json::{Value, json};

use super::{App, Broker, millis, pidbox::Answers, silence, text, tool::Tool};
use crate::{
    host::redis::{Server, Trouble},
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

impl Probe for CeleryQueues {
    async fn observe(
        request: CeleryQueuesRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let mut app = match App::connect(cx, &request.app).await? {
            App::Redis(app) => app,
            App::Tool(tool) => return consumed(&tool).await,
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date are far below 2^53")]
        let now = cx.host.clock.now().as_microsecond() as f64 / 1e6;
        let (data, answers) = look(&mut app, now).await.map_err(|t| app.failed(&t))?;
        let answer = judge(app.name, data, &request);
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

async fn look(app: &mut Broker<'_>, now: f64) -> Result<(Report, Answers), Trouble> {
    let answers = app.mailbox.ask("active_queues", json!({}), millis(ASKED_MS)).await?;
    let told = answers.by_worker.values().filter_map(Value::as_array).flatten();
    let mut names: BTreeSet<String> = told.map(|queue| text(queue, "name")).collect();
    names.extend(app.entry.queues.iter().cloned());
    names.remove("");
    if names.is_empty() {
        names.insert("celery".to_owned());
    }
    let server = &mut app.mailbox.server;
    let mut data = Report::default();
    for name in names {
        let waiting = waiting(server, &name).await?;
        let next = next(server, &name).await?;
        data.queues.push(CeleryQueue {
            waiting,
            next: text(&next["headers"], "task"),
            // Only some senders add a time; there is no guess.
            oldest_s: next["headers"]["timestamp"].as_f64().map(|t| (now - t).max(0.0)),
            name,
        });
    }
    data.unfinished = server.ask(&["HLEN", "unacked"]).await?;
    let oldest: Vec<(String, f64)> =
        server.ask(&["ZRANGE", "unacked_index", "0", "0", "WITHSCORES"]).await?;
    data.oldest_unfinished_s = oldest.first().map(|(_, taken)| (now - taken).max(0.0));
    Ok((data, answers))
}

/// The message that workers take next from a queue; none where that could be large.
async fn next(server: &mut Server, queue: &str) -> Result<Value, Trouble> {
    let length: u64 = server.ask(&["LLEN", queue]).await?;
    if length == 0 || length > MOST {
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
    let mut lengths = Pipeline::new();
    for priority in PRIORITIES {
        lengths.cmd("LLEN").arg(format!("{queue}{priority}"));
    }
    let lengths: Vec<u64> = server.pipeline(&lengths).await?;
    Ok(lengths.iter().sum())
}

#[expect(clippy::cast_precision_loss, reason = "numbers of tasks")]
fn judge(app: &str, data: Report, request: &CeleryQueuesRequest) -> Answer<Report> {
    let (warning, critical) = (request.warning as f64, request.critical as f64);
    let mut findings = Vec::new();
    for queue in &data.queues {
        let waiting = queue.waiting as f64;
        if let Some(status) = above(waiting, warning, critical) {
            let summary = format!("{} tasks wait in queue {}", queue.waiting, queue.name);
            let finding = Finding::new(status, &queue.name, summary)
                .why("they are sent faster than they are done, or nobody does them")
                .next(format!("celery workers {app}"))
                .measured(waiting, "tasks");
            findings.push(finding.bounds(warning, critical, "parameters"));
        }
    }
    let waiting: u64 = data.queues.iter().map(|q| q.waiting).sum();
    let summary = format!(
        "{waiting} tasks wait in {} queues, {} are taken and not finished",
        data.queues.len(),
        data.unfinished
    );
    let figures: Vec<_> = data.queues.iter().map(|q| (q.name.clone(), q.waiting as f64)).collect();
    let mut answer = Answer::ok(summary, data).evidence(
        "redis",
        "LLEN of every priority, MEMORY USAGE, LINDEX -1, HLEN unacked, ZRANGE unacked_index",
    );
    for (queue, waiting) in figures {
        answer = answer.figure("waiting", &queue, waiting, "tasks");
    }
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}
