//! How a server's replication is: part of `postgres.ping`.

use hostler_proto::{
    operation::{Operation, PostgresPing},
    ops::{PgSlot, PgStandby, PostgresPing as Report, PostgresPingRequest},
    wire::{Finding, Status},
};

use crate::{
    amount::span,
    bounds::{Bound, Bounds},
    host::postgres::{Session, Trouble, count, counted, flag, number, text},
};

const NAME: &str = <PostgresPing as Operation>::NAME;
/// A standby that has replayed all that it received is not behind, however long ago that was: its
/// primary may be idle. Of one whose receiver does not run nobody can say that.
const STANDBY: &str = "SELECT r.receives, CASE WHEN \
    pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'usage') \
    THEN coalesce(current_setting('primary_conninfo', true), '') = '' ELSE true END AS archive, \
    pg_catalog.pg_is_wal_replay_paused() AS paused, \
    CASE WHEN r.receives AND pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn() \
    THEN 0 ELSE extract(epoch FROM clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) \
    END::float8 AS lag \
    FROM (SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receives) r";
const STANDBYS: &str = "SELECT coalesce(application_name, '') AS name, \
    coalesce(host(client_addr), '') AS client, coalesce(state, '') AS state, \
    extract(epoch FROM replay_lag)::float8 AS lag, state IS NOT NULL AS seen, \
    CASE WHEN replay_lsn IS NOT NULL THEN \
    greatest(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn), 0) END::int8 AS behind \
    FROM pg_catalog.pg_stat_replication WHERE coalesce(state, '') <> 'backup' ORDER BY name, client";
const SLOTS: &str = "SELECT slot_name::text AS name, active, coalesce(wal_status, '') AS status, \
    greatest(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::int8 AS held \
    FROM pg_catalog.pg_replication_slots ORDER BY slot_name";

/// Fills in what the server says of its replication; tells whether all of it was seen.
pub(super) async fn look(session: &mut Session, report: &mut Report) -> Result<bool, Trouble> {
    if report.in_recovery {
        let row = session.row(STANDBY).await?;
        report.lag_s = number(&row, "lag");
        report.paused = flag(&row, "paused");
        let source = match (flag(&row, "receives"), flag(&row, "archive")) {
            (true, _) => "streaming",
            // Without pg_monitor the setting is hidden, and counts as empty.
            (false, true) => "archive",
            (false, false) => "stopped",
        };
        report.source = source.to_owned();
        return Ok(session.sees_all || source != "archive");
    }
    let standbys = session.rows(STANDBYS).await?;
    let slots = session.rows(SLOTS).await?;
    let seen = standbys.iter().all(|row| flag(row, "seen"));
    report.standbys = standbys
        .iter()
        .filter(|row| flag(row, "seen"))
        .map(|row| PgStandby {
            name: text(row, "name"),
            client: text(row, "client"),
            state: text(row, "state"),
            lag_s: number(row, "lag"),
            behind_bytes: counted(row, "behind"),
        })
        .collect();
    report.slots = slots
        .iter()
        .map(|row| PgSlot {
            name: text(row, "name"),
            active: flag(row, "active"),
            held_bytes: count(row, "held"),
            wal_status: text(row, "status"),
        })
        .collect();
    Ok(seen)
}

/// What is wrong with it.
pub(super) fn judge(
    name: &str,
    log: &str,
    report: &Report,
    request: &PostgresPingRequest,
) -> Vec<Finding> {
    let warning = Bound::of(NAME, "lag-s", request.lag_s.into());
    let critical = warning.times(10.0).unless(NAME, "lag-critical-s", request.lag_critical_s);
    let bounds = Bounds::new(warning, critical, "");
    #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
    let bound = |parameter, bytes: u64| Bound::of(NAME, parameter, bytes as f64);
    let held = Bounds::new(
        bound("slot-warning-bytes", request.slot_warning_bytes),
        bound("slot-critical-bytes", request.slot_critical_bytes),
        "",
    );
    match report.in_recovery {
        true => standby(name, log, report, &bounds),
        false => {
            let standbys = report.standbys.iter().filter_map(|standby| late(standby, &bounds));
            standbys.chain(report.slots.iter().filter_map(|slot| kept(name, slot, &held))).collect()
        }
    }
}

