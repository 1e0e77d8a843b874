//! `celery.workers`: whether there are workers, and whether they work.

use std::{collections::BTreeSet, time::Duration};

use hostler_proto::{
    operation::CeleryWorkers,
    ops::{CeleryWorker, CeleryWorkers as Report, CeleryWorkersRequest},
    wire::{Failure, Finding, Status},
};
use serde_json::{Value, json};

use super::{
    App, Broker,
    limited::{self, Held, Limited},
    local::{self, Local},
    millis, number,
    pidbox::Answers,
    queues, silence, text,
    tool::Tool,
};
use crate::{
    host::blocking,
    operation::{Answer, Context, Probe},
};

/// Between two looks at a queue that nobody seems to empty.
const SECOND_LOOK: Duration = Duration::from_secs(1);

impl Probe for CeleryWorkers {
    async fn observe(
        request: CeleryWorkersRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let mut app = match App::connect(cx, &request.app).await? {
            App::Redis(app) => app,
            App::Tool(tool) => return by_tool(&tool, millis(request.timeout_ms), cx).await,
        };
        let seen = look(&mut app, millis(request.timeout_ms)).await;
        let mut seen = seen.map_err(|t| app.failed(&t))?;
        if seen.idle() {
            let stuck = stuck(&mut app, &seen, millis(request.timeout_ms), cx).await;
            let held;
            (seen.stuck, held) = stuck.map_err(|t| app.failed(&t))?;
            let (now, name) = (cx.host.clock.now().as_second(), app.name);
            seen.limited = held.map(|held| limited::remembered(name, held, seen.done(), now));
        }
        if seen.stats.missing() > 0 {
            seen.local = blocking(|| Ok(local::workers())).await?;
            let all = &cx.host.stack.celery;
            local::sort_out(&mut seen.local, app.entry, all);
            // Of several applications nobody can tell whose a process is, unless its name is bound.
            if all.len() > 1 {
                seen.local.retain(|worker| worker.own || seen.silent.contains(&worker.name()));
            }
        }
        Ok(judge(app.name, seen).evidence("redis", app.mailbox.server.evidence()))
    }
}

/// What Celery's own tool tells, and what this host's processes add to it.
async fn by_tool(
    tool: &Tool<'_>,
    longest: Duration,
    cx: &Context,
) -> Result<Answer<Report>, Failure> {
    let stats = tool.ask("stats", longest).await?;
    // One after the other: each is a Python that has imported the application.
    let names: Vec<&String> = stats.by_worker.keys().collect();
    let asked = !names.is_empty();
    let (queues, active) = match asked {
        false => (Answers::default(), Answers::default()),
        true => (
            tool.ask_of("active_queues", longest, &names).await?,
            tool.ask_of("active", longest, &names).await?,
        ),
    };
    let mut local = blocking(|| Ok(local::workers())).await?;
    local::sort_out(&mut local, tool.entry, &cx.host.stack.celery);
    local.retain(|worker| worker.app == tool.app && !worker.name().contains('%'));
    let silent = local.iter().map(Local::name).filter(|n| !stats.by_worker.contains_key(n));
    let mut seen = Seen { silent: silent.collect(), tool: true, ..Seen::default() };
    let subscribed = stats.by_worker.len() + seen.silent.len();
    seen.stats = Answers { subscribed, answered: stats.by_worker.len(), ..stats };
    (seen.queues, seen.active, seen.local) = (queues, active, local);
    let answer = judge(tool.name, seen).evidence("argv", tool.line("stats"));
    Ok(match asked {
        true => answer
            .evidence("argv", tool.line("active_queues"))
            .evidence("argv", tool.line("active")),
        false => answer,
    })
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// By Celery's own tool, which knows nobody who does not answer.
    tool: bool,
    stats: Answers,
    queues: Answers,
    active: Answers,
    /// Workers that are bound and did not answer.
    silent: Vec<String>,
    /// Queues whose messages get lost, with their exchange.
    unbound: Vec<(String, String)>,
    /// Queues with tasks that nobody takes.
    stuck: Vec<String>,
    /// Queues with tasks whose workers have taken some and begin none.
    limited: Option<Limited>,
    /// Tasks that wait.
    waiting: u64,
    /// Workers that run on this host.
    local: Vec<Local>,
}

