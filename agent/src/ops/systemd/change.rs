//! What start, stop, restart and reload have in common: look, have systemd do it, wait for the end
//! of its job, and watch whether the unit stays as it was asked to be.

use std::time::Duration;

use hostler_proto::{
    ops::SystemdChange,
    wire::{ErrorCode, Evidence, Failure, Finding, PlanStep, Status},
};
use tokio::time::Instant;

use super::{
    bus::{Bus, Pulse, Verb},
    full_name,
    judgement::{describe, stands_for},
    status::instances,
    unit::Unit,
    vital,
};
use crate::{
    operation::{Answer, Context, Plan},
    ops::journal,
};

/// Lines of a unit's journal that are shown when a change of it went wrong.
const LINES: u32 = 10;
/// How often a unit is looked at while it is watched.
const BEAT: Duration = Duration::from_millis(250);

/// One change of one unit.
#[derive(Debug, Clone)]
pub struct Change {
    verb: Verb,
    unit: String,
    stable: Duration,
}

/// Decides whether the change is needed, possible and allowed.
pub(super) async fn plan(
    verb: Verb,
    name: &str,
    stable: Duration,
    cx: &Context,
) -> Result<Plan<Change>, Failure> {
    let name = full_name(name);
    cx.host.policy.unit(&name)?;
    vital::by_name(verb, &name, [])?;
    let bus = Bus::connect().await?;
    let unit = bus.existing(&name, cx.host.clock.now().as_microsecond()).await?;
    // An alias must not lead to a unit that may not be touched.
    cx.host.policy.unit(&unit.status.name)?;
    vital::by_dependents(verb, &name, &unit, &bus).await?;
    let needed = decide(verb, &unit)?;
    let step = PlanStep {
        summary: format!("{} {}", verb.word(), state(&unit)),
        undo: match verb {
            Verb::Start => format!("systemd stop {}", unit.status.name),
            Verb::Stop => format!("systemd start {}", unit.status.name),
            Verb::Restart | Verb::Reload => String::new(),
        },
    };
    let steps = if needed { vec![step] } else { Vec::new() };
    Ok(Plan { steps, details: Change { verb, unit: unit.status.name, stable } })
}

/// Carries the change out and watches it.
pub(super) async fn apply(change: Change, cx: &Context) -> Result<Answer<SystemdChange>, Failure> {
    let Change { verb, unit: name, stable } = &change;
    let now = || cx.host.clock.now().as_microsecond();
    let bus = Bus::connect().await?;
    let before = bus.existing(name, now()).await?;
    let begun = Instant::now();
    cx.progress(format!("waiting for systemd to {} {name}", verb.word()), 0, 0, "");
    let Some(job) = bus.change(*verb, name, cx.cancelled.cancelled()).await? else {
        let message = format!("nobody waited until systemd had come to {} {name}", verb.word());
        return Err(Failure::new(ErrorCode::OutcomeUnknown, message)
            .hint(format!("its job goes on; look at `systemd status {name}`")));
    };
    let watched = match job.as_str() {
        "done" if !stable.is_zero() => watch(&bus, name, *stable, cx).await?,
        _ => Watched::Steady,
    };
    let after = bus.unit(name, now()).await?;
    let took_s = begun.elapsed().as_secs_f64();
    let problem = verdict(*verb, &job, &watched, &after);
    let summary = match &problem {
        Some(finding) => finding.summary.clone(),
        None => format!("{} done: {}", verb.word(), describe(&after)),
    };
    let data = SystemdChange {
        before: Some(before.status),
        after: Some(after.status.clone()),
        job,
        took_s,
    };
    let mut answer =
        Answer::ok(summary, data).evidence("dbus", format!("{} {name} replace", verb.word()));
    if after.dummy {
        answer = answer.finding(stands_for(&after, &instances(&bus, &after).await?));
    }
    if *verb == Verb::Stop && problem.is_none() && !after.triggered_by.is_empty() {
        answer = answer.finding(Finding {
            status: Status::Ok.into(),
            subject: name.clone(),
            summary: format!("{} can start {name} again", after.triggered_by.join(", ")),
            next: format!("systemd stop {}", after.triggered_by[0]),
            ..Finding::default()
        });
    }
    if let Some(finding) = problem {
        let bad = finding.status() == Status::Critical;
        answer = answer.finding(finding);
        if bad {
            answer.evidence.push(Evidence {
                kind: "argv".to_owned(),
                what: format!("journalctl --unit={name} --lines={LINES}"),
                tail: journal::last_lines(name, LINES).await,
                ..Evidence::default()
            });
        }
    }
    Ok(answer)
}

