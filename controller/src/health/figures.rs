//! The figures of checks over time: minutes in memory, hours in the store, and when something will
//! run out.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use hostler_proto::{name::HostName, wire::CheckState};

use crate::store::{Store, StoreError};

/// Length of the short spans that are kept in memory.
pub const SPAN_US: i64 = 300_000_000;
/// How many of them.
const SPANS: usize = 24;
/// Length of the spans that are kept in the store.
pub const HOUR_US: i64 = 3_600_000_000;
/// Most series of one host.
const MOST: usize = 1000;
/// Hosts whose hours are written at a time.
const GROUP: usize = 256;
/// A trend needs so many spans, and so much time.
const TREND: (usize, i64) = (6, 1_800_000_000);

/// What a series is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The check that tells it.
    pub check: String,
    /// What it counts.
    pub name: String,
    /// Of what.
    pub subject: String,
    /// Its unit.
    pub unit: String,
}

/// One figure of one host. Of ten thousand hosts there are hundreds of thousands of these.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is of. The same for all hosts that have it.
    pub key: Arc<Key>,
    /// The last value.
    pub last: f64,
    /// Where it ends; NaN when it does not.
    limit: f64,
    hour: Span,
    span: Span,
    /// Means of the last spans, up to the one that goes on; NaN where there was none.
    recent: VecDeque<f32>,
}

/// Values of some time together.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    sum: f64,
    /// Greatest of them: seven digits are enough.
    most: f32,
    count: u16,
    /// Number of the span since 1970.
    number: u32,
}

impl Span {
    fn add(&mut self, value: f64) {
        // A check runs once a second at most, and an hour has 3600.
        if self.count == u16::MAX {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let short = value as f32;
        self.most = if self.count == 0 { short } else { self.most.max(short) };
        self.sum += value;
        self.count += 1;
    }

    fn begins_us(&self, length_us: i64) -> i64 {
        i64::from(self.number) * length_us
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }
}

/// A point of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When its span begins.
    pub at_us: i64,
    /// Mean of the span.
    pub mean: f64,
    /// Greatest of the span.
    pub most: f64,
}

/// An hour of a host, to be written down.
#[derive(Debug, Clone)]
pub struct Hour {
    /// The host.
    pub host: HostName,
    /// When it began.
    pub begins_us: i64,
    /// Mean and greatest of each series.
    pub values: Vec<(Arc<Key>, f32, f32)>,
}

/// All series of all hosts. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Figures(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    hosts: HashMap<HostName, Vec<Series>>,
    keys: HashSet<Arc<Key>>,
}

impl Inner {
    fn key(&mut self, key: Key) -> Arc<Key> {
        if let Some(known) = self.keys.get(&key) {
            return Arc::clone(known);
        }
        let key = Arc::new(key);
        self.keys.insert(Arc::clone(&key));
        key
    }
}

impl Figures {
    /// Takes in the figures of a host's checks.
    pub fn take(&self, host: &HostName, checks: &[CheckState], now_us: i64) {
        let figures = checks.iter().flat_map(|c| c.figures.iter().map(move |f| (&c.check, f)));
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        for (check, figure) in figures.filter(|(_, f)| f.value.is_finite()) {
            let is = |s: &Series| {
                s.key.check == *check
                    && s.key.name == figure.name
                    && s.key.subject == figure.subject
            };
            let series = inner.hosts.entry(host.clone()).or_default();
            // They come in the same order each time.
            let found = match series.get(at).is_some_and(is) {
                true => Some(at),
                false => series.iter().position(is),
            };
            let place = match found {
                Some(place) => place,
                None if series.len() >= MOST => continue,
                None => {
                    let place = series.len();
                    let key = inner.key(Key {
                        check: check.clone(),
                        name: figure.name.clone(),
                        subject: figure.subject.clone(),
                        unit: figure.unit.clone(),
                    });
                    let new = Series {
                        key,
                        last: figure.value,
                        limit: f64::NAN,
                        hour: Span::default(),
                        span: Span::default(),
                        recent: VecDeque::new(),
                    };
                    let series = inner.hosts.entry(host.clone()).or_default();
                    // Most hosts tell the same figures for ever: no room for twice as many.
                    if series.len() == series.capacity() {
                        series.reserve_exact(8);
                    }
                    series.push(new);
                    place
                }
            };
            at = place + 1;
            if let Some(series) = inner.hosts.get_mut(host).and_then(|s| s.get_mut(place)) {
                series.take(figure.value, figure.limit, now_us);
            }
        }
    }

