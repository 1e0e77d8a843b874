//! Log files whose lines are written in another zone than this host's, without saying so: their ages come
//! out wrong by hours, and no error of theirs is new, or none ever gets old. The end of a file tells, since
//! the host's own clock says when it was written.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use hostler_logs::Times;
use hostler_proto::wire::{Finding, Status};

/// Bytes of a file's end that are read.
const TAIL: u64 = 16 << 10;
/// Seconds by which the time in a line may be before the one at which its file was written: who writes may
/// collect lines first.
const LATE: i64 = 60;
/// Seconds by which it may be after that.
const EARLY: i64 = 5;
/// What is less is no other zone.
const LEAST: i64 = 1_800;
const HOUR: i64 = 3_600;
const QUARTER: i64 = 900;
/// How far zones are ahead of UTC, and as far apart as two of them are.
const FIRST: i64 = -12 * HOUR;
const LAST: i64 = 14 * HOUR;
const FARTHEST: i64 = LAST - FIRST;
/// Quarters of an hour by which those are ahead that have no whole hours: Marquesas, Newfoundland in winter and
/// in summer, Iran, Afghanistan, India, Nepal, Myanmar, Eucla, Adelaide and Lord Howe, Chatham in winter and in
/// summer. Any quarter of an hour would fit to many a file that somebody only touched.
const ODD: [i64; 13] = [-38, -14, -10, 14, 18, 22, 23, 26, 35, 38, 42, 51, 55];
/// Lines of a traceback, at the end of a file, that are not indented.
const MESSAGES: usize = 8;

/// A file whose lines seem to be written by another clock than the host's: seconds by which that one and this
/// one are ahead of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere {
    pub(super) there: i64,
    pub(super) here: i64,
}

/// Whether the lines of a file seem to be written in another zone; none where they fit to the host's clock, say
/// their zone, or nobody can tell.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn elsewhere(file: &File, times: &mut Times) -> io::Result<Option<Elsewhere>> {
    let Some(since) = times.since() else { return Ok(None) };
    let about = file.metadata()?;
    let (length, written) = (about.len(), about.mtime());
    let here = times.offset(written);
    let wall = written + here;
    // A copy was made when it was written last, of lines of former times. A log is written again and again.
    let made = about.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let made = made.and_then(|made| i64::try_from(made.as_secs()).ok());
    let copied = made.is_some_and(|made| made + LATE > written);
    if copied || wall + FARTHEST < since {
        return Ok(None);
    }
    let from = length.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(length - from).unwrap_or(0)];
    match file.read_exact_at(&mut tail, from) {
        // It has just been emptied.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    // A part of a line may seem to be a time.
    let whole = match from {
        0 => 0,
        _ => memchr::memchr(b'\n', &tail).map_or(tail.len(), |at| at + 1),
    };
    let newest = newest(&tail[whole..], times).filter(|newest| wall.max(newest.at) >= since);
    Ok(newest.and_then(|newest| {
        let off = newest.at - wall;
        // Lines may be dated by the beginning of the time of which they tell, and come once in such a time.
        let usual = newest.gap.is_some_and(|gap| (gap - off.abs()).abs() <= LATE);
        if usual { None } else { zone(off, here) }
    }))
}

/// The time of the last line, as its digits say.
#[derive(Debug)]
struct Newest {
    at: i64,
    /// How long before that the line above was written.
    gap: Option<i64>,
}

/// That, where it has one without a zone and nobody wrote newer ones before it.
fn newest(tail: &[u8], times: &Times) -> Option<Newest> {
    let mut newest: Option<Newest> = None;
    let (mut indented, mut messages) = (false, 0);
    for line in tail.rsplit(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        match (times.digits(line), &mut newest) {
            (Some(digits), None) => newest = Some(Newest { at: digits?, gap: None }),
            (Some(Some(digits)), Some(last)) if digits > last.at + LATE => return None,
            (Some(Some(digits)), Some(last)) => {
                last.gap.get_or_insert(last.at - digits);
            }
            (None, None) if line[0].is_ascii_whitespace() => indented = true,
            (None, None) => messages += 1,
            _ => {}
        }
    }
    // What is no traceback may have been written long after the last line that has a time.
    newest.filter(|_| messages == 0 || indented && messages <= MESSAGES)
}

/// The zone of lines that are so far off the time at which they were written.
fn zone(off: i64, here: i64) -> Option<Elsewhere> {
    let step = (off + LATE).div_euclid(QUARTER) * QUARTER;
    let there = here + step;
    let exists =
        (FIRST..=LAST).contains(&there) && (there % HOUR == 0 || ODD.contains(&(there / QUARTER)));
    (step.abs() >= LEAST && off - step <= EARLY && exists).then_some(Elsewhere { there, here })
}

/// What is said of such files.
pub(super) fn told(found: &[(PathBuf, Elsewhere)]) -> Option<Finding> {
    let (path, Elsewhere { there, here }) = found.first()?;
    let path = path.display();
    let more = match found.len() - 1 {
        0 => String::new(),
        n => format!(" and of {n} more files"),
    };
    let summary = format!(
        "the lines of {path}{more} seem to be written in another time zone: {}, where this host's clock \
         has {}",
        named(*there),
        named(*here)
    );
    let finding = Finding::new(Status::Unknown, path.to_string(), summary);
    let why = "a time without a zone is taken for one of this host's, so that errors count hours too long or \
               not at all; let the application write its zone, or run in that of this host, or ask without \
               --since (since-s = 0)";
    Some(finding.why(why).next(format!("logs tail {path} --lines 5")))
}

