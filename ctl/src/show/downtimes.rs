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
        let state = match () {
            () if d.begins_us > now_us => "begins later",
            () if d.lasts_s > 0 => "waits for a problem",
            () => "now",
        };
        vec![
            Cell::text(&d.id),
            Cell::text(&d.on),
            Cell::text(&d.checks),
            Cell::text(value::moment(d.begins_us)),
            Cell::text(value::moment(d.ends_us)),
            Cell::text(state),
            Cell::text(&d.made_by),
            Cell::text(&d.comment),
        ]
    };
    let rows: Vec<_> = downtimes.iter().map(row).collect();
    grid(&["ID", "HOSTS", "CHECKS", "FROM", "UNTIL", "STATE", "BY", "COMMENT"], &rows, traits)
}