    /// The series of a host, with what is kept in memory of each.
    pub fn of(&self, host: &HostName) -> Vec<(Series, Vec<Point>)> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = inner.hosts.get(host).map(Vec::as_slice).unwrap_or_default();
        series.iter().map(|s| (s.clone(), s.points())).collect()
    }

    /// Forgets a host.
    pub fn forget(&self, host: &HostName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hosts.remove(host);
    }

    /// Takes out the hours that are over, of at most so many hosts.
    fn over(&self, now_us: i64, most: usize) -> Vec<Hour> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hour = number(now_us, HOUR_US);
        let mut hours = Vec::new();
        for (host, series) in &mut inner.hosts {
            let over = series.iter().find(|s| s.hour.count > 0 && s.hour.number < hour);
            let Some(over) = over.map(|s| s.hour.number) else { continue };
            let begins_us = i64::from(over) * HOUR_US;
            let mut values = Vec::new();
            let of_it = |s: &&mut Series| s.hour.count > 0 && s.hour.number == over;
            for series in series.iter_mut().filter(of_it) {
                let hour = std::mem::take(&mut series.hour);
                #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
                values.push((Arc::clone(&series.key), hour.mean() as f32, hour.most));
            }
            hours.push(Hour { host: host.clone(), begins_us, values });
            if hours.len() == most {
                break;
            }
        }
        hours
    }

    /// Writes down the hours that are over at some time, those that could not be written before
    /// first: they are in `hours`, for the next attempt.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn write_down(
        &self,
        store: &Store,
        now_us: i64,
        hours: &mut Vec<Hour>,
    ) -> Result<(), StoreError> {
        loop {
            if hours.is_empty() {
                *hours = self.over(now_us, GROUP);
            }
            if hours.is_empty() {
                return Ok(());
            }
            store.add_hours(hours).await?;
            hours.clear();
            self.forget_gone(now_us);
        }
    }

    /// Forgets the series of which nothing is left but what the store has: a disk that was taken out, a
    /// queue that is used no more.
    fn forget_gone(&self, now_us: i64) {
        let span = number(now_us, SPAN_US);
        let gone = |s: &Series| s.hour.count == 0 && span.abs_diff(s.span.number) as usize > SPANS;
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for series in inner.hosts.values_mut().filter(|all| all.iter().any(gone)) {
            series.retain(|s| !gone(s));
        }
        inner.keys.retain(|key| Arc::strong_count(key) > 1);
    }
}

/// The number of the span of some length that holds some time. Times before 1970 and after the year
/// 2100 are none that a clock tells.
fn number(at_us: i64, length_us: i64) -> u32 {
    u32::try_from(at_us.div_euclid(length_us)).unwrap_or(if at_us < 0 { 0 } else { u32::MAX })
}

impl Series {
    /// Where it ends.
    pub fn limit(&self) -> Option<f64> {
        (!self.limit.is_nan()).then_some(self.limit)
    }

    fn take(&mut self, value: f64, limit: Option<f64>, now_us: i64) {
        (self.last, self.limit) = (value, limit.unwrap_or(f64::NAN));
        if self.hour.count == 0 {
            self.hour.number = number(now_us, HOUR_US);
        }
        self.hour.add(value);
        let span = number(now_us, SPAN_US);
        if self.span.number != span {
            self.end_span(span);
            self.span = Span { number: span, ..Span::default() };
        }
        self.span.add(value);
    }

    /// Puts the span that ended to the last ones, with a gap up to the one that begins.
    fn end_span(&mut self, next: u32) {
        if self.span.count == 0 {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let mean = self.span.mean() as f32;
        let missing = next.checked_sub(self.span.number + 1).map(|n| n as usize);
        match missing.filter(|missing| *missing < SPANS) {
            Some(missing) => {
                let more = 1 + missing;
                while self.recent.len() + more > SPANS {
                    self.recent.pop_front();
                }
                if self.recent.len() + more > self.recent.capacity() {
                    self.recent.reserve_exact(8.max(more));
                }
                self.recent.push_back(mean);
                self.recent.extend(std::iter::repeat_n(f32::NAN, missing));
            }
            // Too long ago, or the clock was set back.
            None => self.recent.clear(),
        }
    }

    /// The last spans, with the one that goes on.
    fn points(&self) -> Vec<Point> {
        if self.span.count == 0 {
            return Vec::new();
        }
        let now = self.span.begins_us(SPAN_US);
        let first = now - i64::try_from(self.recent.len()).unwrap_or(0) * SPAN_US;
        let past = (0..).zip(&self.recent).filter(|(_, mean)| !mean.is_nan());
        let mut points: Vec<Point> = past
            .map(|(n, mean)| {
                let mean = f64::from(*mean);
                Point { at_us: first + n * SPAN_US, mean, most: mean }
            })
            .collect();
        points.push(Point { at_us: now, mean: self.span.mean(), most: self.span.most.into() });
        points
    }
}

/// When a figure will reach its end, and how well the past explains that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Seconds from the last point on.
    pub runs_out_s: f64,
    /// Share of the variation that the line explains, 0 to 1.
    pub confidence: f64,
}

