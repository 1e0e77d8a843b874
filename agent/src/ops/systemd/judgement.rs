//! How well a unit is, from its properties alone.

use hostler_proto::{
    operation::{Operation, SystemdStatus},
    ops::SystemdStatusRequest,
    wire::{Finding, Status},
};

use super::unit::Unit;
use crate::{
    amount,
    bounds::{Bound, Bounds},
    operation::severity,
    order::Order as _,
};

/// Restarts from which one that waits for its next start counts as one that keeps crashing.
const TWICE: u32 = 2;
/// What a unit is good for that keeps crashing.
const SERVED: &str = "its users are served in between at best";
const NAME: &str = <SystemdStatus as Operation>::NAME;

/// What is wrong with a unit; none when it is well, or stopped on purpose. One that was named has to run,
/// whoever stopped it.
pub(super) fn judge(unit: &Unit, request: &SystemdStatusRequest) -> Option<Finding> {
    let named = !request.unit.is_empty();
    let status = &unit.status;
    let crashing = Bound::of(NAME, "restarts", request.restarts.into());
    // One that was restarted often and is up for less than it must keeps crashing: it is well in none of its
    // moments.
    let steady = status.since_s >= u64::from(request.steady_s);
    let restarted = |finding: Finding| {
        let bounds = match steady {
            true => Bounds::warning(crashing, ""),
            false => Bounds::critical(crashing, ""),
        };
        Some(bounds.told(finding, status.restarts.into(), "restarts"))
    };
    let name = &status.name;
    let journal = format!("journal read --unit {name} --lines 50");
    let finding = |severity: Status, summary: String, why: &str| {
        Some(Finding::new(severity, name, summary).why(why).next(&journal))
    };
    if status.sub_state.starts_with("auto-restart") && status.restarts < TWICE {
        // It keeps nothing yet: what comes next tells.
        let summary = format!("{name} has crashed, and systemd starts it again: {}", ending(unit));
        return finding(Status::Critical, summary, "its users are not served until it is back");
    }
    if status.sub_state.starts_with("auto-restart") {
        let summary = format!(
            "{name} keeps crashing: restarted {}, last run ended with {}",
            times(status.restarts),
            ending(unit)
        );
        let bounds = Bounds::critical(Bound::fixed(TWICE.into()), "");
        let keeps = finding(Status::Critical, summary, SERVED)?;
        return Some(bounds.told(keeps, status.restarts.into(), "restarts"));
    }
    match status.active_state.as_str() {
        "failed" => {
            let summary = format!("{name} has failed: {}", ending(unit));
            finding(Status::Critical, summary, "it does not run and nothing will start it again")
        }
        "activating" if status.since_s >= u64::from(request.slow_start_s) => {
            let summary = format!(
                "{name} has been starting for {} and is not ready ({})",
                amount::span(status.since_s as f64),
                status.sub_state
            );
            let bound = Bound::of(NAME, "slow-start-s", request.slow_start_s.into());
            let starts =
                finding(Status::Warning, summary, "it may wait for something that does not come")?;
            Some(Bounds::warning(bound, "").told(starts, status.since_s as f64, "s"))
        }
        "active" if status.load_state == "not-found" => {
            let summary = format!("{name} runs, but its file is gone");
            finding(Status::Warning, summary, "it cannot be started again once it ends")
        }
        "active" | "activating" | "reloading"
            if status.restarts >= request.restarts
                && status.since_s < u64::from(request.forgiven_s) =>
        {
            let (many, up) = (times(status.restarts), amount::span(status.since_s as f64));
            if !steady {
                let summary = format!("{name} keeps crashing: restarted {many}, up for {up}");
                return restarted(finding(Status::Critical, summary, SERVED)?);
            }
            let summary = format!("{name} was restarted {many} by systemd, steady for {up}");
            let why = format!(
                "active now does not mean that it stays so; `systemd restart {name}` clears this"
            );
            restarted(finding(Status::Warning, summary, &why)?)
        }
        "inactive" if named && !waits(unit) => Some(stopped(unit)),
        "deactivating" if named => {
            let summary =
                format!("{name} is being stopped for {}", amount::span(status.since_s as f64));
            finding(Status::Warning, summary, "it serves nobody until it is started again")
        }
        "inactive"
            if status.enabled == "enabled"
                && status.load_state == "loaded"
                && unit.conditions_met
                && unit.triggered_by.is_empty()
                && unit.kind != "oneshot"
                && name.ends_with(".service") =>
        {
            let summary = format!("{name} is to start at boot, and does not run");
            finding(Status::Warning, summary, "somebody stopped it, or it ended by itself")
        }
        _ => None,
    }
}

