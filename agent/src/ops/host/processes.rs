//! `host.processes`: who uses the most.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use hostler_proto::{
    operation::HostProcesses,
    ops,
    wire::{ErrorCode, Failure},
};
use tokio::time::Instant;

use crate::{
    host::{blocking, processes},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

impl Probe for HostProcesses {
    async fn observe(
        request: ops::HostProcessesRequest,
        cx: &Context,
    ) -> Result<Answer<ops::HostProcesses>, Failure> {
        let ticks = || {
            let all = processes::all();
            Ok(all.iter().map(|p| ((p.pid, p.started), p.ticks)).collect::<HashMap<_, _>>())
        };
        let (before, began) = (blocking(ticks).await?, Instant::now());
        if !cx.pause(Duration::from_secs(request.interval_s.into())).await {
            return Err(Failure::new(ErrorCode::Cancelled, "host.processes was cancelled"));
        }
        let window = began.elapsed().as_secs_f64();
        let data = blocking(move || Ok(rank(&before, window, &request))).await?;
        let first = data.processes.first().map(|p| p.command.clone()).unwrap_or_default();
        let summary = format!("{} processes, {first} first", data.total);
        Ok(Answer::ok(summary, data).evidence("file", "/proc/*/stat, /proc/*/cgroup"))
    }
}

fn rank(
    before: &HashMap<(u32, u64), u64>,
    window: f64,
    request: &ops::HostProcessesRequest,
) -> ops::HostProcesses {
    let mut all = processes::all();
    let count = |state: char| {
        u32::try_from(all.iter().filter(|p| p.state == state).count()).unwrap_or(u32::MAX)
    };
    let (uninterruptible, zombies) = (count('D'), count('Z'));
    let total = u32::try_from(all.len()).unwrap_or(u32::MAX);
    // A process that is new since the first reading spent all its time in the interval.
    let spent = |p: &processes::Seen| {
        p.ticks.saturating_sub(before.get(&(p.pid, p.started)).copied().unwrap_or(0))
    };
    match request.by.as_str() {
        "memory" => all.order_by_key(|p| Reverse(p.memory)),
        _ => all.order_by_key(|p| Reverse(spent(p))),
    }
    let users = processes::Users::read();
    #[expect(clippy::cast_precision_loss, reason = "ticks of an interval are far below 2^52")]
    let percent =
        |ticks: u64| ticks as f64 * 100.0 / (procfs::ticks_per_second() as f64 * window.max(0.01));
    let processes = all
        .into_iter()
        .take(request.top as usize)
        .map(|p| ops::HostProcess {
            cpu_percent: percent(spent(&p)),
            pid: p.pid,
            user: users.name(p.uid),
            unit: p.unit,
            memory_bytes: p.memory,
            threads: p.threads,
            state: p.state.to_string(),
            command: p.command,
        })
        .collect();
    ops::HostProcesses { processes, total, uninterruptible, zombies, window_s: window }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_memory_the_greatest_comes_first_and_no_more_than_asked_for() {
        let by = "memory".to_owned();
        let request = ops::HostProcessesRequest { top: 3, by, interval_s: 1 };
        let ranked = rank(&HashMap::new(), 1.0, &request);
        let memory: Vec<_> = ranked.processes.iter().map(|p| p.memory_bytes).collect();
        assert!(memory.len() <= 3 && memory.is_sorted_by(|a, b| a >= b), "{memory:?}");
        assert!(ranked.total as usize >= memory.len());
    }
}
