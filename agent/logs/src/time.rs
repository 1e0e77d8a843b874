//! The time of a line, in the forms in which servers write it. Most of a log is never asked for its
//! time: only lines that tell of an error are.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::counted::Moment;

/// Bytes of a line in which its time is looked for.
const WITHIN: usize = 256;
/// Colons of a line that are looked at: a JSON object has many.
const COLONS: usize = 40;
/// Keys under which structured lines have their time.
const KEYS: [&[u8]; 10] = [
    b"time",
    b"ts",
    b"timestamp",
    b"@timestamp",
    b"date",
    b"datetime",
    b"asctime",
    b"t",
    b"@t",
    b"eventTime",
];
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
const DAY: i64 = 86_400;
/// Zones have changed their offset at multiples of this for a hundred years.
const QUARTER: i64 = 900;

/// What times of lines are compared with, and the zone in which lines without one are written.
#[derive(Debug, Clone)]
pub struct Times {
    zone: TimeZone,
    /// The earliest that counts, in seconds since 1970, and the same on the wall clock here.
    since: Option<(i64, i64)>,
    /// Now, on the wall clock here.
    now: i64,
    /// The last quarter of an hour that was asked for, and the offset in it.
    known: Option<(i64, i64)>,
}

/// A time that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// On the wall clock here, as it is shown and counted.
    pub at: Moment,
    /// It is before what counts.
    pub early: bool,
}

/// What a line writes, before its zone was looked at.
struct Written {
    /// Seconds since 1970 of the digits, as if they were UTC.
    digits: i64,
    /// Seconds by which they are ahead of UTC, where the line says so.
    ahead: Option<i64>,
    /// Where the message goes on, when it is the line's first word.
    end: Option<usize>,
}

impl Times {
    /// Lines count from `since` on, all when there is none.
    pub fn new(zone: TimeZone, now: Timestamp, since: Option<Timestamp>) -> Self {
        let wall = |at: Timestamp| at.as_second() + i64::from(zone.to_offset(at).seconds());
        let since = since.map(|at| (at.as_second(), wall(at)));
        Self { since, now: wall(now), known: None, zone }
    }

    /// The time of a line, and what follows it; none and the whole line where none can be read.
    pub fn split<'l>(&mut self, line: &'l [u8]) -> (Option<Time>, &'l [u8]) {
        let Some(written) = written(line, self.now) else { return (None, line) };
        let Written { digits, ahead, end } = written;
        let (wall, early) = match ahead {
            None => (digits, self.since.is_some_and(|(_, wall)| digits < wall)),
            Some(ahead) => {
                let at = digits - ahead;
                (at + self.offset(at), self.since.is_some_and(|(since, _)| at < since))
            }
        };
        let rest = end.and_then(|end| line.get(end..)).unwrap_or(line);
        (moment(wall).map(|at| Time { at, early }), rest)
    }

    /// The seconds that the digits of a line's time say, as if they were UTC; `None` within where the line
    /// tells its zone.
    pub fn digits(&self, line: &[u8]) -> Option<Option<i64>> {
        let written = written(line, self.now)?;
        Some(written.ahead.is_none().then_some(written.digits))
    }

    /// The earliest that counts, on the wall clock here; none where nothing is left out by its age.
    pub fn since(&self) -> Option<i64> {
        self.since.map(|(_, wall)| wall)
    }

    /// How far the wall clock here is ahead of UTC at some time.
    pub fn offset(&mut self, at: i64) -> i64 {
        let quarter = at.div_euclid(QUARTER);
        match self.known {
            Some((known, offset)) if known == quarter => offset,
            _ => {
                let offset = Timestamp::from_second(at)
                    .map_or(0, |at| i64::from(self.zone.to_offset(at).seconds()));
                self.known = Some((quarter, offset));
                offset
            }
        }
    }
}

fn written(line: &[u8], now: i64) -> Option<Written> {
    let head = &line[..line.len().min(WITHIN)];
    for at in memchr::memchr_iter(b':', head).take(COLONS) {
        if let Some(clock) = clock(head, at)
            && let Some(written) = dated(head, at - 2, clock, now)
        {
            return Some(written);
        }
    }
    epoch(head)
}