/// Whether a unit that does not run is as it should be: something starts it when it is needed, or
/// it did its work and ended.
fn waits(unit: &Unit) -> bool {
    // The bus starts it when somebody calls it, and it ends when nobody does any more.
    let on_demand = unit.kind == "dbus" && unit.status.enabled == "static";
    unit.triggered || on_demand || unit.kind == "oneshot" && !unit.remains && unit.conditions_met
}

fn stopped(unit: &Unit) -> Finding {
    let name = &unit.status.name;
    let (said, why) = match unit.status.load_state.as_str() {
        "masked" => ("is masked and does not run", "`systemctl unmask` lets it be started again"),
        "loaded" if !unit.conditions_met => (
            "does not run: a condition in its file was not met",
            "systemd skips its start until what Condition… asks for is there",
        ),
        "loaded" if !unit.triggered_by.is_empty() => (
            "does not run, and what starts it is stopped as well",
            "nothing starts it when it is needed",
        ),
        "loaded" => ("is stopped", "somebody stopped it, it ended by itself, or nobody started it"),
        _ => ("does not run, and its file cannot be used", "systemd cannot start it"),
    };
    Finding::new(Status::Critical, name, format!("{name} {said}"))
        .why(why)
        .next(format!("journal read --unit {name} --lines 50"))
}

/// What to say of a unit that runs nothing itself, with the units that it stands for.
pub(super) fn stands_for(unit: &Unit, instances: &[String]) -> Finding {
    let name = &unit.status.name;
    let (status, summary) = match instances {
        [] => {
            (Status::Warning, format!("{name} runs nothing by itself, and no instance is loaded"))
        }
        some => {
            let list = some.join(", ");
            (Status::Ok, format!("{name} runs nothing by itself; it stands for {list}"))
        }
    };
    let next = match instances {
        [] => "net listeners".to_owned(),
        some => format!("systemd status {}", some.join(" ")),
    };
    Finding::new(status, name, summary)
        .why("its state says nothing about whether the service works")
        .next(next)
}

/// Worst first, then by name.
pub(super) fn worst_first(units: &mut [Unit], request: &SystemdStatusRequest) {
    let rank = |u: &Unit| judge(u, request).map_or(0, |f| severity(f.status()));
    units.order_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.status.name.cmp(&b.status.name)));
}

/// All of some units in one line, with what was found wrong with them.
pub(super) fn sum_up(units: &[Unit], findings: &[Finding]) -> String {
    match (units, findings) {
        ([], _) => "no unit has failed or keeps crashing".to_owned(),
        ([_], [finding, ..]) => finding.summary.clone(),
        ([unit], []) => describe(unit),
        (_, []) => format!("all {} units are well", units.len()),
        (_, bad) => format!("{} of {} units are not well", bad.len(), units.len()),
    }
}

/// One unit in one line.
pub(super) fn describe(unit: &Unit) -> String {
    let status = &unit.status;
    let mut line = format!("{} is {} ({})", status.name, status.active_state, status.sub_state);
    if status.load_state != "loaded" {
        line = format!("{} is {}, {}", status.name, status.load_state, status.active_state);
    }
    if status.since_s > 0 {
        line += &format!(" for {}", amount::span(status.since_s as f64));
    }
    if status.main_pid > 0 {
        line += &format!(", pid {}", status.main_pid);
    }
    line
}

