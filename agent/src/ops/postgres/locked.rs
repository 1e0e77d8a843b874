//! Tables that cannot be looked at now: whoever asks for the size of one that is locked exclusively, or
//! for which such a lock is waited, waits as well. They are left out and told.

use hostler_proto::wire::{Finding, Status};

use crate::host::postgres::{Session, Trouble, integer, text};

/// The tables whose own lock, or that of an index or of their TOAST, would be waited for.
const LOCKED: &str = "WITH locked AS (SELECT relation FROM pg_catalog.pg_locks \
    WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' \
    AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND database = \
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())), \
    held AS (SELECT relation FROM locked \
    UNION SELECT i.indrelid FROM pg_catalog.pg_index i JOIN locked ON relation = i.indexrelid), \
    tables AS (SELECT relation FROM held UNION SELECT c.oid FROM pg_catalog.pg_class c \
    JOIN held ON relation = c.reltoastrelid) \
    SELECT c.oid::int8 AS oid, n.nspname || '.' || c.relname AS name FROM tables \
    JOIN pg_catalog.pg_class c ON c.oid = relation \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'm') ORDER BY name";
/// Names that are told.
const SHOWN: usize = 3;

/// Tables that are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Locked {
    oids: Vec<i64>,
    names: Vec<String>,
}

impl Locked {
    /// Those of this moment.
    pub(super) async fn look(session: &mut Session) -> Result<Self, Trouble> {
        let rows = session.rows(LOCKED).await?;
        Ok(Self {
            oids: rows.iter().map(|row| integer(row, "oid")).collect(),
            names: rows.iter().map(|row| text(row, "name")).collect(),
        })
    }

    /// A condition by which a statement leaves them out, with its own name for a table's oid. Nothing
    /// else than numbers is put into it.
    pub(super) fn others(&self, table: &str) -> String {
        match self.oids.as_slice() {
            [] => "true".to_owned(),
            oids => {
                let oids: Vec<String> = oids.iter().map(ToString::to_string).collect();
                format!("{table} NOT IN ({})", oids.join(", "))
            }
        }
    }

    /// What is said of them.
    pub(super) fn finding(&self, server: &str) -> Option<Finding> {
        let shown = self.names[..self.names.len().min(SHOWN)].join(", ");
        let more = match self.names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let summary = format!("locked and not looked at: {shown}{more}");
        let finding = Finding::new(Status::Unknown, "locks", summary)
            .why("somebody has, or waits for, an exclusive lock on them; the rest is told")
            .next(format!("postgres locks {server}"));
        (!self.names.is_empty()).then_some(finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_is_left_out_and_told() {
        let none = Locked::default();
        assert_eq!((none.others("c.oid").as_str(), none.finding("main")), ("true", None));
        let names = (1..=5).map(|n| format!("public.t{n}")).collect();
        let locked = Locked { oids: vec![7, 8], names };
        assert_eq!(locked.others("c.oid"), "c.oid NOT IN (7, 8)");
        let finding = locked.finding("main").expect("a finding");
        assert_eq!(finding.status(), Status::Unknown);
        let said = "locked and not looked at: public.t1, public.t2, public.t3 and 2 more";
        assert_eq!(finding.summary, said);
    }
}