/// Seconds of a day, from `HH:MM:SS` with its first colon there.
fn clock(line: &[u8], colon: usize) -> Option<i64> {
    let text = line.get(colon.checked_sub(2)?..colon + 6)?;
    if text[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(text, 0)?, two(text, 3)?, two(text, 6)?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// The date that stands before a clock that begins there (or, as Apache has it, after it).
fn dated(line: &[u8], from: usize, clock: i64, now: i64) -> Option<Written> {
    let before = &line[..from];
    let after = from + 8;
    let (days, begin, end) = if let Some(days) = iso(before) {
        (days, from - 11, after)
    } else if let Some(days) = before.len().checked_sub(12).and_then(|b| {
        // 26/Nov/2026:
        let d = &before[b..];
        let marks = d[2] == b'/' && d[6] == b'/' && d[11] == b':';
        marks.then(|| days(number(&d[7..11])?, month(&d[3..6])?, two(d, 0)?)).flatten()
    }) {
        (days, from - 12, after)
    } else if let Some(days) = before.len().checked_sub(12).and_then(|b| {
        // 26 Nov 2026
        let d = &before[b..];
        let marks = d[2] == b' ' && d[6] == b' ' && d[11] == b' ';
        marks.then(|| days(number(&d[7..11])?, month(&d[3..6])?, two(d, 0)?)).flatten()
    }) {
        (days, from - 12, after)
    } else {
        // Nov 26, with the year after the clock, or without one.
        let begin = before.len().checked_sub(7)?;
        let d = &before[begin..];
        let marks = d[3] == b' ' && d[6] == b' ';
        let (month, day) = (month(&d[..3])?, if d[4] == b' ' { digit(d[5])? } else { two(d, 4)? });
        let rest = &line[after + fraction(&line[after..])..];
        let year = rest.get(..5).filter(|y| y[0] == b' ').and_then(|y| number(&y[1..]));
        let days = match (marks, year) {
            (false, _) => return None,
            (true, Some(year)) => days(year, month, day)?,
            (true, None) => {
                // A day that is still to come was that of last year.
                let this = civil(now)?.year().into();
                let at = days(this, month, day)?;
                if at * DAY + clock > now + DAY { days(this - 1, month, day)? } else { at }
            }
        };
        let skip = if year.is_some() { 5 } else { 0 };
        let first = |b: &usize| *b == 0 || line[*b - 1] == b'[';
        let weekday = begin.checked_sub(4).filter(|b| line[begin - 1] == b' ' && first(b));
        (days, weekday.unwrap_or(begin), after + fraction(&line[after..]) + skip)
    };
    let prefix = &line[..begin];
    if !leads(prefix, line[from - 1] == b':') {
        return None;
    }
    let end = end + fraction(line.get(end..)?);
    let (ahead, zone) = zone(&line[end..]);
    let end = end + zone;
    let first = prefix.is_empty() || prefix == b"[";
    let end = first.then(|| end + usize::from(line.get(end) == Some(&b']')));
    Some(Written { digits: days * DAY + clock, ahead, end })
}

/// The days of `2026-11-26 `, `2026-11-26T` or `2026/11/26 ` at the end of a text.
fn iso(before: &[u8]) -> Option<i64> {
    let d: &[u8; 11] = before.last_chunk()?;
    let marks = matches!(d[4], b'-' | b'/') && d[7] == d[4] && matches!(d[10], b' ' | b'T' | b't');
    if marks { days(number(&d[..4])?, two(d, 5)?, two(d, 8)?) } else { None }
}

/// Whether what follows is the time of the line, and not one of which it speaks: it comes first, after
/// one word (a level, a process), after the priority of syslog, in brackets, or under a key that
/// says so.
fn leads(prefix: &[u8], access: bool) -> bool {
    let bare = prefix.strip_suffix(b"[").unwrap_or(prefix);
    if bare.is_empty() || access && bare.len() < prefix.len() {
        return true;
    }
    let word = bare.trim_ascii_end();
    let spaced = word.len() < bare.len() || word.ends_with(b">") && word.starts_with(b"<");
    if spaced && !word.contains(&b' ') && !word.starts_with(b"{") {
        return true;
    }
    let value = bare.strip_suffix(b"\"").unwrap_or(bare).trim_ascii_end();
    let Some(key) = value.strip_suffix(b"=").or_else(|| value.strip_suffix(b":")) else {
        return false;
    };
    let key = key.strip_suffix(b"\"").unwrap_or(key);
    let begin = key.iter().rposition(|b| matches!(b, b'"' | b' ' | b',' | b'{' | b'\t'));
    KEYS.contains(&&key[begin.map_or(0, |at| at + 1)..])
}

/// Seconds, or thousandths, since 1970: as the first word, or under a key.
fn epoch(head: &[u8]) -> Option<Written> {
    let first = usize::from(head.first() == Some(&b'['));
    let read = |at: usize| {
        let digits = head.get(at..)?.iter().take_while(|b| b.is_ascii_digit()).count();
        let text = head.get(at..at + digits).filter(|t| t.first() == Some(&b'1'))?;
        let divisor = match digits {
            10 => 1,
            13 => 1000,
            16 => 1_000_000,
            19 => 1_000_000_000,
            _ => return None,
        };
        Some((number(text)? / divisor, at + digits))
    };
    if let Some((digits, end)) = read(first) {
        let end = end + fraction(&head[end..]);
        let whole = matches!(head.get(end), None | Some(b' ' | b']' | b'\t'));
        let end = end + usize::from(head.get(end) == Some(&b']'));
        return whole.then_some(Written { digits, ahead: Some(0), end: Some(end) });
    }
    let marks = head.iter().enumerate().filter(|(_, b)| matches!(b, b':' | b'='));
    for (at, _) in marks.take(COLONS) {
        let space = usize::from(head.get(at + 1) == Some(&b' '));
        let quote = usize::from(head.get(at + 1 + space) == Some(&b'"'));
        let from = at + 1 + space + quote;
        if let Some((digits, _)) = read(from)
            && leads(&head[..from], false)
        {
            return Some(Written { digits, ahead: Some(0), end: None });
        }
    }
    None
}

/// How long a fraction of a second is.
fn fraction(rest: &[u8]) -> usize {
    match rest {
        [b'.' | b',', b, ..] if b.is_ascii_digit() => {
            1 + rest[1..].iter().take_while(|b| b.is_ascii_digit()).count()
        }
        _ => 0,
    }
}

/// Seconds by which a zone is ahead of UTC, and how long it is with the space before it. Of names only
/// those of UTC itself are one: others are what the host's zone is called.
fn zone(rest: &[u8]) -> (Option<i64>, usize) {
    let space = usize::from(rest.first() == Some(&b' '));
    let text = &rest[space..];
    let ends = |at: usize| text.get(at).is_none_or(|b| !b.is_ascii_alphanumeric());
    if space == 0 && matches!(text.first(), Some(b'Z' | b'z')) && ends(1) {
        return (Some(0), 1);
    }
    if (text.starts_with(b"UTC") || text.starts_with(b"GMT")) && ends(3) {
        return (Some(0), space + 3);
    }
    let sign = match text.first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return (None, 0),
    };
    let Some(hours) = two(text, 1).filter(|h| *h <= 14) else { return (None, 0) };
    let (minutes, length) = match text.get(3) {
        Some(b':') => (two(text, 4), 6),
        Some(b) if b.is_ascii_digit() => (two(text, 3), 5),
        // Of two digits alone after a space nobody knows what they are.
        _ if space == 0 => (Some(0), 3),
        _ => (None, 0),
    };
    match minutes.filter(|m| *m < 60 && ends(length)) {
        Some(minutes) => (Some(sign * (hours * 3600 + minutes * 60)), space + length),
        None => (None, 0),
    }
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

fn two(text: &[u8], at: usize) -> Option<i64> {
    Some(digit(*text.get(at)?)? * 10 + digit(*text.get(at + 1)?)?)
}

fn number(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0_i64, |n, b| n.checked_mul(10)?.checked_add(digit(*b)?))
}

fn month(name: &[u8]) -> Option<i64> {
    let at = MONTHS.chunks(3).position(|m| m == name)?;
    i64::try_from(at + 1).ok()
}

/// Days since 1970 of a date (Howard Hinnant's days_from_civil).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1..=9999).contains(&year) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

fn civil(seconds: i64) -> Option<DateTime> {
    Timestamp::from_second(seconds).ok().map(|at| TimeZone::UTC.to_datetime(at))
}

/// `2026-11-26 06:12:01`
fn moment(seconds: i64) -> Option<Moment> {
    let at = civil(seconds).filter(|at| at.year() >= 0)?;
    let mut text = *b"0000-00-00 00:00:00";
    let mut put = |from: usize, to: usize, mut value: u16| {
        for byte in text[from..to].iter_mut().rev() {
            *byte = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, at.year().unsigned_abs());
    for (from, part) in
        [(5, at.month()), (8, at.day()), (11, at.hour()), (14, at.minute()), (17, at.second())]
    {
        put(from, from + 2, part.unsigned_abs().into());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(zone: &str, since: &str) -> Times {
        let zone = TimeZone::get(zone).expect("a zone");
        let now = "2026-11-26T12:00:00Z".parse().expect("a time");
        Times::new(zone, now, (!since.is_empty()).then(|| since.parse().expect("a time")))
    }

    fn read(zone: &str, line: &str) -> (String, String) {
        let mut times = times(zone, "");
        let (time, rest) = times.split(line.as_bytes());
        let text = |t: &[u8]| String::from_utf8_lossy(t).into_owned();
        (time.map_or(String::new(), |t| text(&t.at)), text(rest))
    }

    #[test]
    fn the_time_of_a_line_is_read_in_the_forms_of_the_usual_servers() {
        for line in [
            "2026-11-26 06:12:01,5 x",
            "[2026-11-26T06:12:01] x",
            "2026/11/26 06:12:01 [error] 7#7: x",
            "2026-11-26T05:12:01Z x",
            "2026-11-26T05:12:01.123456789Z stderr F x",
            "2026-11-26T05:12:01+00:00 x",
            "2026-11-26 07:12:01.5+0200 x",
            "2026-11-26 05:12:01.123 UTC [77] ERROR:  x",
            "2026-11-26 06:12:01.123 CET [77] ERROR:  x",
            "2026-11-26 07:12:01 +0200 x",
            "Nov 26 06:12:01 host x[7]: y",
            "<34>Nov 26 06:12:01 host x[7]: y",
            "<34>1 2026-11-26T05:12:01.003Z host x - - y",
            "[Thu Nov 26 06:12:01.123456 2026] [core:error] x",
            "Thu Nov 26 06:12:01 2026 x",
            "127.0.0.1 - - [26/Nov/2026:05:12:01 +0000] \"GET / HTTP/1.1\" 500",
            "77:M 26 Nov 2026 06:12:01.123 # x",
            "ERROR 2026-11-26 06:12:01,123 x",
            "INFO [2026-11-26 06:12:01,123] x",
            r#"{"level":"error","time":"2026-11-26T05:12:01Z","msg":"x"}"#,
            r#"time="2026-11-26T05:12:01Z" level=error msg=x"#,
            r#"{"level": "error", "ts": 1795669921.5, "msg": "x"}"#,
            r#"{"level":50,"time":1795669921000,"msg":"error"}"#,
            "ts=1795669921 level=error",
            "1795669921.123 error",
            "[1795669921] error",
        ] {
            assert_eq!(read("Europe/Berlin", line).0, "2026-11-26 06:12:01", "{line}");
        }
        for line in [
            "2026-11-26",
            "",
            "20261126 06:12:01 abcd",
            "ERROR no backup since 2026-11-20 06:12:01",
            "{\"level\":\"error\",\"expires\":\"2026-11-26T05:12:01Z\"}",
            "ERROR user=1795669921 is gone",
            "2026-13-26 06:12:01 x",
        ] {
            assert_eq!(read("Europe/Berlin", line).0, "", "{line}");
        }
    }

    #[test]
    fn what_follows_the_time_is_the_message_and_a_time_within_stays_in_it() {
        for (line, message) in [
            ("2026-11-26 06:12:01,123 ERROR x", " ERROR x"),
            ("[2026-11-26T06:12:01.5Z] ERROR x", " ERROR x"),
            ("2026-11-26 06:12:01 +0200 x", " x"),
            ("Nov 26 06:12:01 host x", " host x"),
            ("[Thu Nov 26 06:12:01.1 2026] [core:error] x", " [core:error] x"),
            ("ERROR 2026-11-26 06:12:01,123 x", "ERROR 2026-11-26 06:12:01,123 x"),
        ] {
            assert_eq!(read("UTC", line).1, message, "{line}");
        }
    }

    #[test]
    fn a_line_is_early_by_its_own_zone_and_by_the_hosts_where_it_has_none() {
        let mut times = times("Asia/Tokyo", "2026-11-26T06:00:00Z");
        let mut early = |line: &str| times.split(line.as_bytes()).0.expect(line).early;
        assert!(early("2026-11-26T05:59:59Z x") && !early("2026-11-26T06:00:00Z x"));
        assert!(early("2026-11-26 14:59:59 x") && !early("2026-11-26 15:00:00 x"));
        assert!(!early("2026-11-26T01:00:01-05:00 x"));
    }

    #[test]
    fn a_day_without_a_year_that_is_still_to_come_was_last_years() {
        assert_eq!(read("UTC", "Dec 31 23:59:59 host x").0, "2025-12-31 23:59:59");
        assert_eq!(read("UTC", "Nov  6 23:59:59 host x").0, "2026-11-06 23:59:59");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
            times("UTC", "").split(&line);
        }

        #[test]
        fn nor_does_one_that_looks_like_a_time(
            line in "[<\\[\"{]?[a-zN]{0,5}[ :=\"\\[]{0,3}(Nov|26|2026|1795669921)?[-/ T]?(11|Nov|6 )?[-/ T]?(26|2026)?[ T:]{0,2}[0-9]{1,2}:[0-9]{2}:[0-9]{2}[.,Z+ -]{0,2}[0-9]{0,4}\\]?",
        ) {
            times("UTC", "").split(line.as_bytes());
        }

        #[test]
        fn days_are_those_of_the_calendar(at in -2_000_000_000_i64..4_000_000_000) {
            let date = civil(at).expect("a date");
            let (year, month, day) = (date.year().into(), date.month().into(), date.day().into());
            prop_assert_eq!(days(year, month, day), Some(at.div_euclid(DAY)));
        }
    }
}
