//! The chain: each record's hash covers everything in it and the hash of the one before.

use sha2::{Digest, Sha256};

/// One record of the audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its place, from 1 without a gap.
    pub seq: u64,
    /// When it was written, microseconds since 1970.
    pub time_us: i64,
    /// "intent", "outcome", "denied", "change", "recovered", "reconciled".
    pub kind: String,
    /// Who: "operator/alice".
    pub principal: String,
    /// The role that was used.
    pub role: String,
    /// The request that it belongs to.
    pub invocation: String,
    /// What was asked for.
    pub operation: String,
    /// Of whom: a host, an operator, a token.
    pub subject: String,
    /// How it came out; empty for an intent.
    pub outcome: String,
    /// More, as a JSON object.
    pub detail: String,
    /// SHA-256 over the hash before and all of the above, hexadecimal.
    pub hash: String,
}

/// The hash that a record must have after another. Every field goes in with its length, so that
/// nothing can move from one field into its neighbour.
pub(super) fn hash(before: &str, record: &Record) -> String {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    field(before.as_bytes());
    field(&record.seq.to_be_bytes());
    field(&record.time_us.to_be_bytes());
    for text in [
        &record.kind,
        &record.principal,
        &record.role,
        &record.invocation,
        &record.operation,
        &record.subject,
        &record.outcome,
        &record.detail,
    ] {
        field(text.as_bytes());
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

/// How far a walk along the chain has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Records that fit.
    pub records: u64,
    /// Hash of the last of them.
    pub head: String,
}

impl Walk {
    /// Goes on by one record.
    ///
    /// # Errors
    /// Says why it does not fit.
    pub fn step(&mut self, record: &Record) -> Result<(), String> {
        let expected = self.records + 1;
        if record.seq != expected {
            return Err(format!("record {expected} is missing: {} follows", record.seq));
        }
        if hash(&self.head, record) != record.hash {
            return Err(format!(
                "record {expected} was changed, or does not follow the one before"
            ));
        }
        self.records = expected;
        self.head.clone_from(&record.hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(length: u64) -> Vec<Record> {
        let mut before = String::new();
        (1..=length)
            .map(|seq| {
                let mut record = Record {
                    seq,
                    time_us: i64::try_from(seq).expect("small") * 7,
                    kind: "intent".into(),
                    subject: format!("web-{seq}"),
                    ..Record::default()
                };
                record.hash = hash(&before, &record);
                before.clone_from(&record.hash);
                record
            })
            .collect()
    }

    fn walk(records: &[Record]) -> Result<Walk, String> {
        let mut walk = Walk::default();
        records.iter().try_for_each(|r| walk.step(r)).map(|()| walk)
    }

    #[test]
    fn an_untouched_chain_is_walked_to_its_end() {
        let records = chain(20);
        let walked = walk(&records).expect("intact");
        assert_eq!((walked.records, walked.head), (20, records[19].hash.clone()));
    }

    #[test]
    fn text_that_moves_between_fields_is_seen() {
        let mut records = chain(1);
        (records[0].operation, records[0].subject) = ("web".into(), "-1".into());
        assert!(walk(&records).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_changed_removed_or_swapped_breaks_the_chain(at in 0_usize..19, how in 0..4) {
            let mut records = chain(20);
            match how {
                0 => records[at].subject.push('x'),
                1 => records[at].time_us += 1,
                2 => drop(records.remove(at)),
                _ => records.swap(at, at + 1),
            }
            prop_assert!(walk(&records).is_err());
        }
    }
}
