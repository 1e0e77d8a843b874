//! `celery.stats`: what each worker has done, and what it takes.

use hostler_proto::{
    operation::CeleryStats,
    ops::{CeleryStats as Report, CeleryStatsRequest, CeleryWorkerStats, TaskCount},
    wire::Failure,
};
use serde_json::Value;

use super::{App, millis, number, workers::pool};
use crate::{
    operation::{Answer, Context, Probe},
    order::Order as _,
};

impl Probe for CeleryStats {
    async fn observe(request: CeleryStatsRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let mut app = App::connect(cx, &request.app).await?;
        let answers = app.ask("stats", millis(request.timeout_ms)).await?;
        let workers: Vec<_> = answers.by_worker.iter().map(|(n, s)| worker(n, s)).collect();
        let data = Report { workers };
        let tasks: u64 = data.workers.iter().flat_map(|w| &w.tasks).map(|t| t.count).sum();
        let summary = format!("{} workers, {tasks} tasks since their starts", data.workers.len());
        let answer = app.answer(summary, data, &answers);
        let (kind, what) = app.evidence("stats");
        Ok(answer.evidence(kind, what))
    }
}

fn worker(name: &str, stats: &Value) -> CeleryWorkerStats {
    let small = |value: &Value| u32::try_from(number(value)).unwrap_or(0);
    let processes = stats["pool"]["processes"].as_array();
    let mut tasks: Vec<TaskCount> = stats["total"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, count)| TaskCount { name: name.clone(), count: number(count) })
        .collect();
    tasks.order_by(|a, b| (b.count, &a.name).cmp(&(a.count, &b.name)));
    CeleryWorkerStats {
        name: name.to_owned(),
        pid: small(&stats["pid"]),
        uptime_s: number(&stats["uptime"]),
        pool: pool(stats),
        concurrency: small(&stats["pool"]["max-concurrency"]),
        processes: processes.into_iter().flatten().map(small).collect(),
        prefetch: small(&stats["prefetch_count"]),
        // getrusage(2) counts it in KiB.
        max_resident_bytes: number(&stats["rusage"]["maxrss"]).saturating_mul(1024),
        tasks,
    }
}
