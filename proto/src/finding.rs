//! Findings and figures: how they are put together.

use crate::wire::{Figure, Finding, Status};

impl Finding {
    /// Something that deserves attention: how badly, what it is about, one sentence.
    pub fn new(status: Status, subject: impl Into<String>, summary: impl Into<String>) -> Self {
        let (subject, summary) = (subject.into(), summary.into());
        Self { status: status.into(), subject, summary, ..Self::default() }
    }

    /// Adds why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds the operation to use next, as one would type it after `hostlerctl`.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Adds what was measured, in a base unit.
    #[must_use]
    pub fn measured(mut self, value: f64, unit: &str) -> Self {
        self.value = Some(value);
        self.unit = unit.to_owned();
        self
    }

    /// Adds from where on it is a warning and critical, and who says so.
    #[must_use]
    pub fn bounds(mut self, warning: f64, critical: f64, source: &str) -> Self {
        self.warning = Some(warning);
        self.critical = Some(critical);
        self.source = source.to_owned();
        self
    }
}

impl Figure {
    /// The figure with the value at which it ends.
    #[must_use]
    pub fn limited(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// How bad a value is for which more is worse; both bounds are inclusive.
pub fn above(value: f64, warning: f64, critical: f64) -> Option<Status> {
    match value {
        v if v >= critical => Some(Status::Critical),
        v if v >= warning => Some(Status::Warning),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_reached_counts_and_the_worse_one_wins() {
        assert_eq!(above(84.9, 85.0, 95.0), None);
        assert_eq!(above(85.0, 85.0, 95.0), Some(Status::Warning));
        assert_eq!(above(95.0, 85.0, 95.0), Some(Status::Critical));
        assert_eq!(above(f64::NAN, 85.0, 95.0), None);
    }
}
