//! The tables, on results as agents send them.

use std::sync::Arc;

use hostler_proto::{
    catalogue::Catalogue,
    ops::{DiskUsage, FileSystem, HostFacts, SystemdChange, UnitStatus},
    wire::{ErrorCode, Failure, Finding, Outcome, PlanStep, Status},
};
use prost::{Message, Name};

use super::*;
use crate::show::report::End;

fn spec(name: &str) -> Arc<OperationSpec> {
    Arc::clone(Catalogue::embedded().get(name).expect(name))
}

fn outcome<M: Message + Name>(status: Status, summary: &str, data: &M) -> Outcome {
    Outcome {
        status: status.into(),
        summary: summary.into(),
        r#type: M::full_name(),
        data: data.encode_to_vec(),
        ..Outcome::default()
    }
}

fn report(host: &str, outcome: Outcome) -> Report {
    Report { end: End::Outcome(outcome), ..Report::begun(host) }
}

fn failed(host: &str, code: ErrorCode, message: &str) -> Report {
    Report { end: End::Failure(Failure::new(code, message)), ..Report::begun(host) }
}

fn usage(percent: f64) -> DiskUsage {
    let filesystem = |mount: &str, used_percent: f64| FileSystem {
        mount: mount.into(),
        device: "/dev/vda1".into(),
        r#type: "ext4".into(),
        size_bytes: 100 << 30,
        used_bytes: 30 << 30,
        available_bytes: 65 << 30,
        used_percent,
        ..FileSystem::default()
    };
    DiskUsage { filesystems: vec![filesystem("/", 31.6), filesystem("/srv", percent)] }
}

fn shown(mut all: Vec<Report>, operation: &str, form: Form) -> String {
    all.sort_by(|a, b| a.rank().cmp(&b.rank()));
    reports(&all, &spec(operation), form, Traits::default())
}

#[test]
fn one_host_is_shown_with_its_fields_and_findings() {
    let mut outcome = outcome(Status::Critical, "/srv is 97 % full", &usage(97.2));
    outcome.findings.push(Finding {
        status: Status::Critical.into(),
        subject: "/srv".into(),
        summary: "97.2 % of the space is in use".into(),
        why: "writes fail when nothing is left".into(),
        next: "disk tree /srv --on web-1".into(),
        ..Finding::default()
    });
    insta::assert_snapshot!(shown(vec![report("web-1", outcome)], "disk.usage", Form::Table));
}

#[test]
fn fields_without_a_value_are_left_out_for_people_and_kept_when_all_is_wanted() {
    let facts = HostFacts {
        hostname: "web-1".into(),
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        uptime_s: 273_700,
        memory_bytes: 16 << 30,
        cpus: 8,
        ..HostFacts::default()
    };
    let all = vec![report("web-1", outcome(Status::Unspecified, "Debian 12, 8 cpus", &facts))];
    let table = shown(all.clone(), "host.facts", Form::Table);
    assert!(!table.contains("virtualisation"));
    assert!(shown(all, "host.facts", Form::Wide).contains("virtualisation"));
    insta::assert_snapshot!(table);
}

#[test]
fn failures_come_first_and_rows_of_many_hosts_name_theirs() {
    let all = vec![
        report("db-1", outcome(Status::Ok, "2 file systems", &usage(40.0))),
        report("web-1", outcome(Status::Warning, "/srv is 88 % full", &usage(88.0))),
        failed("web-2", ErrorCode::Unreachable, "web-2 is not connected"),
        failed("web-3", ErrorCode::HostFault, "statvfs /srv: \x1b[31minput/output error"),
    ];
    insta::assert_snapshot!(shown(all, "disk.usage", Form::Table));
}

#[test]
fn more_than_eight_hosts_that_say_the_same_are_one_line() {
    let facts = HostFacts::default();
    let mut all: Vec<_> = (1..=38)
        .map(|n| report(&format!("web-{n}"), outcome(Status::Ok, "all well", &facts)))
        .collect();
    all.push(failed("db-1", ErrorCode::Timeout, "no answer within 10 s"));
    insta::assert_snapshot!(shown(all, "host.facts", Form::Table));
}

#[test]
fn a_plan_that_is_the_same_everywhere_is_shown_once() {
    let step = |summary: &str, undo: &str| PlanStep { summary: summary.into(), undo: undo.into() };
    let steps = vec![step("stop nginx.service", "start it"), step("remove /srv/old", "")];
    let mut all = Vec::new();
    for host in ["web-1", "web-2"] {
        let outcome = outcome(Status::Unspecified, "would restart", &SystemdChange::default());
        all.push(Report { steps: steps.clone(), ..report(host, outcome) });
    }
    insta::assert_snapshot!(shown(all, "systemd.restart", Form::Table));
}

#[test]
fn parts_of_a_result_are_shown_with_their_name_before_them() {
    let unit = |state: &str| UnitStatus {
        name: "nginx.service".into(),
        active_state: state.into(),
        ..UnitStatus::default()
    };
    let change = SystemdChange {
        before: Some(unit("failed")),
        after: Some(unit("active")),
        job: "done".into(),
        took_s: 1.25,
    };
    let all = vec![report("web-1", outcome(Status::Ok, "nginx.service is active", &change))];
    insta::assert_snapshot!(shown(all, "systemd.restart", Form::Table));
}

#[test]
fn a_result_that_this_build_does_not_know_is_shown_by_its_summary() {
    let outcome = Outcome {
        status: Status::Ok.into(),
        summary: "3 moons".into(),
        r#type: "hostler.ops.v9.Moons".into(),
        data: vec![0xff, 0xff],
        ..Outcome::default()
    };
    insta::assert_snapshot!(shown(vec![report("web-1", outcome)], "host.facts", Form::Table));
}
