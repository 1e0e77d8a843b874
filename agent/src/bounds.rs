//! From where on what was measured is a warning and critical, and who says so: whoever gave the parameter,
//! or where its default comes from.

use hostler_proto::{
    args,
    catalogue::Catalogue,
    wire::{Finding, Status},
};

/// Who says so where nobody else uses the same.
const OURS: &str = "default";

/// A bound, and what says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// In the unit of what is measured.
    pub at: f64,
    /// The operation, its parameter, and what that says in its own unit.
    said: Option<(&'static str, &'static str, f64)>,
}

impl Bound {
    /// What a parameter of an operation says.
    pub fn of(operation: &'static str, parameter: &'static str, value: f64) -> Self {
        Self { at: value, said: Some((operation, parameter, value)) }
    }

    /// One that no parameter changes.
    pub fn fixed(at: f64) -> Self {
        Self { at, said: None }
    }

    /// One that follows from this one: a multiple, or the same in another unit.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { at: self.at * factor, ..self }
    }

    /// What a parameter says instead, where somebody gave it.
    #[must_use]
    pub fn unless(
        self,
        operation: &'static str,
        parameter: &'static str,
        given: Option<u32>,
    ) -> Self {
        given.map_or(self, |value| Self::of(operation, parameter, value.into()))
    }

    /// Whether somebody gave it. Whoever gives what is the default anyway says nothing else.
    fn given(self) -> bool {
        self.said.is_some_and(|(operation, parameter, value)| {
            let spec = Catalogue::bare().get(operation).ok();
            let default = spec.and_then(|spec| args::default_of(spec.parameter(parameter)?));
            default != Some(value)
        })
    }
}

/// The bounds of one measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    warning: Option<Bound>,
    critical: Option<Bound>,
    /// Who else uses the defaults; empty where nobody is known to.
    origin: &'static str,
}

impl Bounds {
    /// Where it is a warning, and where it is critical.
    pub fn new(warning: Bound, critical: Bound, origin: &'static str) -> Self {
        Self { warning: Some(warning), critical: Some(critical), origin }
    }

    /// Of what is never worse than a warning.
    pub fn warning(warning: Bound, origin: &'static str) -> Self {
        Self { warning: Some(warning), critical: None, origin }
    }

    /// Of what is critical at once.
    pub fn critical(critical: Bound, origin: &'static str) -> Self {
        Self { warning: None, critical: Some(critical), origin }
    }

    /// How bad a value is for which more is worse; both bounds are inclusive.
    pub fn above(&self, value: f64) -> Option<Status> {
        let reached = |bound: Option<Bound>| bound.is_some_and(|bound| value >= bound.at);
        match () {
            () if reached(self.critical) => Some(Status::Critical),
            () if reached(self.warning) => Some(Status::Warning),
            () => None,
        }
    }

    /// The same of a value for which less is worse; what reaches a bound is still well.
    pub fn below(&self, value: f64) -> Option<Status> {
        let under = |bound: Option<Bound>| bound.is_some_and(|bound| value < bound.at);
        match () {
            () if under(self.critical) => Some(Status::Critical),
            () if under(self.warning) => Some(Status::Warning),
            () => None,
        }
    }

    /// Adds what was measured, in a base unit, and these bounds.
    pub fn told(&self, mut finding: Finding, value: f64, unit: &str) -> Finding {
        finding = finding.measured(value, unit);
        finding.warning = self.warning.map(|bound| bound.at);
        finding.critical = self.critical.map(|bound| bound.at);
        finding.source = self.source();
        finding
    }

    fn source(&self) -> String {
        let origin = if self.origin.is_empty() { OURS } else { self.origin };
        let given = |bound: Option<Bound>| bound.map(Bound::given);
        match (given(self.warning), given(self.critical)) {
            (Some(true), Some(false)) => format!("parameter (warning), {origin} (critical)"),
            (Some(false), Some(true)) => format!("{origin} (warning), parameter (critical)"),
            (Some(true), _) | (_, Some(true)) => "parameter".to_owned(),
            _ => origin.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_said_to_come_from_a_parameter_only_where_it_is_not_the_default() {
        let of = |warning, critical, origin| {
            let warning = Bound::of("disk.usage", "warning-percent", warning);
            let critical = Bound::of("disk.usage", "critical-percent", critical);
            Bounds::new(warning, critical, origin).source()
        };
        assert_eq!(of(85.0, 95.0, ""), "default");
        assert_eq!(of(85.0, 95.0, "PgHero"), "PgHero");
        assert_eq!(of(70.0, 90.0, "PgHero"), "parameter");
        assert_eq!(of(70.0, 95.0, "PgHero"), "parameter (warning), PgHero (critical)");
        assert_eq!(of(85.0, 99.0, ""), "default (warning), parameter (critical)");
        assert_eq!(Bounds::critical(Bound::fixed(3.0), "").source(), "default");
    }

    #[test]
    fn what_follows_from_a_bound_comes_from_where_that_comes_from_unless_it_is_given_itself() {
        let of = |wait: u32, critical: Option<u32>| {
            let wait = Bound::of("postgres.locks", "wait-s", wait.into());
            let critical = wait.times(2.0).unless("postgres.locks", "critical-s", critical);
            (critical.at, Bounds::new(wait, critical, "check_postgres").source())
        };
        assert_eq!(of(60, None), (120.0, "check_postgres".into()));
        assert_eq!(of(30, None), (60.0, "parameter".into()));
        assert_eq!(
            of(60, Some(90)),
            (90.0, "check_postgres (warning), parameter (critical)".into())
        );
    }

    #[test]
    fn a_bound_that_is_reached_counts_and_the_worse_one_wins() {
        let bounds = Bounds::new(Bound::fixed(85.0), Bound::fixed(95.0), "");
        let judged = [84.9, 85.0, 95.0, f64::NAN].map(|value| bounds.above(value));
        assert_eq!(judged, [None, Some(Status::Warning), Some(Status::Critical), None]);
    }

    #[test]
    fn a_finding_has_the_bounds_that_there_are() {
        let warns = Bounds::warning(Bound::fixed(5.0), "");
        assert_eq!((warns.above(4.9), warns.above(500.0)), (None, Some(Status::Warning)));
        let finding = warns.told(Finding::default(), 6.0, "s");
        assert_eq!(
            (finding.value, finding.warning, finding.critical),
            (Some(6.0), Some(5.0), None)
        );
        assert_eq!(Bounds::critical(Bound::fixed(5.0), "").above(5.0), Some(Status::Critical));
        let left = Bounds::new(Bound::fixed(21.0), Bound::fixed(7.0), "");
        let judged = [21.0, 20.9, 6.9].map(|days| left.below(days));
        assert_eq!(judged, [None, Some(Status::Warning), Some(Status::Critical)]);
    }
}
