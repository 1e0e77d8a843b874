//! Checks of hosts, as a monitoring system sees them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use hostler_proto::{name::HostName, wire::Status};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    health::{
        Host,
        problems::{severity, word},
    },
    store::{Connection, HostRow},
};

/// Problems and figures that are told: a fleet of ten thousand hosts would be too much for a scrape.
const PROBLEMS: usize = 1_000;
const FIGURES: usize = 10_000;
/// A check that has no state yet.
const PENDING: &str = "pending";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChecksOf {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemOf {
    host: String,
    check: String,
}

/// A label whose value comes from a host: what the text form quotes with is written as it asks, since
/// the library writes values as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Foreign(String);

impl EncodeLabelValue for Foreign {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        for character in self.0.chars() {
            match character {
                '\\' => encoder.write_str("\\\\")?,
                '"' => encoder.write_str("\\\"")?,
                '\n' => encoder.write_str("\\n")?,
                other => encoder.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FigureOf {
    host: String,
    check: String,
    figure: Foreign,
    subject: Foreign,
    unit: Foreign,
}

/// Registers how checks of hosts that are there stand, those that are not well one by one, and the
/// figures of as many as fit.
pub(super) fn register(
    hosts: &HashMap<HostName, Host>,
    all: &[Arc<HostRow>],
    now_us: i64,
    registry: &mut Registry,
) {
    let checks = Family::<ChecksOf, Gauge>::default();
    let problems = Family::<ProblemOf, Gauge>::default();
    let figures = Family::<FigureOf, Gauge<f64, AtomicU64>>::default();
    let limits = Family::<FigureOf, Gauge<f64, AtomicU64>>::default();
    let omitted = Gauge::<i64>::default();
    registry.register(
        "checks",
        "Checks by their hard state; pending is one that has none yet",
        checks.clone(),
    );
    let text = "Checks that are not well: 1 warning, 2 unknown, 3 critical; a thousand at most";
    registry.register("check_problem", text, problems.clone());
    let text = "Last figures of checks; ten thousand at most";
    registry.register("check_figure", text, figures.clone());
    let text = "Where those of these figures end that have an end";
    registry.register("check_figure_limit", text, limits.clone());
    let text = "Figures and problems that were left out";
    registry.register("check_figures_omitted", text, omitted.clone());
    let statuses = [Status::Ok, Status::Warning, Status::Unknown, Status::Critical];
    for status in statuses.map(word).into_iter().chain([PENDING]) {
        checks.get_or_create(&ChecksOf { status }).set(0);
    }
    let (mut told, mut shown) = (0, 0);
    // How those of the others stand nobody knows.
    let up = all.iter().filter(|host| host.connection == Connection::Up).map(|host| &host.name);
    for (host, health) in up.filter_map(|name| hosts.get_key_value(name)) {
        for (name, standing) in health.checks.iter() {
            let status = standing.shown(now_us);
            let shown_as = if standing.pending() { PENDING } else { word(status) };
            checks.get_or_create(&ChecksOf { status: shown_as }).inc();
            if severity(status) > 0 {
                told += 1;
                if told <= PROBLEMS {
                    let of = ProblemOf { host: host.to_string(), check: name.to_owned() };
                    problems.get_or_create(&of).set(severity(status).into());
                }
            }
            let room = FIGURES.saturating_sub(shown);
            shown += usize::from(standing.figures());
            if room == 0 {
                continue;
            }
            for figure in standing.state().figures.into_iter().take(room) {
                let of = FigureOf {
                    host: host.to_string(),
                    check: name.to_owned(),
                    figure: Foreign(figure.name),
                    subject: Foreign(figure.subject),
                    unit: Foreign(figure.unit),
                };
                if let Some(limit) = figure.limit {
                    limits.get_or_create(&of).set(limit);
                }
                figures.get_or_create(&of).set(figure.value);
            }
        }
    }
    let left = told.saturating_sub(PROBLEMS) + shown.saturating_sub(FIGURES);
    omitted.set(i64::try_from(left).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::{CheckState, Figure};
    use prometheus_client::encoding::text::encode_registry;

    use super::*;
    use crate::health::Standing;

    const NOW: i64 = 1_000_000_000_000;

    fn scraped(hosts: &HashMap<HostName, Host>) -> String {
        let row = |name: &HostName| {
            let connection = Connection::Up;
            Arc::new(HostRow { name: name.clone(), connection, ..HostRow::nobody() })
        };
        let all: Vec<_> = hosts.keys().map(row).collect();
        let mut registry = Registry::default();
        register(hosts, &all, NOW, &mut registry);
        let mut text = String::new();
        encode_registry(&mut text, &registry).expect("encoded");
        text
    }

    /// Hosts with so many checks, each with so many figures.
    fn fleet(hosts: usize, checks: usize, figures: usize, hard: Status) -> HashMap<HostName, Host> {
        let figure = |n: usize| Figure { name: format!("f{n}"), ..Figure::default() };
        let state = |check: &str| CheckState {
            check: check.to_owned(),
            hard: hard.into(),
            status: hard.into(),
            checked_us: NOW,
            interval_s: 60,
            figures: (0..figures).map(figure).collect(),
            ..CheckState::default()
        };
        let checks: Vec<String> = (0..checks).map(|n| format!("c{n}")).collect();
        let host = || {
            let checks = checks.iter().map(|c| (c.clone(), Standing::new(state(c), NOW)));
            Host { checks: checks.collect(), ..Host::default() }
        };
        (0..hosts).map(|n| (format!("h{n}").parse().expect("a name"), host())).collect()
    }

    fn lines(text: &str, begin: &str) -> usize {
        text.lines().filter(|line| line.starts_with(begin)).count()
    }

    #[test]
    fn of_a_large_fleet_as_much_is_told_as_fits_and_the_rest_is_counted_one_by_one() {
        let fits = scraped(&fleet(10, 100, 10, Status::Warning));
        assert_eq!(lines(&fits, "check_figure{"), 10_000);
        assert_eq!(lines(&fits, "check_problem{"), 1_000);
        assert!(fits.contains("\ncheck_figures_omitted 0\n"), "nothing is left out");
        // 1,100 checks with nine figures each.
        let text = scraped(&fleet(11, 100, 9, Status::Critical));
        assert_eq!(lines(&text, "check_figure{"), 9_900);
        assert!(text.contains("\ncheck_figures_omitted 100\n"), "a hundred problems");
        let text = scraped(&fleet(12, 100, 9, Status::Ok));
        assert_eq!((lines(&text, "check_figure{"), lines(&text, "check_problem{")), (10_000, 0));
        assert!(text.contains("\ncheck_figures_omitted 800\n"), "figures, and not their checks");
        assert!(text.contains("checks{status=\"ok\"} 1200\n"), "all are counted");
    }

    #[test]
    fn the_end_of_a_figure_is_told_under_the_same_labels_and_only_where_there_is_one() {
        let mut hosts = fleet(1, 1, 0, Status::Ok);
        let host = hosts.values_mut().next().expect("a host");
        let figure = |subject: &str, limit| Figure {
            name: "used".into(),
            subject: subject.into(),
            value: 84.0,
            unit: "bytes".into(),
            limit,
        };
        let state = CheckState {
            figures: vec![figure("/", Some(100.0)), figure("/srv", None)],
            ..host.checks.get("c0").expect("a check").state()
        };
        host.checks.insert("c0", Standing::new(state, NOW));
        let text = scraped(&hosts);
        let labels = r#"{host="h0",check="c0",figure="used",subject="/",unit="bytes"}"#;
        assert!(text.contains(&format!("check_figure{labels} 84.0\n")), "{text}");
        assert!(text.contains(&format!("check_figure_limit{labels} 100.0\n")), "{text}");
        assert_eq!((lines(&text, "check_figure{"), lines(&text, "check_figure_limit{")), (2, 1));
    }

    #[test]
    fn what_a_host_calls_its_figures_cannot_end_its_label_nor_its_line() {
        let mut registry = Registry::default();
        let figures = Family::<FigureOf, Gauge<f64, AtomicU64>>::default();
        registry.register("figure", "Figures", figures.clone());
        let of = FigureOf {
            host: "web-1".to_owned(),
            check: "plugin:p".to_owned(),
            figure: Foreign("a\"b".to_owned()),
            subject: Foreign("c:\\temp\nhostler_up 1".to_owned()),
            unit: Foreign(String::new()),
        };
        figures.get_or_create(&of).set(5.0);
        let mut text = String::new();
        encode_registry(&mut text, &registry).expect("encoded");
        let line = text.lines().find(|line| line.starts_with("figure{")).expect("a line");
        let labels = r#"figure="a\"b",subject="c:\\temp\nhostler_up 1",unit="""#;
        assert!(line.contains(labels) && line.ends_with("} 5.0"), "{line}");
    }
}
