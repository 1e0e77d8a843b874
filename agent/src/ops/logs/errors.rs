//! `logs.errors`: errors of log files, by kind of message.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hostler_proto::{
    operation::{LogsErrors, Operation},
    ops::{ErrorKind, HourCount, LogsErrors as Report, LogsErrorsRequest},
    wire::{ErrorCode, Failure, Finding, Status},
};

use super::{
    counted::{Counted, KINDS, Kind},
    packed::Packed,
    scan::scan,
    time::Times,
};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{Host, blocking, logs},
    operation::{Answer, Context, Probe},
};

/// Sets of files of which it is remembered what was there.
const REMEMBERED: usize = 64;
/// Hours that are told.
const HOURS: usize = 48;
/// How often it is told how far it has come.
const BEAT: Duration = Duration::from_millis(500);

/// What was there when files were looked at last, and when that was, by a hash of what was asked for. It lasts
/// as long as the agent runs.
static LAST: Mutex<Vec<(u64, Last)>> = Mutex::new(Vec::new());

/// A look.
struct Last {
    /// Microseconds since 1970.
    at_us: i64,
    /// Hashes of the templates that were known then.
    known: HashSet<u64>,
}

/// What is new, and since which look.
#[derive(Debug, Default)]
struct News {
    /// Hashes of templates.
    kinds: HashSet<u64>,
    /// When the same was asked for last, in microseconds since 1970; none the first time.
    since_us: Option<i64>,
}

