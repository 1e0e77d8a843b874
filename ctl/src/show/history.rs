//! How checks stood: their changes, and their figures over time.

use hostler_proto::wire::{HistoryReply, Series, Status};

use super::{
    grid::{Cell, grid},
    health::state_word,
    report::word,
    value,
};
use crate::screen::Traits;

const HOUR_US: i64 = 3_600_000_000;
/// Characters of a sparkline.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// And of one that any terminal can show.
const PLAIN: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
/// Its width.
const WIDTH: usize = 48;

/// How the checks of a host changed, and their figures.
pub fn history(history: &HistoryReply, traits: Traits) -> String {
    let mut page = String::new();
    let row = |t: &hostler_proto::wire::Turn| {
        vec![
            Cell::text(value::moment(t.at_us)),
            // The host's link is the check without a name.
            Cell::text(if t.check.is_empty() { "(host)" } else { &t.check }),
            Cell::word(state_word(t.became())),
            Cell::text(match (t.hard, t.check.is_empty()) {
                (true, _) if t.was() == Status::Unspecified => "not known".to_owned(),
                (true, _) => format!("was {}", word(t.was())),
                // It began to flap, or no longer does; what it said tells which.
                (false, false) => "the same".to_owned(),
                (false, true) => String::new(),
            }),
            Cell::text(&t.summary),
        ]
    };
    let rows: Vec<_> = history.turns.iter().map(row).collect();
    match rows.is_empty() {
        true => page += "no check changed in that time\n",
        false => {
            page += &grid(&["WHEN", "CHECK", "STATUS", "BEFORE", "WHAT IT SAID"], &rows, traits)
        }
    }
    if !history.series.is_empty() {
        let rows: Vec<_> = history.series.iter().map(|of| series(of, traits.plain)).collect();
        page.push('\n');
        page += &grid(&["CHECK", "FIGURE", "OVER TIME", "NOW", "RUNS OUT"], &rows, traits);
    }
    page
}

fn series(series: &Series, plain: bool) -> Vec<Cell> {
    let runs_out = series.runs_out_s.map(|seconds| {
        let sure = series.confidence * 100.0;
        format!("in {} ({sure:.0} % sure)", value::duration(seconds))
    });
    vec![
        Cell::text(&series.check),
        Cell::text(figure(&series.name, &series.subject)),
        Cell::text(spark(&evenly(&series.at_us, &series.mean), plain)),
        Cell::number(amount(series.last, &series.unit)),
        Cell::text(runs_out.unwrap_or_default()),
    ]
}

/// What is counted, and of what.
pub fn figure(name: &str, subject: &str) -> String {
    format!("{name} {subject}").trim_end().to_owned()
}

fn amount(number: f64, unit: &str) -> String {
    match unit {
        "bytes" => value::bytes(number),
        "s" => value::duration(number),
        "percent" => format!("{number:.1} %"),
        unit => format!("{} {unit}", (number * 100.0).round() / 100.0).trim_end().to_owned(),
    }
}

