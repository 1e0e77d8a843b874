//! `systemd.status`: how units are.

use std::collections::BTreeSet;

use hostler_proto::{
    operation::SystemdStatus,
    ops::{SystemdStatus as Report, SystemdStatusRequest},
    wire::Failure,
};

use super::{
    bus::Bus,
    full_name,
    judgement::{judge, stands_for, sum_up, worst_first},
    serving::serving,
    unit::Unit,
};
use crate::operation::{Answer, Context, Probe};

/// States by which a unit that needs somebody is found.
const TROUBLE: [&str; 3] = ["failed", "auto-restart", "auto-restart-queued"];

impl Probe for SystemdStatus {
    async fn observe(
        request: SystemdStatusRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let bus = Bus::connect().await?;
        let now = cx.host.clock.now().as_microsecond();
        let named: BTreeSet<String> = request.unit.iter().map(|n| full_name(n)).collect();
        let mut answer = Answer::ok("", Report::default());
        let except: Vec<_> = request.except.iter().map(|n| full_name(n)).collect();
        let mut running = Vec::new();
        let mut units = match named.is_empty() {
            true => {
                let mut units = troubled(&bus, now, &request, &mut running).await?;
                units.retain(|unit| !except.contains(&unit.status.name));
                running.retain(|(name, _)| !except.contains(name));
                units
            }
            false => {
                let mut units = Vec::new();
                for name in &named {
                    units.push(bus.existing(name, now).await?);
                }
                for unit in units.clone().iter().filter(|u| u.dummy) {
                    let instances = instances(&bus, unit).await?;
                    answer = answer.finding(stands_for(unit, &instances));
                    for name in instances.iter().filter(|n| !named.contains(*n)) {
                        units.push(bus.unit(name, now).await?);
                    }
                }
                units
            }
        };
        let by_name = !named.is_empty();
        for unit in units.iter_mut().filter(|u| by_name && u.status.active_state == "inactive") {
            unit.triggered = waited_for(&bus, unit).await;
        }
        let well =
            |unit: &&Unit| unit.status.active_state == "active" && judge(unit, &request).is_none();
        let active = units.iter().filter(well);
        let active = active.map(|unit| (unit.status.name.clone(), unit.status.main_pid));
        let active: Vec<_> = active.chain(running).collect();
        let serving = serving(cx, &request, &active, &except).await;
        for finding in &serving.findings {
            if !units.iter().any(|unit| unit.status.name == finding.subject) {
                units.push(bus.unit(&finding.subject, now).await?);
            }
        }
        worst_first(&mut units, &request);
        // Two names of one unit are one unit.
        units.dedup_by(|a, b| a.status.name == b.status.name);
        let findings = units.iter().filter_map(|u| judge(u, &request));
        let findings: Vec<_> = findings.chain(serving.findings).collect();
        answer.summary = sum_up(&units, &findings);
        answer = findings.into_iter().fold(answer, Answer::finding);
        let listed = || format!("ListUnitsFiltered {} running", TROUBLE.join(" "));
        let mut asked = if named.is_empty() { vec![listed()] } else { Vec::new() };
        asked.extend(units.iter().map(|unit| format!("LoadUnit, GetAll {}", unit.object)));
        answer.data.units = units.into_iter().map(|unit| unit.status).collect();
        let asked = asked.into_iter().map(|what| format!("org.freedesktop.systemd1: {what}"));
        let answer = asked.fold(answer, |answer, what| answer.evidence("dbus", what));
        Ok(serving.asked.iter().fold(answer, |answer, (kind, what)| answer.evidence(kind, what)))
    }
}

/// Units that failed, wait to be restarted, or were restarted often of late. Of services with which nothing is
/// wrong `running` gets their main processes.
async fn troubled(
    bus: &Bus,
    now_us: i64,
    request: &SystemdStatusRequest,
    running: &mut Vec<(String, u32)>,
) -> Result<Vec<Unit>, Failure> {
    let mut units = Vec::new();
    for name in bus.in_state(&TROUBLE).await? {
        units.push(bus.unit(&name, now_us).await?);
    }
    for name in bus.in_state(&["running"]).await? {
        // A unit may be gone again since it was listed.
        let Some(pulse) = (match name.ends_with(".service") {
            true => bus.pulse(&name).await.ok(),
            false => None,
        }) else {
            continue;
        };
        if pulse.restarts >= request.restarts
            && let Ok(unit) = bus.unit(&name, now_us).await
            && judge(&unit, request).is_some()
        {
            units.push(unit);
        } else {
            running.push((name, pulse.pid));
        }
    }
    Ok(units)
}

/// Whether a timer, socket or path that starts a unit is active.
async fn waited_for(bus: &Bus, unit: &Unit) -> bool {
    for trigger in &unit.triggered_by {
        if bus.pulse(trigger).await.is_ok_and(|p| p.active == "active") {
            return true;
        }
    }
    false
}

/// The loaded instances of the template that has the same name as a unit: those of
/// `postgresql.service` are `postgresql@15-main.service` and the like.
pub(super) async fn instances(bus: &Bus, unit: &Unit) -> Result<Vec<String>, Failure> {
    match unit.status.name.rsplit_once('.') {
        Some((stem, kind)) => bus.like(&format!("{stem}@*.{kind}")).await,
        None => Ok(Vec::new()),
    }
}