impl Seen {
    /// Tasks wait and none runs.
    fn idle(&self) -> bool {
        let running = |answer: &Value| answer.as_array().is_some_and(|tasks| !tasks.is_empty());
        self.waiting > 0
            && !self.active.by_worker.is_empty()
            && !self.active.by_worker.values().any(running)
    }

    fn done(&self) -> u64 {
        self.stats.by_worker.values().map(done).sum()
    }
}

/// Tasks that a worker has accepted since its start.
fn done(stats: &Value) -> u64 {
    stats["total"].as_object().into_iter().flat_map(|t| t.values()).map(number).sum()
}

async fn look(
    app: &mut Broker<'_>,
    longest: Duration,
) -> Result<Seen, crate::host::redis::Trouble> {
    let mailbox = &mut app.mailbox;
    let mut seen =
        Seen { stats: mailbox.ask("stats", json!({}), longest).await?, ..Seen::default() };
    if seen.stats.missing() > 0 {
        let bound = mailbox.bound().await?;
        seen.silent =
            bound.into_iter().filter(|name| !seen.stats.by_worker.contains_key(name)).collect();
    }
    if seen.stats.by_worker.is_empty() {
        return Ok(seen);
    }
    // Those that were silent once are not waited for again.
    let longest = match seen.stats.missing() == 0 {
        true => longest,
        false => (seen.stats.took * 4).max(Duration::from_millis(100)).min(longest),
    };
    seen.queues = mailbox.ask("active_queues", json!({}), longest).await?;
    seen.active = mailbox.ask("active", json!({ "safe": true }), longest).await?;
    let mut checked = BTreeSet::new();
    for queue in seen.queues.by_worker.values().filter_map(Value::as_array).flatten() {
        let (name, exchange) = (text(queue, "name"), text(&queue["exchange"], "name"));
        if name.is_empty() || !checked.insert(name.clone()) {
            continue;
        }
        // The default exchange needs no binding.
        if !exchange.is_empty() && !mailbox.is_bound(&exchange, &name).await? {
            seen.unbound.push((name.clone(), exchange));
        }
        seen.waiting += queues::waiting(&mut mailbox.server, &name).await?;
    }
    Ok(seen)
}

/// The queues that are as long as before after a moment in which no task was begun, and of them apart
/// those whose workers hold tasks that they took.
async fn stuck(
    app: &mut Broker<'_>,
    before: &Seen,
    longest: Duration,
    cx: &Context,
) -> Result<(Vec<String>, Option<Held>), crate::host::redis::Trouble> {
    if !cx.pause(SECOND_LOOK).await {
        return Ok((Vec::new(), None));
    }
    let after = look(app, longest).await?;
    if after.done() != before.done() || after.waiting < before.waiting || !after.idle() {
        return Ok((Vec::new(), None));
    }
    let names = after.queues.by_worker.values().filter_map(Value::as_array).flatten();
    let mut stuck = Vec::new();
    for name in names.map(|q| text(q, "name")).collect::<BTreeSet<_>>() {
        if queues::waiting(&mut app.mailbox.server, &name).await? > 0 {
            stuck.push(name);
        }
    }
    if stuck.is_empty() {
        return Ok((stuck, None));
    }
    let reserved = app.mailbox.ask("reserved", json!({}), longest).await?;
    let items = json!({ "taskinfoitems": ["rate_limit"] });
    let registered = app.mailbox.ask("registered", items, longest).await?;
    // Tasks whose rate holds them back are told by no worker: that they were taken only the broker knows.
    let taken: u64 = app.mailbox.server.ask(&["HLEN", "unacked"]).await?;
    Ok(limited::apart(stuck, &after.queues, &reserved, &registered, taken))
}

