//! What was counted: kinds of messages and hours, in bounded memory.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Kinds that are told apart.
pub const KINDS: usize = 10_000;
/// Hours that are counted.
const HOURS: usize = 24 * 366;

/// A time on this host's wall clock, to the second: `2026-11-26 06:12:01`.
pub type Moment = [u8; 19];
/// An hour: the beginning of a moment.
pub type Hour = [u8; 13];

/// One kind of message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kind {
    /// How many there were.
    pub count: u64,
    /// The earliest, of those that have a time.
    pub first: Option<Moment>,
    /// The latest of them.
    pub last: Option<Moment>,
    /// Number of a file that has it.
    pub file: usize,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// Kinds of messages, by their templates.
    pub kinds: HashMap<Vec<u8>, Kind, RandomState>,
    /// Errors of each hour.
    pub hours: HashMap<Hour, u64, RandomState>,
    /// All errors.
    pub errors: u64,
    /// Those of kinds beyond [`KINDS`].
    pub others: u64,
    /// Lines, errors or not.
    pub lines: u64,
    /// Errors of which nobody can tell when they were.
    pub timeless: u64,
}

impl Counted {
    /// One message.
    pub fn add(&mut self, template: &[u8], at: Option<Moment>, file: usize) {
        self.errors += 1;
        self.timeless += u64::from(at.is_none());
        if let Some(hour) = at.as_ref().and_then(|at| at.first_chunk()) {
            let room = self.hours.len() < HOURS;
            match self.hours.get_mut(hour) {
                Some(count) => *count += 1,
                None if room => drop(self.hours.insert(*hour, 1)),
                None => {}
            }
        }
        self.merge(template, &Kind { count: 1, first: at, last: at, file });
    }

    fn merge(&mut self, template: &[u8], other: &Kind) {
        let room = self.kinds.len() < KINDS;
        match self.kinds.get_mut(template) {
            Some(kind) => {
                kind.count += other.count;
                // None is before every time.
                kind.first = match (kind.first, other.first) {
                    (Some(one), Some(two)) => Some(one.min(two)),
                    (one, two) => one.or(two),
                };
                kind.last = kind.last.max(other.last);
                kind.file = kind.file.min(other.file);
            }
            None if room => {
                self.kinds.insert(template.to_vec(), other.clone());
            }
            None => self.others += other.count,
        }
    }

    /// What another counter has.
    pub fn take(&mut self, other: Self) {
        self.errors += other.errors;
        self.others += other.others;
        self.lines += other.lines;
        self.timeless += other.timeless;
        for (hour, count) in other.hours {
            *self.hours.entry(hour).or_default() += count;
        }
        for (template, kind) in other.kinds {
            self.merge(&template, &kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_the_first_and_the_last_of_its_times_whoever_counted_them() {
        let (early, late) = (*b"2026-11-26 06:00:00", *b"2026-11-26 07:30:00");
        let mut one = Counted::default();
        one.add(b"lost", Some(late), 3);
        let mut two = Counted::default();
        two.add(b"lost", None, 2);
        two.add(b"lost", Some(early), 2);
        one.take(two);
        let kind = Kind { count: 3, first: Some(early), last: Some(late), file: 2 };
        assert_eq!((one.errors, &one.kinds[&b"lost"[..]]), (3, &kind));
        assert_eq!(one.hours.values().sum::<u64>(), 2);
    }
}
