//! `logs.errors`: errors of log files, by kind of message.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hostler_logs::{Counted, Kind, Times, scan};
use hostler_proto::{
    operation::{LogsErrors, Operation},
    ops::{ErrorKind, HourCount, LogsErrors as Report, LogsErrorsRequest},
    wire::{ErrorCode, Failure, Finding, Status},
};

use super::{
    known::{self, New, News},
    packed::Packed,
};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{Host, blocking, logs},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Hours that are told.
const HOURS: usize = 48;
/// How often it is told how far it has come.
const BEAT: Duration = Duration::from_millis(500);

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
        let past = known::past(&cx.host.policy.state_dir, &request);
        let compared = {
            let request = request.clone();
            blocking(move || {
                let (news, kept) = known::remember(&past, &request, &counted, now_us);
                Ok((counted, news, kept))
            })
        };
        let (counted, news, kept) = compared.await?;
        let bytes = read.load(Ordering::Relaxed);
        let mut findings: Vec<_> = unreadable.into_iter().map(unread).collect();
        findings.extend(forgetful(news.since_us.is_none(), kept));
        Ok(judge(&request, &opened, counted, findings, &news, bytes, now_us))
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

fn unread((path, why): (PathBuf, String)) -> Finding {
    let path = path.display().to_string();
    let summary = format!("{path} was not read to its end: {why}");
    let finding = Finding::new(Status::Unknown, path, summary);
    finding.why("errors may stand there that are not counted")
}

/// What is said where nothing can be kept, so that every look is the first one; one that is kept still
/// serves when it cannot be replaced.
fn forgetful(first: bool, kept: io::Result<()>) -> Option<Finding> {
    let error = kept.err()?;
    tracing::warn!(%error, "the kinds of errors are not kept for comparison");
    first.then(|| {
        let summary = format!("which errors are new cannot be told: {error}");
        Finding::new(Status::Unknown, "new", summary)
            .why("the kinds that are known are kept in the agent's state directory, which cannot be written")
            .next("disk usage")
    })
}

fn judge(
    request: &LogsErrorsRequest,
    paths: &[PathBuf],
    counted: Counted,
    more: Vec<Finding>,
    news: &News,
    bytes: u64,
    now_us: i64,
) -> Answer<Report> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kinds =
        counted.kinds.into_iter().map(|(template, kind)| (news.of(&template), template, kind));
    let mut kinds: Vec<(Option<New>, Vec<u8>, Kind)> = kinds.collect();
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let ago = |at_us: i64| amount::span((now_us - at_us).max(0) as f64 / 1e6);
    let last = news.since_us.map(ago).unwrap_or_default();
    let bound =
        Bound::of(<LogsErrors as Operation>::NAME, "new-warning", request.new_warning.into());
    let bounds = Bounds::warning(bound, "");
    kinds.order_by(|(a, ta, ka), (b, tb, kb)| {
        (b.is_some(), kb.count, ta).cmp(&(a.is_some(), ka.count, tb))
    });
    let mut findings = Vec::new();
    for (new, template, kind) in &kinds {
        let Some(New::Since(came_us)) = *new else { continue };
        let why = match came_us == now_us {
            true => format!("it was not there when these files were looked at last, {last} ago"),
            // However rare it has become: it would come and go otherwise.
            false => format!("it came up {} ago, and goes on", ago(came_us)),
        };
        let template: String = text(template).chars().take(120).collect();
        let summary = format!("new, {} times: {template}", kind.count);
        let file = paths.get(kind.file).map(|p| p.display().to_string()).unwrap_or_default();
        let finding = Finding::new(Status::Warning, &file, summary)
            .why(why)
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
    findings.extend(more);
    let told = kinds.iter().take(request.top as usize).map(|(new, template, kind)| ErrorKind {
        template: text(template),
        count: kind.count,
        new: new.is_some(),
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
    fn what_is_new_comes_first_and_is_a_warning_while_it_goes_on() {
        let request = LogsErrorsRequest {
            path: vec!["/a.log".into()],
            top: 10,
            new_warning: 5,
            new_for_s: 3600,
            ..LogsErrorsRequest::default()
        };
        let state = tempfile::tempdir().expect("directory");
        let now_us = std::cell::Cell::new(1_700_000_000_000_000);
        let look = |templates: &[(&str, u64)]| {
            let counted = counted(templates);
            now_us.set(now_us.get() + 300_000_000);
            let past = known::past(state.path(), &request);
            let (news, kept) = known::remember(&past, &request, &counted, now_us.get());
            kept.expect("kept");
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
        #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
        let before = (now_us.get() - 300_000_000) as f64 / 1e6;
        assert_eq!(second.data.new_since_s, Some(before));
        let found = &second.findings[0];
        assert!(found.why.ends_with("looked at last, 5 min ago"), "{}", found.why);
        assert_eq!(
            (found.value, found.warning, found.source.as_str()),
            (Some(7.0), Some(5.0), "default")
        );
        let third = look(&[("old", 100), ("new", 2)]);
        assert_eq!(third.status, Status::Warning, "it goes on: {third:?}");
        assert_eq!(third.findings[0].why, "it came up 5 min ago, and goes on");
        assert_eq!(look(&[("old", 100), ("slow", 1)]).status, Status::Ok, "it is over");
        assert_eq!(look(&[("old", 100), ("slow", 9)]).status, Status::Warning, "it began slowly");
    }

    #[test]
    fn where_nothing_can_be_kept_it_is_unknown_what_is_new() {
        let denied = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let first = forgetful(true, denied()).expect("a finding");
        assert_eq!(first.status(), Status::Unknown);
        assert_eq!(forgetful(false, denied()), None, "the older one serves");
        assert_eq!(forgetful(true, Ok(())), None);
    }
}