/// How the last run ended, as a person would say it.
fn ending(unit: &Unit) -> String {
    let result = unit.status.result.as_str();
    match (result, unit.status.exit_status) {
        ("exit-code", Some(code)) => format!("exit status {code}"),
        ("oom-kill", _) => "killed for lack of memory".to_owned(),
        ("timeout", _) => "killed because it took too long".to_owned(),
        ("start-limit-hit", _) => "given up after too many restarts".to_owned(),
        ("" | "success", _) => "no reason given".to_owned(),
        (other, _) => other.to_owned(),
    }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    fn unit(name: &str, active: &str, sub: &str) -> Unit {
        let mut unit = Unit { conditions_met: true, kind: "simple".into(), ..Unit::default() };
        unit.status.name = name.into();
        unit.status.load_state = "loaded".into();
        unit.status.active_state = active.into();
        unit.status.sub_state = sub.into();
        unit.status.since_s = 7200;
        unit
    }

    fn asked(named: bool) -> SystemdStatusRequest {
        let unit = if named { vec!["a.service".to_owned()] } else { Vec::new() };
        let request = SystemdStatusRequest { unit, ..Default::default() };
        completed::<SystemdStatus>(&request).expect("defaults")
    }

    fn judge(unit: &Unit, named: bool) -> Option<Finding> {
        super::judge(unit, &asked(named))
    }

    fn severity_of(unit: &Unit) -> Status {
        judge(unit, false).map_or(Status::Ok, |f| f.status())
    }

    #[test]
    fn a_failed_unit_is_critical_and_leads_to_its_journal() {
        let mut failed = unit("nginx.service", "failed", "failed");
        failed.status.result = "exit-code".into();
        failed.status.exit_status = Some(203);
        let finding = judge(&failed, false).expect("finding");
        assert_eq!(finding.status(), Status::Critical);
        assert_eq!(finding.summary, "nginx.service has failed: exit status 203");
        assert_eq!(finding.next, "journal read --unit nginx.service --lines 50");
    }

    #[test]
    fn a_crash_loop_is_critical_in_all_its_moments_and_forgiven_when_it_is_steady() {
        assert_eq!(severity_of(&unit("a.service", "activating", "auto-restart")), Status::Critical);
        let mut crashing = unit("a.service", "active", "running");
        crashing.status.restarts = 41;
        crashing.status.sub_state = "auto-restart".into();
        let said = judge(&crashing, false).expect("a finding").summary;
        let last = "last run ended with no reason given";
        assert_eq!(said, format!("a.service keeps crashing: restarted 41 times, {last}"));
        crashing.status.sub_state = "running".into();
        let mut up_for = |seconds| {
            crashing.status.since_s = seconds;
            judge(&crashing, false).map(|f| (f.status(), f.summary, f.why))
        };
        let (status, said, _) = up_for(5).expect("a finding");
        assert_eq!(status, Status::Critical);
        assert_eq!(said, "a.service keeps crashing: restarted 41 times, up for 5 s");
        let (status, said, why) = up_for(420).expect("a finding");
        assert_eq!(status, Status::Warning);
        assert_eq!(said, "a.service was restarted 41 times by systemd, steady for 7 min");
        assert!(why.ends_with("`systemd restart a.service` clears this"), "{why}");
        assert_eq!(up_for(600), None);
    }

    #[test]
    fn how_often_and_how_long_can_be_moved_and_is_told() {
        let mut crashing = unit("a.service", "active", "running");
        (crashing.status.restarts, crashing.status.since_s) = (41, 100);
        let found = judge(&crashing, false).expect("a finding");
        assert_eq!((found.value, found.warning, found.critical), (Some(41.0), Some(3.0), None));
        assert_eq!((found.unit.as_str(), found.source.as_str()), ("restarts", "default"));
        let patient = SystemdStatusRequest { steady_s: 120, ..asked(false) };
        let found = super::judge(&crashing, &patient).expect("a finding");
        assert_eq!((found.status(), found.critical), (Status::Critical, Some(3.0)));
        let often = SystemdStatusRequest { restarts: 50, ..asked(false) };
        assert_eq!(super::judge(&crashing, &often), None);
        let forgiving = SystemdStatusRequest { forgiven_s: 90, ..asked(false) };
        assert_eq!(super::judge(&crashing, &forgiving), None);
        let mut starting = unit("a.service", "activating", "start");
        starting.status.since_s = 70;
        let found = judge(&starting, false).expect("a finding");
        assert_eq!(
            (found.value, found.warning, found.unit.as_str()),
            (Some(70.0), Some(60.0), "s")
        );
        let slow = SystemdStatusRequest { slow_start_s: 300, ..asked(false) };
        assert_eq!(super::judge(&starting, &slow), None);
    }

    #[test]
    fn a_first_crash_is_told_as_one() {
        let mut crashed = unit("a.service", "activating", "auto-restart");
        crashed.status.result = "exit-code".into();
        crashed.status.exit_status = Some(1);
        for restarts in [0, 1] {
            crashed.status.restarts = restarts;
            let finding = judge(&crashed, false).expect("a finding");
            assert_eq!(finding.status(), Status::Critical);
            let said = "a.service has crashed, and systemd starts it again: exit status 1";
            assert_eq!(finding.summary, said);
        }
        crashed.status.restarts = 2;
        let said = judge(&crashed, false).expect("a finding").summary;
        assert!(said.starts_with("a.service keeps crashing: restarted 2 times"), "{said}");
    }

    #[test]
    fn one_unit_is_summed_up_by_what_is_wrong_with_it() {
        let well = unit("a.service", "active", "running");
        assert_eq!(
            sum_up(std::slice::from_ref(&well), &[]),
            "a.service is active (running) for 2 h"
        );
        let mut crashing = well.clone();
        (crashing.status.restarts, crashing.status.since_s) = (49, 1);
        let finding = judge(&crashing, false).expect("a finding");
        assert_eq!(sum_up(&[crashing], std::slice::from_ref(&finding)), finding.summary);
        let many = [well.clone(), well];
        assert_eq!(sum_up(&many, &[finding]), "1 of 2 units are not well");
        assert_eq!(sum_up(&many, &[]), "all 2 units are well");
        assert_eq!(sum_up(&[], &[]), "no unit has failed or keeps crashing");
    }

    #[test]
    fn what_is_active_is_well_and_what_hangs_in_its_start_is_not() {
        assert_eq!(severity_of(&unit("a.service", "active", "running")), Status::Ok);
        assert_eq!(severity_of(&unit("a.service", "activating", "start")), Status::Warning);
    }

    #[test]
    fn a_unit_that_nobody_named_may_be_stopped_unless_it_starts_at_boot() {
        let mut stopped = unit("a.service", "inactive", "dead");
        assert_eq!(severity_of(&stopped), Status::Ok);
        stopped.status.enabled = "enabled".into();
        assert_eq!(severity_of(&stopped), Status::Warning);
        stopped.conditions_met = false;
        assert_eq!(severity_of(&stopped), Status::Ok, "its condition keeps it from running");
    }

    #[test]
    fn a_unit_that_was_named_must_run_however_it_is_enabled() {
        for enabled in ["disabled", "static", "enabled-runtime", "enabled"] {
            let mut unit = unit("postgresql@15-main.service", "inactive", "dead");
            unit.status.enabled = enabled.into();
            let finding = judge(&unit, true).expect(enabled);
            assert_eq!(finding.status(), Status::Critical, "{enabled}");
            assert_eq!(finding.summary, "postgresql@15-main.service is stopped");
            unit.conditions_met = false;
            let finding = judge(&unit, true).expect(enabled);
            assert!(finding.summary.contains("a condition in its file was not met"));
        }
        let mut masked = unit("a.service", "inactive", "dead");
        masked.status.load_state = "masked".into();
        assert!(judge(&masked, true).expect("finding").summary.contains("is masked"));
        let leaving = unit("a.service", "deactivating", "stop-sigterm");
        assert_eq!(judge(&leaving, true).expect("finding").status(), Status::Warning);
    }

    #[test]
    fn a_named_unit_that_did_its_work_or_waits_for_its_trigger_is_well() {
        let mut once = unit("backup.service", "inactive", "dead");
        once.kind = "oneshot".into();
        assert_eq!(judge(&once, true), None);
        once.remains = true;
        assert!(judge(&once, true).is_some(), "it would be active if it had been started");
        let mut called = unit("packagekit.service", "inactive", "dead");
        (called.kind, called.status.enabled) = ("dbus".into(), "static".into());
        assert_eq!(judge(&called, true), None);
        called.status.enabled = "enabled".into();
        assert!(judge(&called, true).is_some(), "it is to run from the boot on");
        let mut waiting = unit("cups.service", "inactive", "dead");
        waiting.triggered_by = vec!["cups.socket".into()];
        waiting.triggered = true;
        assert_eq!(judge(&waiting, true), None);
        waiting.triggered = false;
        let finding = judge(&waiting, true).expect("finding");
        assert!(finding.summary.contains("what starts it is stopped as well"), "{finding:?}");
    }

    #[test]
    fn a_unit_that_runs_nothing_names_those_it_stands_for() {
        let group = unit("postgresql.service", "active", "exited");
        let finding = stands_for(&group, &["postgresql@15-main.service".into()]);
        assert_eq!(finding.status(), Status::Ok);
        assert!(finding.summary.contains("stands for postgresql@15-main.service"));
        assert_eq!(stands_for(&group, &[]).status(), Status::Warning);
    }

    #[test]
    fn units_are_listed_worst_first_and_then_by_name() {
        let mut units = [
            unit("b.service", "active", "running"),
            unit("c.service", "failed", "failed"),
            unit("a.service", "active", "running"),
            unit("d.service", "activating", "start"),
        ];
        worst_first(&mut units, &asked(true));
        let names: Vec<_> = units.iter().map(|u| u.status.name.as_str()).collect();
        assert_eq!(names, ["c.service", "d.service", "a.service", "b.service"]);
    }
}