fn standby(name: &str, log: &str, report: &Report, bounds: &Bounds) -> Vec<Finding> {
    let mut findings = Vec::new();
    let behind = report
        .lag_s
        .map_or(String::new(), |lag| format!("; its last transaction is {} old", span(lag)));
    if report.source == "stopped" {
        let summary = format!("standby \"{name}\" receives nothing from its primary{behind}");
        let why = "its receiver does not run: the primary is away, does not let it in, or no longer \
                   has the WAL that it needs; its log says which";
        findings.push(Finding::new(Status::Critical, "replication", summary).why(why).next(log));
    }
    if report.paused {
        let summary = format!("the replay of standby \"{name}\" is paused{behind}");
        let why = "somebody paused it, or a setting of the primary is beyond the standby's; \
                   SELECT pg_wal_replay_resume() lets it go on";
        findings.push(Finding::new(Status::Warning, "replication", summary).why(why).next(log));
    }
    // What comes from an archive comes in whole files: its age says how busy the primary is, too.
    let lag = report.lag_s.filter(|_| report.source == "streaming");
    if let Some(lag) = lag
        && let Some(status) = bounds.above(lag)
    {
        let summary = format!("standby \"{name}\" is {} behind its primary", span(lag));
        let finding = Finding::new(status, "lag", summary)
            .why("who reads there sees the past, and so would who fails over to it")
            .next(format!("postgres activity {name}"));
        findings.push(bounds.told(finding, lag, "s"));
    }
    findings
}

fn late(standby: &PgStandby, bounds: &Bounds) -> Option<Finding> {
    let lag = standby.lag_s?;
    let status = bounds.above(lag)?;
    let at = if standby.client.is_empty() { "this host" } else { &standby.client };
    let name = &standby.name;
    let bytes = standby.behind_bytes.map_or(String::new(), |n| format!(" ({} MiB)", n >> 20));
    let summary = format!("standby {name} at {at} is {}{bytes} behind", span(lag));
    let finding = Finding::new(status, name, summary)
        .why("a failover would lose that much, or wait for it")
        .next("host network-io");
    Some(bounds.told(finding, lag, "s"))
}

fn kept(server: &str, slot: &PgSlot, bounds: &Bounds) -> Option<Finding> {
    let (name, mib) = (&slot.name, slot.held_bytes >> 20);
    let finding = |status, summary: String, why: &str| {
        Finding::new(status, name, summary).why(why).next(format!("postgres ping {server}"))
    };
    #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
    let held = slot.held_bytes as f64;
    match slot.wal_status.as_str() {
        "lost" => Some(finding(
            Status::Critical,
            format!("replication slot {name} has lost WAL that it needs"),
            "its standby or subscriber cannot go on and has to be made anew",
        )),
        "unreserved" => Some(finding(
            Status::Warning,
            format!("replication slot {name} is about to lose WAL that it needs"),
            "it is beyond max_slot_wal_keep_size; the next checkpoint removes it",
        )),
        _ if slot.active => None,
        _ => bounds.above(held).map(|status| {
            let finding = finding(
                status,
                format!("replication slot {name} keeps {mib} MiB of WAL, and nobody reads it"),
                "it fills the disk until its reader is back or SELECT pg_drop_replication_slot says that \
                 it is gone",
            );
            bounds.told(finding, held, "bytes")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    fn replica(source: &str, lag: Option<f64>) -> Report {
        let source = source.to_owned();
        Report { in_recovery: true, source, lag_s: lag, ..Report::default() }
    }

    fn request() -> PostgresPingRequest {
        completed::<PostgresPing>(&Default::default()).expect("defaults")
    }

    fn worst(report: &Report) -> Option<Status> {
        judge("main", "", report, &request()).iter().map(Finding::status).max()
    }

    #[test]
    fn a_standby_that_is_behind_or_receives_nothing_is_told() {
        assert_eq!(worst(&replica("streaming", Some(3.0))), None);
        assert_eq!(worst(&replica("streaming", Some(70.0))), Some(Status::Warning));
        assert_eq!(worst(&replica("streaming", Some(600.0))), Some(Status::Critical));
        assert_eq!(worst(&replica("stopped", Some(3.0))), Some(Status::Critical));
        assert_eq!(worst(&replica("archive", Some(900.0))), None, "it gets whole files");
        let paused = Report { paused: true, ..replica("streaming", Some(0.0)) };
        assert_eq!(worst(&paused), Some(Status::Warning));
    }

    #[test]
    fn a_primary_tells_of_late_standbys_and_of_slots_that_nobody_reads() {
        let of = |active, held_bytes, status: &str| {
            let wal_status = status.to_owned();
            let slot = PgSlot { name: "s1".into(), active, held_bytes, wal_status };
            worst(&Report { slots: vec![slot], ..Report::default() })
        };
        assert_eq!(of(true, 5 << 30, "extended"), None);
        assert_eq!(of(false, 1 << 20, "reserved"), None);
        assert_eq!(of(false, 5 << 30, "extended"), Some(Status::Warning));
        assert_eq!(of(false, 50 << 30, "extended"), Some(Status::Critical));
        assert_eq!(of(false, 0, "lost"), Some(Status::Critical));
        for (behind_bytes, said) in [(Some(3 << 20), " (3 MiB)"), (None, "")] {
            let lag_s = Some(90.0);
            let standby = PgStandby { name: "b".into(), lag_s, behind_bytes, ..Default::default() };
            let late = Report { standbys: vec![standby], ..Report::default() };
            assert_eq!(worst(&late), Some(Status::Warning));
            let summary = format!("standby b at this host is 90 s{said} behind");
            assert_eq!(judge("main", "", &late, &request())[0].summary, summary);
        }
    }
}