/// Whether the change is needed at all.
fn decide(verb: Verb, unit: &Unit) -> Result<bool, Failure> {
    let status = &unit.status;
    let (name, word) = (&status.name, verb.word());
    let refuse = |problem: String, hint: String| {
        Err(Failure::new(ErrorCode::PreconditionFailed, problem).hint(hint))
    };
    let running = matches!(status.active_state.as_str(), "active" | "reloading" | "refreshing");
    let stopped = matches!(status.active_state.as_str(), "inactive" | "failed");
    if status.load_state != "loaded" && verb != Verb::Stop {
        return match status.load_state.as_str() {
            "masked" => {
                refuse(format!("{name} is masked"), "somebody masked it on purpose".to_owned())
            }
            other => refuse(
                format!("{name} cannot be used: its file is {other}"),
                format!("`journal read --unit {name}` says why"),
            ),
        };
    }
    if status.main_pid != 0 && status.main_pid == std::process::id() && verb != Verb::Reload {
        return refuse(
            format!("{name} is this agent itself, which cannot {word} itself and report it"),
            "do this on the host".to_owned(),
        );
    }
    let by_dependency = "its file allows it only as a dependency of others".to_owned();
    match verb {
        Verb::Start if running => Ok(false),
        Verb::Stop if stopped => Ok(false),
        Verb::Start if !unit.can_start => {
            refuse(format!("{name} refuses to be started by hand"), by_dependency)
        }
        Verb::Stop if !unit.can_stop => {
            refuse(format!("{name} refuses to be stopped by hand"), by_dependency)
        }
        Verb::Restart if !(unit.can_start && unit.can_stop) => {
            refuse(format!("{name} refuses to be restarted by hand"), by_dependency)
        }
        Verb::Reload if !running => refuse(
            format!("{name} is {}, so that it cannot read its configuration", status.active_state),
            format!("`systemd start {name}` starts it"),
        ),
        Verb::Reload if !unit.can_reload => refuse(
            format!("{name} cannot read its configuration without a restart"),
            format!("`systemd restart {name}` does it with a short outage"),
        ),
        _ => Ok(true),
    }
}

/// A unit's state in words that stay the same while the state does: a plan is compared by them.
fn state(unit: &Unit) -> String {
    let status = &unit.status;
    let mut line = format!("{} ({}", status.name, status.active_state);
    let since = i64::try_from(unit.since_us).ok().filter(|us| *us > 0);
    if let Some(time) = since.and_then(|us| jiff::Timestamp::from_second(us / 1_000_000).ok()) {
        line += &format!(" since {time}");
    }
    if status.main_pid > 0 {
        line += &format!(", pid {}", status.main_pid);
    }
    line + ")"
}

/// What was seen of a unit after its job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// It stayed as it was.
    Steady,
    /// It did not, in the way that is told.
    Moved(String),
    /// The watch was cut short after so long.
    Short(Duration),
}

/// Looks at a unit for a while.
async fn watch(bus: &Bus, name: &str, stable: Duration, cx: &Context) -> Result<Watched, Failure> {
    let first = bus.pulse(name).await?;
    let begun = Instant::now();
    while begun.elapsed() < stable {
        let passed = begun.elapsed();
        let doing = format!("watching whether {name} stays {}", first.active);
        cx.progress(doing, passed.as_secs(), stable.as_secs(), "s");
        if !cx.pause(BEAT.min(stable.saturating_sub(passed))).await {
            return Ok(Watched::Short(begun.elapsed()));
        }
        if let Some(moved) = moved(&first, &bus.pulse(name).await?) {
            let after = begun.elapsed().as_secs_f64();
            return Ok(Watched::Moved(format!("{moved} after {after:.1} s")));
        }
    }
    Ok(Watched::Steady)
}

/// How a unit is no longer what it was.
fn moved(first: &Pulse, now: &Pulse) -> Option<String> {
    let settled = |state: &str| matches!(state, "active" | "reloading" | "refreshing");
    if first.active != now.active && !(settled(&first.active) && settled(&now.active)) {
        return Some(format!("became {}", now.active));
    }
    if now.restarts > first.restarts {
        return Some("was started again by systemd".to_owned());
    }
    (first.pid != now.pid).then(|| format!("changed its main process to {}", now.pid))
}

