//! `celery.active`: the tasks that run now.

use hostler_proto::{
    operation::{CeleryActive, Operation as _},
    ops::{CeleryActiveRequest, CeleryTask, CeleryTasks},
    wire::{Failure, Finding},
};
use serde_json::Value;

use super::{App, millis, text};
use crate::{
    bounds::{Bound, Bounds},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

impl Probe for CeleryActive {
    async fn observe(
        request: CeleryActiveRequest,
        cx: &Context,
    ) -> Result<Answer<CeleryTasks>, Failure> {
        let mut app = App::connect(cx, &request.app).await?;
        let answers = app.ask("active", millis(request.timeout_ms)).await?;
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date are far below 2^53")]
        let now = cx.host.clock.now().as_microsecond() as f64 / 1e6;
        let mut tasks: Vec<CeleryTask> = Vec::new();
        for (worker, list) in &answers.by_worker {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            tasks.extend(list.iter().map(|t| task(t, worker, "active", now)));
        }
        let age = |t: &CeleryTask| t.running_s.unwrap_or(0.0);
        tasks.order_by(|a, b| age(b).total_cmp(&age(a)));
        let bound = Bound::of(Self::NAME, "long-s", request.long_s.into());
        let bounds = Bounds::warning(bound, "");
        let stats = format!("celery stats {}", app.name());
        let long = tasks.iter().filter_map(|t| {
            let status = bounds.above(age(t))?;
            let minutes = age(t) / 60.0;
            let summary = format!("{} has run for {minutes:.0} min on {}", t.name, t.worker);
            let finding = Finding::new(status, &t.id, summary)
                .why("it holds a place of its worker; a restart of the worker runs it again or loses it")
                .next(&stats);
            Some(bounds.told(finding, age(t), "s"))
        });
        let long: Vec<_> = long.collect();
        let workers = answers.by_worker.len();
        let summary = format!("{} tasks run on {workers} workers", tasks.len());
        let data = CeleryTasks { tasks, workers: u32::try_from(workers).unwrap_or(u32::MAX) };
        let answer = app.answer(summary, data, &answers);
        let (kind, what) = app.evidence("active");
        let answer = answer.evidence(kind, what);
        Ok(long.into_iter().fold(answer, Answer::finding).summed_up())
    }
}

/// One task of a worker's answer; `now` in seconds since 1970.
pub(super) fn task(task: &Value, worker: &str, state: &str, now: f64) -> CeleryTask {
    let started = task["time_start"].as_f64();
    CeleryTask {
        id: text(task, "id"),
        name: text(task, "name"),
        worker: worker.to_owned(),
        state: state.to_owned(),
        running_s: started.filter(|s| *s > 0.0).map(|s| (now - s).max(0.0)),
        eta: String::new(),
        queue: text(&task["delivery_info"], "routing_key"),
    }
}
