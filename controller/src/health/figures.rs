//! The figures of checks over time: minutes in memory, hours in the store.

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
/// Most hours that wait beside those that go on: of ten thousand hosts, for five hours without a store.
const LATE: usize = 50_000;

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
    /// Seconds from its beginning to its first value and to its last one.
    seconds: (u16, u16),
}

impl Span {
    fn add(&mut self, value: f64, into_us: i64) {
        // A check runs once a second at most, and an hour has 3600.
        if self.count == u16::MAX {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let short = value as f32;
        self.most = if self.count == 0 { short } else { self.most.max(short) };
        let second = u16::try_from(into_us / 1_000_000).unwrap_or(u16::MAX);
        self.seconds = if self.count == 0 { (second, second) } else { (self.seconds.0, second) };
        self.sum += value;
        self.count += 1;
    }

    fn begins_us(&self, length_us: i64) -> i64 {
        i64::from(self.number) * length_us
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }

    /// Its part of the time from the beginning of its hour to its last value.
    fn share(&self) -> f32 {
        let (first, last) = self.seconds;
        match last {
            0 => 1.0,
            last => f32::from(last.saturating_sub(first)) / f32::from(last),
        }
    }
}

/// A point of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When its span begins; where spans of different lengths stand side by side, its middle.
    pub at_us: i64,
    /// Mean of the span.
    pub mean: f64,
    /// Greatest of the span.
    pub most: f64,
}

/// One series of spans of two lengths: hours, and shorter ones after the last of those. Each is where
/// its middle is, so that they lie on one line.
pub fn joined(hours: Vec<Point>, recent: Vec<Point>, since_us: i64) -> Vec<Point> {
    let until = hours.last().map_or(i64::MIN, |p| p.at_us + HOUR_US).max(since_us);
    let middle = |length_us: i64| move |p: Point| Point { at_us: p.at_us + length_us / 2, ..p };
    let recent = recent.into_iter().filter(|p| p.at_us >= until).map(middle(SPAN_US));
    hours.into_iter().map(middle(HOUR_US)).chain(recent).collect()
}

/// An hour of a host, to be written down.
#[derive(Debug, Clone)]
pub struct Hour {
    /// The host.
    pub host: HostName,
    /// When it began.
    pub begins_us: i64,
    /// What each series was.
    pub values: Vec<Counted>,
}

/// A series in an hour.
#[derive(Debug, Clone)]
pub struct Counted {
    /// What it is of.
    pub key: Arc<Key>,
    /// Mean.
    pub mean: f32,
    /// Greatest.
    pub most: f32,
    /// How much of the hour this is, up to its last value: what was counted before a restart of the
    /// controller is the rest.
    pub share: f32,
}

/// All series of all hosts. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Figures(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    hosts: HashMap<HostName, Vec<Series>>,
    keys: HashSet<Arc<Key>>,
    /// Hours that were over when something of the next one came.
    late: VecDeque<Hour>,
    /// Some of those were dropped since all of them were written down.
    dropped: bool,
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

    /// Puts the hours of a host that are over aside, before something of a later one comes.
    fn end_hours(&mut self, host: &HostName, hour: u32) {
        let Some(series) = self.hosts.get_mut(host) else { return };
        while let Some(ended) = ended(host, series, hour) {
            if self.late.len() >= LATE {
                self.late.pop_front();
                if !std::mem::replace(&mut self.dropped, true) {
                    tracing::error!("figures of hours are lost: the store takes none for too long");
                }
            }
            self.late.push_back(ended);
        }
    }
}

/// Takes the first hour before some other out of a host's series.
fn ended(host: &HostName, series: &mut [Series], before: u32) -> Option<Hour> {
    let over = series.iter().find(|s| s.hour.count > 0 && s.hour.number < before)?.hour.number;
    let mut values = Vec::new();
    for series in series.iter_mut().filter(|s| s.hour.count > 0 && s.hour.number == over) {
        let hour = std::mem::take(&mut series.hour);
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let mean = hour.mean() as f32;
        let (key, most, share) = (Arc::clone(&series.key), hour.most, hour.share());
        values.push(Counted { key, mean, most, share });
    }
    Some(Hour { host: host.clone(), begins_us: i64::from(over) * HOUR_US, values })
}

impl Figures {
    /// Takes in the figures of a host's checks.
    pub fn take(&self, host: &HostName, checks: &[CheckState], now_us: i64) {
        let figures = checks.iter().flat_map(|c| c.figures.iter().map(move |f| (&c.check, f)));
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.end_hours(host, number(now_us, HOUR_US));
        let mut at = 0;
        for (check, figure) in figures.filter(|(_, f)| f.value.is_finite()) {
            let is = |s: &Series| {
                s.key.check == *check
                    && s.key.name == figure.name
                    && s.key.subject == figure.subject
                    && s.key.unit == figure.unit
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
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.hosts.remove(host);
        inner.late.retain(|hour| hour.host != *host);
    }

    /// Takes out the hours that are over, of at most so many hosts.
    fn over(&self, now_us: i64, most: usize) -> Vec<Hour> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hour = number(now_us, HOUR_US);
        let aside = inner.late.len().min(most);
        let mut hours: Vec<_> = inner.late.drain(..aside).collect();
        if inner.late.is_empty() {
            (inner.late, inner.dropped) = (VecDeque::new(), false);
        }
        let left = most - hours.len();
        hours.extend(
            inner.hosts.iter_mut().filter_map(|(host, all)| ended(host, all, hour)).take(left),
        );
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
            match store.add_hours(hours).await {
                // One host's hour must not keep those of all others from being written.
                Err(error) if error.is_of_content() => write_singly(store, hours).await?,
                written => written?,
            }
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

/// Writes hours one by one, without those that the store cannot take.
async fn write_singly(store: &Store, hours: &mut Vec<Hour>) -> Result<(), StoreError> {
    while let Some(hour) = hours.last() {
        match store.add_hours(std::slice::from_ref(hour)).await {
            Err(error) if error.is_of_content() => {
                tracing::error!(host = %hour.host, %error, "figures of an hour are left out");
            }
            written => written?,
        }
        hours.pop();
    }
    Ok(())
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
        self.hour.add(value, now_us - self.hour.begins_us(HOUR_US));
        let span = number(now_us, SPAN_US);
        if self.span.number != span {
            self.end_span(span);
            self.span = Span { number: span, ..Span::default() };
        }
        self.span.add(value, now_us - self.span.begins_us(SPAN_US));
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

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