/// `UTC+5:30`
fn named(ahead: i64) -> String {
    let (sign, ahead) = (if ahead < 0 { '-' } else { '+' }, ahead.abs());
    match (ahead / HOUR, ahead % HOUR / 60) {
        (0, 0) => "UTC".to_owned(),
        (hours, 0) => format!("UTC{sign}{hours}"),
        (hours, minutes) => format!("UTC{sign}{hours}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Seek as _, Write as _},
        time::SystemTime,
    };

    use jiff::{SignedDuration, Timestamp, tz::TimeZone};

    use super::*;

    fn zone_of(name: &str) -> TimeZone {
        TimeZone::get(name).expect("a zone")
    }

    fn seconds(n: i64) -> SignedDuration {
        SignedDuration::from_secs(n)
    }

    /// When a log is written that was made before: in winter, in which clocks in zones of the north are
    /// behind those of summer.
    fn winter() -> Timestamp {
        "2099-01-15T11:20:07Z".parse().expect("a time")
    }

    /// A line of so many seconds before that, by a clock in a zone.
    fn line(zone: &str, ago_s: i64, text: &str) -> String {
        let at = zone_of(zone).to_datetime(winter() - seconds(ago_s));
        format!("{} {text}\n", at.strftime("%Y-%m-%d %H:%M:%S,123"))
    }

    /// What a host in a zone says of a log, so many seconds after it was written, where ten minutes count.
    fn seen(text: &str, written: Timestamp, host: &str, later_s: i64) -> Option<(i64, i64)> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file.rewind().expect("rewound");
        file.set_modified(SystemTime::from(written)).expect("set");
        let now = written + seconds(later_s);
        let mut times = Times::new(zone_of(host), now, Some(now - seconds(600)));
        let found = elsewhere(&file, &mut times).expect("read");
        found.map(|found| (found.there / 60, found.here / 60))
    }

    #[test]
    fn lines_of_another_zone_are_known_by_the_time_at_which_their_file_was_written() {
        for (zone, host, minutes) in [
            ("UTC", "Europe/Berlin", Some((0, 60))),
            ("UTC", "America/New_York", Some((0, -300))),
            ("Asia/Kathmandu", "UTC", Some((345, 0))),
            ("Asia/Kolkata", "Europe/Berlin", Some((330, 60))),
            ("Pacific/Honolulu", "Pacific/Kiritimati", Some((-600, 840))),
            ("Europe/Berlin", "Europe/Paris", None),
        ] {
            let text = line(zone, 9_000, "ERROR old") + &line(zone, 3, "INFO fine");
            assert_eq!(seen(&text, winter(), host, 30), minutes, "{zone} on {host}");
        }
    }

    #[test]
    fn only_the_last_lines_tell_and_only_where_nothing_else_explains_them() {
        let (utc, berlin) = ("UTC", "Europe/Berlin");
        let at = |text: &str| seen(text, winter(), berlin, 30).is_some();
        let fine = line(utc, 0, "INFO fine");
        assert!(at(&(line(utc, 90_000, "ERROR old") + &fine.repeat(1_000))), "it is a long file");
        let trace =
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in a\nKeyError: 'x'\n";
        assert!(at(&format!("{fine}{trace}")), "a traceback belongs to the line above it");
        for (text, why) in [
            (line(berlin, 3_600, "ERROR old") + &line(berlin, 1, "INFO fine"), "it goes on"),
            (line(berlin, 3_000, "ERROR old"), "no zone is so far off"),
            (fine.clone() + "INFO:     \"GET / HTTP/1.1\" 200 OK\n", "the last has no time"),
            (fine.replace(",123", "Z"), "it says its zone"),
            (line(berlin, 2, "INFO fine") + &fine, "two write there"),
            (line(utc, 3_600, "INFO sums") + &line(utc, 0, "INFO sums"), "each tells of its hour"),
            (String::new(), "it is empty"),
        ] {
            assert!(!at(&text), "{why}");
        }
    }

    #[test]
    fn a_copy_and_a_file_that_nobody_writes_any_more_tell_nothing() {
        let fresh = tempfile::tempfile().and_then(|file| file.metadata()?.created()).expect("made");
        let made = Timestamp::try_from(fresh).expect("a time");
        let copy = zone_of("UTC").to_datetime(made).strftime("%Y-%m-%d %H:%M:%S x\n").to_string();
        assert_eq!(seen(&copy, made, "Asia/Tokyo", 30), None);
        let log = line("UTC", 0, "ERROR x");
        let of = |host: &str, later_s| seen(&log, winter(), host, later_s).is_some();
        assert!(of("Asia/Tokyo", 599) && !of("Asia/Tokyo", 601));
        // Behind UTC its errors count for hours more.
        assert!(of("America/New_York", 601) && !of("America/New_York", 5 * 3_600 + 601));
    }

    #[test]
    fn what_is_said_names_both_clocks_and_how_many_files() {
        let found = |there: i64| ("/a.log".into(), Elsewhere { there, here: -12_600 });
        let one = told(&[found(0)]).expect("a finding");
        assert_eq!(one.status(), Status::Unknown);
        let said = "the lines of /a.log seem to be written in another time zone: UTC, where this host's clock \
                    has UTC-3:30";
        assert_eq!(one.summary, said);
        let three = told(&[found(7_200), found(0), found(0)]).expect("a finding").summary;
        assert!(
            three.contains("/a.log and of 2 more files") && three.contains(": UTC+2,"),
            "{three}"
        );
        assert_eq!(told(&[]), None);
    }
}
