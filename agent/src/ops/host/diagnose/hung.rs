//! Processes of a unit that do not go on: stopped by a signal, or waiting for a disk without an end.

use std::time::Duration;

use hostler_proto::wire::{Finding, Status};

use crate::{
    host::{blocking, processes},
    operation::Context,
    ops::systemd::stopped,
};

/// Looks at a process that waits for a disk, before it counts as one that does not come back.
const LOOKS: u32 = 4;
/// Time between them.
const BETWEEN: Duration = Duration::from_millis(250);

/// What is to say of a unit whose main process does not go on.
pub(super) async fn hung(cx: &Context, unit: &str, pid: u32) -> Option<Finding> {
    if pid == 0 || cx.host.policy.operation("host.processes").is_err() {
        return None;
    }
    let mut state = ' ';
    for look in 0..LOOKS {
        state = blocking(move || Ok(processes::one(pid))).await.ok()??.state;
        // Every process waits for a disk now and then.
        if state != 'D' || look + 1 < LOOKS && !cx.pause(BETWEEN).await {
            break;
        }
    }
    judge(unit, pid, state)
}

fn judge(unit: &str, pid: u32, state: char) -> Option<Finding> {
    if state != 'D' {
        return stopped(unit, pid, state);
    }
    let summary = format!(
        "{unit} is hung: its process {pid} waits for a disk or a network file system that does not answer"
    );
    let finding = Finding::new(Status::Critical, unit, summary);
    Some(finding.why("no signal ends it before that answers").next("disk usage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_process_that_does_not_go_on_makes_its_unit_hung() {
        let stopped = judge("web.service", 7, 'T').expect("a finding");
        assert_eq!(stopped.summary, "web.service is hung: its process 7 is stopped");
        assert_eq!(stopped.next, "systemd restart web.service");
        assert!(judge("web.service", 7, 'D').expect("a finding").summary.contains("waits for"));
        for well in ['S', 'R', 'I', ' '] {
            assert_eq!(judge("web.service", 7, well), None, "{well}");
        }
    }
}