fn judge(app: &str, seen: Seen) -> Answer<Report> {
    let mut findings = Vec::new();
    let mut workers = Vec::new();
    for (name, stats) in &seen.stats.by_worker {
        let queues = seen.queues.by_worker.get(name).and_then(Value::as_array);
        let queues: Vec<String> =
            queues.into_iter().flatten().map(|queue| text(queue, "name")).collect();
        let active = seen.active.by_worker.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let asked = seen.queues.by_worker.contains_key(name);
        let lost = seen.unbound.iter().any(|(queue, _)| queues.contains(queue));
        let state = match () {
            () if asked && queues.is_empty() => "not-consuming",
            () if seen.stuck.iter().any(|q| queues.contains(q)) => "not-consuming",
            () if lost => "lost-bindings",
            () => "ok",
        };
        if asked && queues.is_empty() {
            let summary = format!("{name} is connected and takes tasks from no queue");
            let finding = Finding::new(Status::Critical, name, summary)
                .why("it answers pings, and no task will ever run there");
            findings.push(finding.next(format!("celery stats {app}")));
        }
        workers.push(CeleryWorker {
            name: name.clone(),
            state: state.to_owned(),
            pool: pool(stats),
            concurrency: u32::try_from(number(&stats["pool"]["max-concurrency"])).unwrap_or(0),
            active: u32::try_from(active).unwrap_or(u32::MAX),
            queues,
        });
    }
    for queue in &seen.stuck {
        let summary = format!("tasks wait in {queue} and no worker takes them");
        let finding = Finding::new(Status::Critical, queue, summary)
            .why("the workers answer pings and consume nothing; a restart helps")
            .next(format!("celery queues {app}"));
        findings.push(finding);
    }
    findings.extend(seen.limited.as_ref().and_then(|limited| limited.finding(app)));
    for (queue, exchange) in &seen.unbound {
        let summary = format!("the binding of queue {queue} to exchange {exchange} is gone");
        let finding = Finding::new(Status::Critical, queue, summary)
            .why(
                "tasks that are sent through it vanish without an error; a restart of the workers \
                  binds it anew",
            )
            .next(format!("celery queues {app}"));
        findings.push(finding);
    }
    let (hung, told) = silence::told(app, &seen.stats, &seen.silent, &seen.local, seen.tool);
    workers.splice(0..0, hung);
    findings.extend(told);
    if seen.stats.subscribed == 0 {
        let (summary, why) = match seen.tool {
            false => (format!("celery \"{app}\" has no worker"), "tasks are queued and none runs"),
            true => (
                format!("no worker of celery \"{app}\" answered"),
                "there is none, or none answers in time: over this broker that cannot be told \
                 apart; none runs on this host",
            ),
        };
        let finding = Finding::new(Status::Critical, app, summary).why(why).next("systemd status");
        findings.push(finding);
    }
    let answered = seen.stats.answered;
    let took = if seen.tool { 0.0 } else { seen.stats.took.as_secs_f64() };
    let summary = match seen.tool {
        true => format!("{answered} workers answered"),
        false => {
            let ms = took * 1e3;
            format!("{answered} of {} workers answered in {ms:.0} ms", seen.stats.subscribed)
        }
    };
    let summary = match &seen.limited {
        Some(limited) => format!("{summary}; {limited}"),
        None => summary,
    };
    let data = Report {
        workers,
        subscribed: u32::try_from(seen.stats.subscribed).unwrap_or(u32::MAX),
        answered_s: took,
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of workers")]
    let count = answered as f64;
    let answer = Answer::ok(summary, data).figure("workers", "", count, "");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

/// The last part of `celery.concurrency.prefork:TaskPool`, before the colon.
pub(super) fn pool(stats: &Value) -> String {
    let implementation = text(&stats["pool"], "implementation");
    let module = implementation.split(':').next().unwrap_or_default();
    module.rsplit('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn answers(subscribed: usize, by_worker: &[(&str, Value)]) -> Answers {
        let by_worker: BTreeMap<_, _> =
            by_worker.iter().map(|(name, answer)| ((*name).to_owned(), answer.clone())).collect();
        let answered = by_worker.len();
        Answers { subscribed, answered, by_worker, took: Duration::from_millis(2) }
    }

    fn stats() -> Value {
        json!({ "pool": { "implementation": "celery.concurrency.prefork:TaskPool",
                          "max-concurrency": 4 }, "total": { "a": 3 } })
    }

    fn queue(name: &str) -> Value {
        json!([{ "name": name, "exchange": { "name": name } }])
    }

    fn well() -> Seen {
        Seen {
            stats: answers(1, &[("celery@h1", stats())]),
            queues: answers(1, &[("celery@h1", queue("celery"))]),
            active: answers(1, &[("celery@h1", json!([]))]),
            ..Seen::default()
        }
    }

    #[test]
    fn workers_that_answer_and_take_tasks_are_well() {
        let answer = judge("app", well());
        assert_eq!(answer.status, Status::Ok);
        let worker = &answer.data.workers[0];
        assert_eq!((worker.state.as_str(), worker.pool.as_str()), ("ok", "prefork"));
    }

    #[test]
    fn no_worker_and_one_that_consumes_nothing_are_critical() {
        let none = judge("app", Seen::default());
        assert_eq!(
            (none.status, none.summary.as_str()),
            (Status::Critical, "celery \"app\" has no worker")
        );
        let deaf = Seen { queues: answers(1, &[("celery@h1", json!([]))]), ..well() };
        let answer = judge("app", deaf);
        assert_eq!(answer.data.workers[0].state, "not-consuming");
        assert_eq!(answer.status, Status::Critical);
        let stuck = judge("app", Seen { stuck: vec!["celery".into()], ..well() });
        assert_eq!(stuck.data.workers[0].state, "not-consuming");
    }

    #[test]
    fn lost_bindings_are_found_although_every_worker_answers() {
        let unbound = vec![("celery".to_owned(), "celery".to_owned())];
        let answer = judge("app", Seen { unbound, ..well() });
        assert_eq!(answer.status, Status::Critical);
        assert_eq!(answer.data.workers[0].state, "lost-bindings");
    }

    #[test]
    fn a_silent_worker_is_hung_unless_its_solo_pool_is_known_to_be_busy() {
        let process = |stopped, solo| Local::example("celery@h1", stopped, solo);
        let of = |local: Vec<Local>| {
            let seen = Seen {
                stats: answers(1, &[]),
                silent: vec!["celery@h1".into()],
                local,
                ..Seen::default()
            };
            let answer = judge("app", seen);
            (answer.data.workers[0].state.clone(), answer.status)
        };
        assert_eq!(of(vec![]), ("hung".into(), Status::Critical));
        assert_eq!(of(vec![process(true, true)]), ("hung".into(), Status::Critical));
        assert_eq!(of(vec![process(false, true)]), ("busy".into(), Status::Warning));
        assert_eq!(of(vec![process(false, false)]), ("hung".into(), Status::Critical));
    }

    #[test]
    fn a_worker_that_is_subscribed_and_answers_nobody_is_never_well() {
        let seen = Seen { stats: answers(1, &[]), ..Seen::default() };
        let answer = judge("app", seen);
        assert_eq!(answer.status, Status::Critical, "its bindings are gone: {answer:?}");
        let one_of_two = Seen { stats: answers(2, &[("celery@h1", stats())]), ..well() };
        assert_eq!(judge("app", one_of_two).status, Status::Critical);
    }

    #[test]
    fn what_celerys_own_tool_cannot_tell_apart_is_not_told_apart() {
        let none = judge("app", Seen { tool: true, ..Seen::default() });
        assert_eq!(none.status, Status::Critical);
        assert!(none.findings[0].why.contains("cannot be told apart"), "{:?}", none.findings);
        let local = vec![Local::example("celery@h1", false, false)];
        let seen = Seen {
            tool: true,
            stats: answers(1, &[]),
            silent: vec!["celery@h1".into()],
            local,
            ..Seen::default()
        };
        let hung = judge("app", seen);
        assert_eq!(hung.data.workers[0].state, "hung");
        assert!(hung.summary.contains("its process 7 runs"), "{}", hung.summary);
    }
}