/// Points at any times as values at even ones: means of hours and of minutes lie on one line. A
/// point holds until the next, but not for longer than an hour; then nothing is known.
fn evenly(at_us: &[i64], values: &[f64]) -> Vec<f64> {
    let points: Vec<(i64, f64)> = at_us.iter().copied().zip(values.iter().copied()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let parts = WIDTH.min(points.len());
    let length = (last.0 - first.0) / i64::try_from(parts).unwrap_or(i64::MAX) + 1;
    let (mut even, mut rest, mut held) = (Vec::with_capacity(parts), points.as_slice(), *first);
    for begins in (0..parts).scan(first.0, |at, _| Some(std::mem::replace(at, *at + length))) {
        let (within, after) = rest.split_at(rest.partition_point(|p| p.0 < begins + length));
        rest = after;
        #[expect(clippy::cast_precision_loss, reason = "a number of points")]
        let mean = within.iter().map(|p| p.1).sum::<f64>() / within.len() as f64;
        even.push(match within.last() {
            Some(point) => {
                held = *point;
                mean
            }
            None if begins - held.0 <= HOUR_US => held.1,
            None => f64::NAN,
        });
    }
    even
}

/// Values in one line of text, of plain signs where nothing else is shown; blank where there is none.
pub fn spark(values: &[f64], plain: bool) -> String {
    let signs = if plain { PLAIN } else { SPARKS };
    let values = &values[values.len().saturating_sub(WIDTH)..];
    let (least, most) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(*v), m.max(*v)));
    let step = |v: f64| {
        let share = if most > least { (v - least) / (most - least) } else { 0.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share times seven"
        )]
        let at = (share * 7.0).round() as usize;
        signs[at.min(7)]
    };
    values.iter().map(|v| if v.is_finite() { step(*v) } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_774_742_400_000_000;
    const MINUTE: i64 = 60_000_000;

    #[test]
    fn history_tells_what_was_before_and_when_a_figure_reaches_its_end() {
        let turn = |check: &str, was: Status, became: Status, hard: bool, summary: &str| {
            hostler_proto::wire::Turn {
                check: check.into(),
                was: was.into(),
                became: became.into(),
                hard,
                flapping: !hard,
                at_us: NOW - 60 * MINUTE,
                summary: summary.into(),
                ..hostler_proto::wire::Turn::default()
            }
        };
        let away = "its agent was stopped on purpose";
        let history = HistoryReply {
            host: "web-1".into(),
            turns: vec![
                turn("", Status::Ok, Status::Warning, true, away),
                turn("disk", Status::Warning, Status::Warning, false, "it began to flap: 90 %"),
                turn("units", Status::Unspecified, Status::Critical, true, "1 unit has failed"),
            ],
            series: vec![Series {
                check: "disk".into(),
                name: "used".into(),
                subject: "/srv".into(),
                unit: "bytes".into(),
                at_us: (0..12).map(|n| NOW - (12 - n) * 5 * MINUTE).collect(),
                mean: (0..12).map(|n| f64::from(n) * 1e9).collect(),
                last: 11e9,
                limit: Some(20e9),
                runs_out_s: Some(2_700.0),
                confidence: 0.97,
                ..Series::default()
            }],
            now_us: NOW,
        };
        insta::assert_snapshot!(super::history(&history, Traits::default()));
    }

    #[test]
    fn hours_and_minutes_lie_on_one_line_and_a_gap_is_a_gap() {
        let minute = HOUR_US / 60;
        // Twenty hours of 1.0, then an hour of twelve spans of 2.0: the last hour is not half of it.
        let hours = (0..20).map(|n| (n * HOUR_US, 1.0));
        let spans = (0..12).map(|n| (20 * HOUR_US + n * 5 * minute, 2.0));
        let (at, values): (Vec<_>, Vec<_>) = hours.chain(spans).unzip();
        let even = evenly(&at, &values);
        let low = even.iter().filter(|v| **v < 1.5).count();
        assert!(low * 10 > even.len() * 9, "{even:?}");
        let even = evenly(&[0, HOUR_US, 9 * HOUR_US, 10 * HOUR_US], &[1.0, 1.0, 3.0, 3.0]);
        assert!(even.iter().any(|v| v.is_nan()), "{even:?}");
        assert!(evenly(&[], &[]).is_empty());
        assert_eq!(evenly(&[5], &[1.0]), [1.0]);
    }

    #[test]
    fn a_sparkline_spans_from_the_least_to_the_most_and_is_flat_when_nothing_changes() {
        assert_eq!(spark(&[0.0, 1.0, 7.0], false), "▁▂█");
        assert_eq!(spark(&[5.0, 5.0], false), "▁▁");
        assert_eq!(spark(&[], false), "");
        assert_eq!(spark(&[0.0, 1.0, 7.0], true), "_.#", "where a terminal shows nothing else");
        assert_eq!(spark(&vec![1.0; 500], false).chars().count(), WIDTH);
    }
}
