//! Where a figure goes: when it reaches its end, and how sure that is.

/// A trend needs so many points, and so much time.
const LEAST: (usize, i64) = (6, 1_800_000_000);
/// A line is as sure as it explains the past up to so many times its length ahead; further away the
/// less, the further. From four times its length on it is a guess at most, below one half.
const REACH: f64 = 2.0;
/// Of a longer past every n-th point tells as much.
const MOST: usize = 200;

/// A figure at some moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When, in microseconds since 1970.
    pub at_us: i64,
    /// What it was.
    pub value: f64,
}

/// When a figure will reach its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Seconds from the last point on.
    pub runs_out_s: f64,
    /// How sure that is, 0 to 1: the share of the variation that the line explains, less where the end
    /// is far away beside the past that was seen.
    pub confidence: f64,
}

/// The trend of points in their order towards a limit; none when they do not go there, or are too few.
/// The slope is the median of all slopes (Theil-Sen): what grows like a saw counts as it grows in the
/// long run.
pub fn trend(points: impl ExactSizeIterator<Item = Point>, limit: f64) -> Option<Trend> {
    let all = points.len();
    let step = all.div_ceil(MOST).max(1);
    let mut last = None;
    let points = points.inspect(|point| last = Some(*point));
    let points: Vec<Point> =
        points.enumerate().filter(|(n, _)| n % step == 0).map(|(_, point)| point).collect();
    let (first, last) = (points.first()?, last?);
    if all < LEAST.0 || last.at_us - first.at_us < LEAST.1 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of some months")]
    let seconds = |p: &Point| (p.at_us - first.at_us) as f64 / 1e6;
    let mut slopes: Vec<f64> = points
        .iter()
        .enumerate()
        .flat_map(|(n, a)| points[n + 1..].iter().map(move |b| (a, b)))
        .map(|(a, b)| (b.value - a.value) / (seconds(b) - seconds(a)).max(1.0))
        .collect();
    let slope = median(&mut slopes)?;
    if slope <= 0.0 || limit <= last.value {
        return None;
    }
    let base =
        median(&mut points.iter().map(|p| p.value - slope * seconds(p)).collect::<Vec<_>>())?;
    #[expect(clippy::cast_precision_loss, reason = "a number of points")]
    let mean = points.iter().map(|p| p.value).sum::<f64>() / points.len() as f64;
    let spread: f64 = points.iter().map(|p| (p.value - mean).powi(2)).sum();
    let error: f64 = points.iter().map(|p| (p.value - base - slope * seconds(p)).powi(2)).sum();
    let explained = if spread > 0.0 { (1.0 - error / spread).clamp(0.0, 1.0) } else { 0.0 };
    let runs_out_s = (limit - last.value) / slope;
    let within_reach = (REACH * seconds(&last) / runs_out_s).min(1.0);
    Some(Trend { runs_out_s, confidence: explained * within_reach })
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hours of what grows evenly, but for some noise.
    fn line(slope: f64, noise: &[f64]) -> Vec<Point> {
        let point = |(n, noise): (usize, &f64)| {
            let hours = i32::try_from(n).expect("small");
            let value = 10.0 + slope * (f64::from(hours) * 3600.0) + noise;
            Point { at_us: i64::from(hours) * 3_600_000_000, value }
        };
        noise.iter().enumerate().map(point).collect()
    }

    fn towards(points: &[Point]) -> Option<Trend> {
        trend(points.iter().copied(), 200.0)
    }

    #[test]
    fn a_disk_that_fills_says_when_and_one_that_does_not_says_nothing() {
        let fills = towards(&line(0.001, &[0.0; 24])).expect("a trend");
        // 10 + 0.001 * 23 h = 92.8 at last; 107.2 are left.
        assert!((fills.runs_out_s - 107_200.0).abs() < 1.0 && fills.confidence > 0.999);
        assert_eq!(towards(&line(-0.001, &[0.0; 24])), None);
        assert_eq!(towards(&line(0.001, &[0.0; 3])), None, "too few");
        assert_eq!(towards(&line(0.0, &[0.0; 24])), None);
        assert_eq!(towards(&[]), None);
    }

    #[test]
    fn a_long_past_tells_as_much_as_a_short_one() {
        let long = towards(&line(0.000_01, &[0.0; 1_999])).expect("a trend");
        let left = 200.0 - 10.0 - 0.000_01 * 1_998.0 * 3600.0;
        assert!((long.runs_out_s - left / 0.000_01).abs() < 1.0, "{long:?}");
    }

    #[test]
    fn half_an_hour_does_not_tell_what_is_in_six_days_however_straight_it_is() {
        let minutes = |limit: f64| {
            let point = |n: i32| Point { at_us: i64::from(n) * 60_000_000, value: f64::from(n) };
            trend((0..31_i32).map(point), limit).expect("a trend")
        };
        let sure = |hours: f64| minutes(30.0 + hours * 60.0).confidence;
        assert!(sure(0.5) > 0.999, "as far ahead as the past is long");
        assert!(sure(1.0) > 0.999 && sure(1.5) < 0.7, "{} {}", sure(1.0), sure(1.5));
        assert!(sure(2.5) < 0.5, "{}", sure(2.5));
        assert!(sure(144.0) < 0.01, "{}", sure(144.0));
    }

    proptest! {
        #[test]
        fn one_wild_point_changes_the_end_little(at in 0..23_usize, wild in -50.0..50.0_f64) {
            let mut noise = [0.0; 24];
            noise[at] = wild;
            let seen = towards(&line(0.001, &noise)).expect("a trend");
            prop_assert!((seen.runs_out_s - 107_200.0).abs() < 12_000.0, "{}", seen.runs_out_s);
        }
    }
}
