//! Times in which problems are expected.

use hostler_proto::wire::DowntimeRecord;

use super::{
    grid::{Cell, grid},
    value,
};
use crate::screen::Traits;

/// Downtimes.
pub fn downtimes(downtimes: &[DowntimeRecord], now_us: i64, traits: Traits) -> String {
    let row = |d: &DowntimeRecord| {
        vec![
            Cell::text(&d.id),
            Cell::text(&d.on),
            Cell::text(&d.checks),
            Cell::text(value::moment(d.begins_us)),
            Cell::text(value::moment(d.ends_us)),
            Cell::text(state(d, now_us)),
            Cell::text(&d.made_by),
            Cell::text(&d.comment),
        ]
    };
    let rows: Vec<_> = downtimes.iter().map(row).collect();
    grid(&["ID", "HOSTS", "CHECKS", "FROM", "UNTIL", "STATE", "BY", "COMMENT"], &rows, traits)
}

fn state(downtime: &DowntimeRecord, now_us: i64) -> String {
    let hosts = |many: u32| if many == 1 { "1 host".to_owned() } else { format!("{many} hosts") };
    let until = || value::moment(downtime.running_until_us);
    match (downtime.running, downtime.waiting) {
        _ if downtime.begins_us > now_us => "begins later".to_owned(),
        _ if downtime.lasts_s == 0 => "now".to_owned(),
        (0, _) => "waits for a problem".to_owned(),
        (1, 0) => format!("now until {}", until()),
        (running, 0) => format!("now until {} on {}", until(), hosts(running)),
        (running, waiting) => {
            let (on, others) = (hosts(running), hosts(waiting));
            format!("now until {} on {on}; waits for a problem on {others}", until())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flexible_downtime_says_where_it_began_and_where_it_waits() {
        let of = |running, waiting| {
            let running_until_us = 1_700_000_000_000_000;
            let record = DowntimeRecord {
                lasts_s: 60,
                running,
                waiting,
                running_until_us,
                ..Default::default()
            };
            state(&record, 1)
        };
        assert_eq!(of(0, 3), "waits for a problem");
        assert_eq!(of(1, 0), "now until 2023-11-14 22:13:20Z");
        assert_eq!(
            of(2, 1),
            "now until 2023-11-14 22:13:20Z on 2 hosts; waits for a problem on 1 host"
        );
        assert_eq!(state(&DowntimeRecord::default(), 1), "now");
        assert_eq!(
            state(&DowntimeRecord { begins_us: 2, ..Default::default() }, 1),
            "begins later"
        );
    }
}
