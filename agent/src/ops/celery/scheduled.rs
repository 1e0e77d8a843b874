//! `celery.scheduled`: the tasks that workers hold back.

use hostler_proto::{
    operation::CeleryScheduled,
    ops::{CeleryScheduledRequest, CeleryTask, CeleryTasks},
    wire::Failure,
};
use serde_json::Value;

use super::{App, active::task, millis, text};
use crate::{
    operation::{Answer, Context, Probe},
    order::Order as _,
};

impl Probe for CeleryScheduled {
    async fn observe(
        request: CeleryScheduledRequest,
        cx: &Context,
    ) -> Result<Answer<CeleryTasks>, Failure> {
        let mut app = App::connect(cx, &request.app).await?;
        let longest = millis(request.timeout_ms);
        let scheduled = app.ask("scheduled", longest).await?;
        let reserved = app.ask("reserved", longest).await?;
        let list = |answer: &Value| answer.as_array().cloned().unwrap_or_default();
        let mut tasks: Vec<CeleryTask> = Vec::new();
        for (worker, answer) in &scheduled.by_worker {
            tasks.extend(list(answer).iter().map(|t| CeleryTask {
                eta: text(t, "eta"),
                ..task(&t["request"], worker, "scheduled", 0.0)
            }));
        }
        for (worker, answer) in &reserved.by_worker {
            tasks.extend(list(answer).iter().map(|t| task(t, worker, "reserved", 0.0)));
        }
        tasks.iter_mut().for_each(|t| t.running_s = None);
        tasks.order_by(|a, b| (&a.eta, &a.worker, &a.id).cmp(&(&b.eta, &b.worker, &b.id)));
        let workers = scheduled.by_worker.len();
        let summary = format!("{} tasks are held back by {workers} workers", tasks.len());
        let data = CeleryTasks { tasks, workers: u32::try_from(workers).unwrap_or(u32::MAX) };
        // What is missing in one of the two is missing.
        let worse = if reserved.missing() > scheduled.missing() { reserved } else { scheduled };
        let answer = app.answer(summary, data, &worse);
        let (kind, what) = app.evidence("scheduled, reserved");
        Ok(answer.evidence(kind, what))
    }
}