/// The trend of points in their order towards a limit; none when they do not go there, or are too few.
/// The slope is the median of all slopes (Theil-Sen): what grows like a saw counts as it grows in the
/// long run.
pub fn trend(points: &[Point], limit: f64) -> Option<Trend> {
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < TREND.0 || last.at_us - first.at_us < TREND.1 {
        return None;
    }
    // Of a long past every n-th point tells as much.
    let step = points.len().div_ceil(200);
    let points: Vec<&Point> = points.iter().step_by(step).collect();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of some months")]
    let seconds = |p: &Point| (p.at_us - first.at_us) as f64 / 1e6;
    let mut slopes: Vec<f64> = points
        .iter()
        .enumerate()
        .flat_map(|(n, a)| points[n + 1..].iter().map(move |b| (a, b)))
        .map(|(a, b)| (b.mean - a.mean) / (seconds(b) - seconds(a)).max(1.0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    let slope = *slopes.get(slopes.len() / 2)?;
    if slope <= 0.0 || limit <= last.mean {
        return None;
    }
    let mut rests: Vec<f64> = points.iter().map(|p| p.mean - slope * seconds(p)).collect();
    rests.sort_by(f64::total_cmp);
    let base = rests[rests.len() / 2];
    #[expect(clippy::cast_precision_loss, reason = "a number of points")]
    let mean = points.iter().map(|p| p.mean).sum::<f64>() / points.len() as f64;
    let spread: f64 = points.iter().map(|p| (p.mean - mean).powi(2)).sum();
    let error: f64 = points.iter().map(|p| (p.mean - base - slope * seconds(p)).powi(2)).sum();
    let confidence = if spread > 0.0 { (1.0 - error / spread).clamp(0.0, 1.0) } else { 0.0 };
    Some(Trend { runs_out_s: (limit - last.mean) / slope, confidence })
}

#[cfg(test)]
mod tests {
    use hostler_proto::wire::Figure;
    use proptest::prelude::*;

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
        assert_eq!((hours.len(), hours[0].begins_us), (1, 0), "the hour that began first");
    }

    #[test]
    fn an_hour_is_written_when_it_is_over_and_once() {
        let figures = Figures::default();
        figures.take(&web(), &told(10.0), 30 * MINUTE);
        figures.take(&web(), &told(20.0), 40 * MINUTE);
        assert!(figures.over(59 * MINUTE, 10).is_empty());
        let hours = figures.over(60 * MINUTE, 10);
        assert_eq!((hours[0].values[0].1, hours[0].values[0].2), (15.0, 20.0));
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
        assert_eq!(figures.of(&web()).len(), 2, "an hour of it is not written yet");
        while !figures.over(now, 10).is_empty() {}
        figures.forget_gone(now);
        let of = figures.of(&web());
        assert_eq!((of.len(), of[0].0.key.subject.as_str()), (1, "/"));
        drop(of);
        assert_eq!(figures.0.lock().expect("lock").keys.len(), 1);
    }

    fn line(slope: f64, noise: &[f64]) -> Vec<Point> {
        let point = |(n, noise): (usize, &f64)| {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let mean = 10.0 + slope * (n as f64 * 3600.0) + noise;
            Point { at_us: i64::try_from(n).expect("small") * HOUR_US, mean, most: mean }
        };
        noise.iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_disk_that_fills_says_when_and_one_that_does_not_says_nothing() {
        let fills = trend(&line(0.001, &[0.0; 24]), 200.0).expect("a trend");
        // 10 + 0.001 * 23 h = 92.8 at last; 107.2 are left.
        assert!((fills.runs_out_s - 107_200.0).abs() < 1.0 && fills.confidence > 0.999);
        assert_eq!(trend(&line(-0.001, &[0.0; 24]), 200.0), None);
        assert_eq!(trend(&line(0.001, &[0.0; 3]), 200.0), None, "too few");
        assert_eq!(trend(&line(0.0, &[0.0; 24]), 200.0), None);
    }

    proptest! {
        #[test]
        fn one_wild_point_changes_the_end_little(at in 0..24_usize, wild in -50.0..50.0_f64) {
            let mut noise = [0.0; 24];
            noise[at] = wild;
            let points = line(0.001, &noise);
            prop_assume!(at < 23);
            let seen = trend(&points, 200.0).expect("a trend");
            prop_assert!((seen.runs_out_s - 107_200.0).abs() < 12_000.0, "{}", seen.runs_out_s);
        }
    }
}