impl Probe for LogsErrors {
    async fn observe(request: LogsErrorsRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let (patterns, host) = (request.path.clone(), Arc::clone(&cx.host));
        let paths = blocking(move || logs::expand(&host, &patterns)).await?;
        if paths.is_empty() {
            let message = format!("no file fits {}", request.path.join(", "));
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        let times = times(request.since_s, cx);
        let read = Arc::new(AtomicU64::new(0));
        let counting = {
            let (paths, host, read) = (paths.clone(), Arc::clone(&cx.host), Arc::clone(&read));
            let cancelled = cx.cancelled.clone();
            blocking(move || Ok(look(&host, &paths, &times, &read, &|| cancelled.is_cancelled())))
        };
        tokio::pin!(counting);
        let (opened, counted, unreadable) = loop {
            tokio::select! {
                done = &mut counting => break done?,
                () = tokio::time::sleep(BEAT) => {
                    let bytes = read.load(Ordering::Relaxed);
                    cx.progress("reading", bytes >> 20, 0, "MiB");
                }
            }
        };
        if cx.cancelled.is_cancelled() {
            return Err(Failure::new(ErrorCode::Cancelled, "logs.errors was cancelled"));
        }
        let now_us = cx.host.clock.now().as_microsecond();
        let news = remember(&request, &counted, now_us);
        let bytes = read.load(Ordering::Relaxed);
        Ok(judge(&request, &opened, counted, unreadable, &news, bytes, now_us))
    }
}

/// What times of lines are compared with.
fn times(since_s: u64, cx: &Context) -> Times {
    let now = cx.host.clock.now();
    let span = jiff::SignedDuration::from_secs(i64::try_from(since_s).unwrap_or(i64::MAX));
    let since = (since_s > 0).then(|| now.saturating_sub(span).ok()).flatten();
    // Lines without a zone carry the host's own time.
    Times::new(jiff::tz::TimeZone::system(), now, since)
}

type Unreadable = Vec<(PathBuf, String)>;

fn look(
    host: &Host,
    paths: &[PathBuf],
    times: &Times,
    read: &AtomicU64,
    stop: &(dyn Fn() -> bool + Sync),
) -> (Vec<PathBuf>, Counted, Unreadable) {
    let mut unreadable = Unreadable::new();
    let mut opened = Vec::new();
    for path in paths {
        // One after the other: each is closed before the next is opened.
        match logs::open(host, path) {
            Ok((_, file)) => {
                drop(file);
                opened.push(path.clone());
            }
            Err(failure) => unreadable.push((path.clone(), failure.message)),
        }
    }
    let sources = opened.iter().map(|path| Packed::open(host, path, stop));
    let (counted, errors) = scan(sources, times, read, stop);
    for (number, error) in errors {
        let path = opened.get(number).cloned().unwrap_or_default();
        unreadable.push((path, error.to_string()));
    }
    (opened, counted, unreadable)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The templates that were not there when the same was asked for last; none the first time.
fn remember(request: &LogsErrorsRequest, counted: &Counted, now_us: i64) -> News {
    // A check and a person who look at the same files do not take each other's news away.
    let asked = hash(&(&request.path, request.since_s, request.new_warning));
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = last.iter().position(|(key, _)| *key == asked).map(|at| last.remove(at).1);
    let all = || counted.kinds.iter().map(|(template, kind)| (hash(template), kind.count));
    let (news, known) = match before {
        None => (News::default(), all().map(|(hash, _)| hash).collect()),
        Some(Last { at_us, mut known }) => {
            let kinds: HashSet<u64> =
                all().map(|(hash, _)| hash).filter(|h| !known.contains(h)).collect();
            // What is too rare to be told is still new when there is more of it.
            let told = all().filter(|(_, count)| *count >= u64::from(request.new_warning));
            known.extend(told.map(|(hash, _)| hash));
            // Of an endless number of kinds those of now are the ones that count.
            if known.len() > 2 * KINDS {
                known = all().map(|(hash, _)| hash).collect();
            }
            (News { kinds, since_us: Some(at_us) }, known)
        }
    };
    if last.len() == REMEMBERED {
        last.remove(0);
    }
    last.push((asked, Last { at_us: now_us, known }));
    news
}

fn judge(
    request: &LogsErrorsRequest,
    paths: &[PathBuf],
    counted: Counted,
    unreadable: Unreadable,
    news: &News,
    bytes: u64,
    now_us: i64,
) -> Answer<Report> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut kinds: Vec<(Vec<u8>, Kind)> = counted.kinds.into_iter().collect();
    let new = |template: &Vec<u8>| news.kinds.contains(&hash(template));
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let ago = |at_us: i64| amount::span((now_us - at_us).max(0) as f64 / 1e6);
    let ago = news.since_us.map(ago).unwrap_or_default();
    let bound =
        Bound::of(<LogsErrors as Operation>::NAME, "new-warning", request.new_warning.into());
    let bounds = Bounds::warning(bound, "");
    kinds.sort_by(|(a, ka), (b, kb)| (new(b), kb.count, a).cmp(&(new(a), ka.count, b)));
    let mut findings = Vec::new();
    for (template, kind) in
        kinds.iter().filter(|(t, k)| new(t) && k.count >= u64::from(request.new_warning))
    {
        let template: String = text(template).chars().take(120).collect();
        let summary = format!("new, {} times: {template}", kind.count);
        let file = paths.get(kind.file).map(|p| p.display().to_string()).unwrap_or_default();
        let finding = Finding::new(Status::Warning, &file, summary)
            .why(format!("it was not there when these files were looked at last, {ago} ago"))
            .next(format!("logs tail {file} --match error"));
        #[expect(clippy::cast_precision_loss, reason = "a number of lines")]
        findings.push(bounds.told(finding, kind.count as f64, "lines"));
        if findings.len() == 10 {
            break;
        }
    }
    // Whoever asks for the last minutes would take errors of last year for some of now.
    if request.since_s > 0 && counted.timeless * 2 > counted.errors {
        let summary = format!(
            "{} of {} errors stand in lines without a time that can be read, and may be older",
            counted.timeless, counted.errors
        );
        let finding = Finding::new(Status::Unknown, "time", summary)
            .why("only lines whose time is known can be left out by their age")
            .next(format!("logs tail {} --match error", request.path.join(" ")));
        findings.push(finding);
    }
    for (path, why) in unreadable {
        let path = path.display().to_string();
        let summary = format!("{path} was not read to its end: {why}");
        let finding = Finding::new(Status::Unknown, path, summary);
        findings.push(finding.why("errors may stand there that are not counted"));
    }
    let told = kinds.iter().take(request.top as usize).map(|(template, kind)| ErrorKind {
        template: text(template),
        count: kind.count,
        new: new(template),
        first: text(kind.first.as_ref().map_or(&[], |at| at.as_slice())),
        last: text(kind.last.as_ref().map_or(&[], |at| at.as_slice())),
        file: paths.get(kind.file).map(|p| p.display().to_string()).unwrap_or_default(),
    });
    let mut hours: Vec<_> = counted.hours.into_iter().collect();
    hours.sort();
    let last = hours.len().saturating_sub(HOURS);
    let hours = hours.drain(last..).map(|(hour, count)| HourCount { hour: text(&hour), count });
    let report = Report {
        errors: counted.errors,
        lines: counted.lines,
        bytes,
        others: counted.others,
        files: u32::try_from(paths.len()).unwrap_or(u32::MAX),
        hours: hours.collect(),
        kinds: told.collect(),
        #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
        new_since_s: news.since_us.map(|at_us| at_us as f64 / 1e6),
    };
    let most = report.kinds.first().map_or(String::new(), |k| {
        format!("; most often ({}): {}", k.count, k.template.chars().take(100).collect::<String>())
    });
    let summary = format!(
        "{} errors of {} kinds in {} lines{most}",
        report.errors,
        kinds.len(),
        report.lines
    );
    #[expect(clippy::cast_precision_loss, reason = "a number of lines")]
    let errors = report.errors as f64;
    let shown: Vec<_> = request.path.iter().map(String::as_str).collect();
    let answer = Answer::ok(summary, report)
        .evidence("file", shown.join(" "))
        .figure("errors", "", errors, "lines");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(templates: &[(&str, u64)]) -> Counted {
        let kind =
            |(t, n): &(&str, u64)| (t.as_bytes().to_vec(), Kind { count: *n, ..Kind::default() });
        let kinds = templates.iter().map(kind).collect();
        let errors = templates.iter().map(|(_, n)| n).sum();
        Counted { kinds, errors, ..Counted::default() }
    }

    #[test]
    fn errors_of_which_nobody_knows_when_they_were_are_unknown_where_an_age_was_asked_for() {
        let look = |since_s, timeless| {
            let request = LogsErrorsRequest {
                path: vec!["/a.log".into()],
                since_s,
                top: 10,
                ..LogsErrorsRequest::default()
            };
            let counted = Counted { timeless, ..counted(&[("a", 10)]) };
            judge(&request, &[PathBuf::from("/a.log")], counted, Vec::new(), &News::default(), 0, 0)
        };
        assert_eq!(look(0, 10).status, Status::Ok);
        assert_eq!(look(600, 5).status, Status::Ok);
        let answer = look(600, 6);
        assert_eq!(answer.status, Status::Unknown);
        assert!(answer.findings[0].summary.starts_with("6 of 10 errors"), "{answer:?}");
    }

    #[test]
    fn what_is_new_since_the_last_look_comes_first_and_is_a_warning_when_it_is_frequent() {
        let request = LogsErrorsRequest {
            path: vec!["/only/for/this/test".into()],
            top: 10,
            new_warning: 5,
            ..LogsErrorsRequest::default()
        };
        let now_us = std::cell::Cell::new(0);
        let look = |templates: &[(&str, u64)]| {
            let counted = counted(templates);
            now_us.set(now_us.get() + 300_000_000);
            let news = remember(&request, &counted, now_us.get());
            let paths = [PathBuf::from("/a.log")];
            judge(&request, &paths, counted, Vec::new(), &news, 0, now_us.get())
        };
        let first = look(&[("old", 100)]);
        assert_eq!(first.status, Status::Ok, "the first look has nothing to compare with");
        assert_eq!(first.data.new_since_s, None);
        let second = look(&[("old", 100), ("new", 7)]);
        assert_eq!(
            (second.status, second.data.kinds[0].template.as_str()),
            (Status::Warning, "new")
        );
        assert!(second.data.kinds[0].new && !second.data.kinds[1].new);
        assert_eq!(second.data.new_since_s, Some(300.0));
        let found = &second.findings[0];
        assert!(found.why.ends_with("looked at last, 5 min ago"), "{}", found.why);
        assert_eq!(
            (found.value, found.warning, found.source.as_str()),
            (Some(7.0), Some(5.0), "default")
        );
        assert_eq!(look(&[("old", 100), ("new", 9)]).status, Status::Ok);
        assert_eq!(look(&[("old", 100), ("slow", 1)]).status, Status::Ok);
        assert_eq!(look(&[("old", 100), ("slow", 9)]).status, Status::Warning, "it began slowly");
    }
}
