//! Audit records as a table.

use hostler_proto::wire::AuditRecord;

use super::{
    grid::{Cell, grid},
    value,
};
use crate::screen::Traits;

/// The records, in the order given.
pub fn records(records: &[AuditRecord], wide: bool, traits: Traits) -> String {
    let mut headers =
        vec!["SEQ", "TIME", "KIND", "WHO", "OPERATION", "SUBJECT", "OUTCOME", "INVOCATION"];
    if wide {
        headers.extend(["ROLE", "DETAIL", "HASH"]);
    }
    let row = |r: &AuditRecord| {
        let mut row = vec![
            Cell::number(r.seq.to_string()),
            Cell::text(value::moment(r.time_us)),
            Cell::text(&r.kind),
            Cell::text(&r.principal),
            Cell::text(&r.operation),
            Cell::text(&r.subject),
            Cell::word(&r.outcome),
            Cell::text(&r.invocation),
        ];
        if wide {
            row.extend([Cell::text(&r.role), Cell::text(&r.detail), Cell::text(&r.hash)]);
        }
        row
    };
    grid(&headers, &records.iter().map(row).collect::<Vec<_>>(), traits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_tells_who_did_what_where_and_how_it_ended() {
        let record = AuditRecord {
            seq: 7,
            time_us: 1_774_742_400_000_000,
            kind: "outcome".into(),
            principal: "spiffe://prod/operator/alice".into(),
            operation: "systemd.restart".into(),
            subject: "web-1".into(),
            outcome: "failed".into(),
            ..AuditRecord::default()
        };
        insta::assert_snapshot!(records(&[record], false, Traits::default()));
    }
}
