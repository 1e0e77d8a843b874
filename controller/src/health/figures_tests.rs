//! Spans and hours.

use hostler_core::trend;
use hostler_proto::wire::Figure;

use super::*;

fn told(value: f64) -> Vec<CheckState> {
    let figure = Figure {
        name: "used".into(),
        subject: "/".into(),
        value,
        unit: "bytes".into(),
        limit: Some(100.0),
    };
    vec![CheckState { check: "disk".into(), figures: vec![figure], ..CheckState::default() }]
}

fn web() -> HostName {
    "web-1".parse().expect("name")
}

const MINUTE: i64 = 60_000_000;

#[test]
fn minutes_become_spans_and_hours_and_memory_stays_bounded() {
    let figures = Figures::default();
    for minute in 0..600 {
        figures.take(&web(), &told(f64::from(minute)), i64::from(minute) * MINUTE);
    }
    let of = figures.of(&web());
    let (series, points) = &of[0];
    assert_eq!((of.len(), points.len()), (1, SPANS + 1));
    assert!((series.last - 599.0).abs() < 0.01);
    assert_eq!(points[SPANS].at_us, 595 * MINUTE);
    assert!((points[SPANS].mean - 597.0).abs() < 0.01);
    let hours = figures.over(600 * MINUTE, 10);
    assert_eq!((hours.len(), hours[0].begins_us), (10, 0), "the hour that began first");
}

#[test]
fn an_hour_is_written_when_it_is_over_and_once() {
    let figures = Figures::default();
    figures.take(&web(), &told(10.0), 30 * MINUTE);
    figures.take(&web(), &told(20.0), 40 * MINUTE);
    assert!(figures.over(59 * MINUTE, 10).is_empty());
    let hours = figures.over(60 * MINUTE, 10);
    assert_eq!((hours[0].values[0].mean, hours[0].values[0].most), (15.0, 20.0));
    assert!((hours[0].values[0].share - 0.25).abs() < 0.001, "it began when most was over");
    assert!(figures.over(60 * MINUTE, 10).is_empty());
}

#[test]
fn what_is_told_no_more_is_forgotten_when_it_is_written_down() {
    let figures = Figures::default();
    let mut gone = told(1.0);
    gone[0].figures[0].subject = "/mnt".into();
    figures.take(&web(), &gone, 0);
    figures.take(&web(), &told(1.0), 0);
    for minute in 1..300 {
        figures.take(&web(), &told(1.0), minute * MINUTE);
    }
    let now = 300 * MINUTE;
    figures.forget_gone(now);
    let of = figures.of(&web());
    assert_eq!((of.len(), of[0].0.key.subject.as_str()), (1, "/"));
    drop(of);
    assert_eq!(figures.over(now, 1)[0].values.len(), 2, "an hour of it is not written yet");
    while !figures.over(now, 10).is_empty() {}
    figures.forget_gone(now);
    assert_eq!(figures.0.lock().expect("lock").keys.len(), 1);
}

#[test]
fn hours_and_minutes_of_what_grows_evenly_lie_on_one_line() {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let point = |at_us: i64, length_us: i64| {
        let mean = (at_us + length_us / 2) as f64 / 1e6;
        Point { at_us, mean, most: mean }
    };
    let hours = (0..6).map(|n| point(n * HOUR_US, HOUR_US)).collect();
    let recent = (60..80).map(|n| point(n * SPAN_US, SPAN_US)).collect();
    let points = joined(hours, recent, 0);
    assert_eq!(points.len(), 6 + 8, "what the last hour holds comes once");
    let limit = points[13].mean + 500.0;
    let means = points.iter().map(|p| trend::Point { at_us: p.at_us, value: p.mean });
    let trend = trend::trend(means, limit).expect("a trend");
    assert!((trend.runs_out_s - 500.0).abs() < 0.1 && trend.confidence > 0.999, "{trend:?}");
}

#[test]
fn an_hour_ends_when_something_of_the_next_one_comes() {
    let figures = Figures::default();
    for hour in 0..5_i32 {
        figures.take(&web(), &told(f64::from(hour)), i64::from(hour) * HOUR_US + 30 * MINUTE);
    }
    let hours = figures.over(5 * HOUR_US, 10);
    let means: Vec<_> = hours.iter().map(|h| (h.begins_us / HOUR_US, h.values[0].mean)).collect();
    assert_eq!(means, [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]);
    assert!(figures.over(5 * HOUR_US, 10).is_empty());
}

#[test]
fn hours_that_wait_for_the_store_are_bounded_and_go_with_their_host() {
    let figures = Figures::default();
    let last = i64::try_from(LATE).expect("some") + 1;
    for hour in 0..=last {
        figures.take(&web(), &told(1.0), hour * HOUR_US);
    }
    let hours = figures.over(last * HOUR_US, 3);
    let begun: Vec<_> = hours.iter().map(|hour| hour.begins_us / HOUR_US).collect();
    assert_eq!(begun, [1, 2, 3], "the first was dropped, and no more are given than asked for");
    figures.forget(&web());
    assert!(figures.over(i64::MAX, 10).is_empty());
}

#[test]
fn a_figure_whose_unit_changes_is_another_one() {
    let figures = Figures::default();
    figures.take(&web(), &told(1.0), 0);
    let mut other = told(2.0);
    other[0].figures[0].unit = "percent".into();
    figures.take(&web(), &other, MINUTE);
    let of = figures.of(&web());
    let units: Vec<_> = of.iter().map(|(s, _)| (s.key.unit.as_str(), s.last)).collect();
    assert_eq!(units, [("bytes", 1.0), ("percent", 2.0)]);
}