/// What went wrong, if anything did.
fn verdict(verb: Verb, job: &str, watched: &Watched, after: &Unit) -> Option<Finding> {
    let name = &after.status.name;
    let word = verb.word();
    let active = after.status.active_state.as_str();
    let oneshot = after.kind == "oneshot";
    let (status, summary) = match (verb, watched) {
        _ if job != "done" => {
            (Status::Critical, format!("{word} of {name} ended as \"{job}\"; it is {active}"))
        }
        (Verb::Stop, _) => match active {
            "inactive" => return None,
            "failed" => {
                let result = &after.status.result;
                (Status::Warning, format!("{name} stopped, but not in good order: {result}"))
            }
            _ => (Status::Critical, format!("{name} was stopped, and is {active} again")),
        },
        (Verb::Reload, _) if active == "active" || active == "reloading" => return None,
        (_, Watched::Moved(how)) if !(oneshot && active == "inactive") => {
            (Status::Critical, format!("{name} did not stay active: it {how}"))
        }
        _ if !after.conditions_met && active == "inactive" => {
            let why = "a condition in its file does not hold";
            (Status::Critical, format!("{name} was not started: {why}"))
        }
        _ if oneshot && active == "inactive" && after.status.result == "success" => return None,
        (_, Watched::Short(after)) if active == "active" => {
            let seen = after.as_secs();
            (Status::Unknown, format!("{name} is active, but was watched for {seen} s only"))
        }
        _ if active == "active" || active == "reloading" => return None,
        _ => (Status::Critical, format!("{name} is {active} after its {word}")),
    };
    Some(Finding {
        status: status.into(),
        subject: name.clone(),
        summary,
        why: match status {
            Status::Critical => "the unit does not do what was asked of it".to_owned(),
            _ => String::new(),
        },
        next: format!("journal read --unit {name} --lines 50"),
        ..Finding::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str) -> Unit {
        let mut unit = Unit {
            kind: "simple".into(),
            conditions_met: true,
            can_start: true,
            can_stop: true,
            ..Unit::default()
        };
        unit.status.name = "web.service".into();
        unit.status.load_state = "loaded".into();
        unit.status.active_state = active.into();
        unit.status.result = "success".into();
        unit
    }

    fn code(result: Result<bool, Failure>) -> ErrorCode {
        result.expect_err("refused").code()
    }

    #[test]
    fn what_is_already_so_needs_no_step() {
        assert!(!decide(Verb::Start, &unit("active")).expect("plan"));
        assert!(!decide(Verb::Stop, &unit("inactive")).expect("plan"));
        assert!(!decide(Verb::Stop, &unit("failed")).expect("plan"));
        assert!(decide(Verb::Stop, &unit("activating")).expect("a crash loop is stopped"));
        assert!(decide(Verb::Restart, &unit("inactive")).expect("restart starts"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_before_anything_is_done() {
        let mut masked = unit("inactive");
        masked.status.load_state = "masked".into();
        assert_eq!(code(decide(Verb::Start, &masked)), ErrorCode::PreconditionFailed);
        let failure = decide(Verb::Reload, &unit("active")).expect_err("cannot reload");
        assert!(failure.hint.contains("systemd restart web.service"), "{failure}");
        assert_eq!(code(decide(Verb::Reload, &unit("inactive"))), ErrorCode::PreconditionFailed);
        let mut dependent = unit("inactive");
        dependent.can_start = false;
        assert_eq!(code(decide(Verb::Start, &dependent)), ErrorCode::PreconditionFailed);
    }

    #[test]
    fn an_agent_does_not_stop_itself() {
        let mut own = unit("active");
        own.status.main_pid = std::process::id();
        assert_eq!(code(decide(Verb::Restart, &own)), ErrorCode::PreconditionFailed);
    }

    #[test]
    fn a_plan_reads_the_same_for_as_long_as_the_unit_is_the_same() {
        let mut web = unit("active");
        web.since_us = 1_767_225_600_123_456;
        web.status.main_pid = 812;
        assert_eq!(state(&web), "web.service (active since 2026-01-01T00:00:00Z, pid 812)");
        let text = state(&web);
        web.status.since_s += 7200;
        assert_eq!(state(&web), text);
    }

    #[test]
    fn a_unit_that_dies_or_is_replaced_while_it_is_watched_has_moved() {
        let first = Pulse { active: "active".into(), pid: 7, restarts: 0 };
        assert_eq!(moved(&first, &first), None);
        assert_eq!(moved(&first, &Pulse { active: "reloading".into(), ..first.clone() }), None);
        let failed = Pulse { active: "failed".into(), pid: 0, restarts: 0 };
        assert_eq!(moved(&first, &failed).as_deref(), Some("became failed"));
        assert!(moved(&first, &Pulse { pid: 8, ..first.clone() }).is_some());
        let again = Pulse { pid: 8, restarts: 1, ..first.clone() };
        assert_eq!(moved(&first, &again).as_deref(), Some("was started again by systemd"));
    }

    #[test]
    fn a_job_that_is_not_done_is_critical_whatever_the_unit_does() {
        for job in ["failed", "timeout", "dependency", "canceled"] {
            let finding = verdict(Verb::Start, job, &Watched::Steady, &unit("active"));
            assert_eq!(finding.expect("finding").status(), Status::Critical, "{job}");
        }
    }

    #[test]
    fn a_finished_oneshot_has_started_well_and_a_finished_daemon_has_not() {
        let mut job = unit("inactive");
        assert!(verdict(Verb::Start, "done", &Watched::Steady, &job).is_some());
        job.kind = "oneshot".into();
        assert!(verdict(Verb::Start, "done", &Watched::Steady, &job).is_none());
        job.conditions_met = false;
        assert!(verdict(Verb::Start, "done", &Watched::Steady, &job).is_some());
    }

    #[test]
    fn a_stopped_unit_is_gone_and_one_that_had_to_be_killed_is_told() {
        let judged = |active| verdict(Verb::Stop, "done", &Watched::Steady, &unit(active));
        assert_eq!(judged("inactive"), None);
        assert_eq!(judged("failed").expect("killed").status(), Status::Warning);
        assert_eq!(judged("active").expect("came back").status(), Status::Critical);
    }

    #[test]
    fn a_watch_that_was_cut_short_leaves_doubt() {
        let short = Watched::Short(Duration::from_secs(1));
        let finding = verdict(Verb::Restart, "done", &short, &unit("active")).expect("doubt");
        assert_eq!(finding.status(), Status::Unknown);
    }
}
