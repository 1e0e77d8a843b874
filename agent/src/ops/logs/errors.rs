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
    zones::{self, Elsewhere},
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
        let Looked { opened, counted, unreadable, elsewhere } = loop {
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
            let (request, host) = (request.clone(), Arc::clone(&cx.host));
            blocking(move || {
                let (news, kept) = known::remember(&past, &request, &counted, now_us);
                if news.since_us.is_none() {
                    past.forget_others(known::REMEMBERED, &known::of_checks(&host));
                }
                Ok((counted, news, kept))
            })
        };
        let (counted, news, kept) = compared.await?;
        let bytes = read.load(Ordering::Relaxed);
        let mut findings: Vec<_> = unreadable.into_iter().map(unread).collect();
        findings.extend(zones::told(&elsewhere));
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

/// What a look at files gave.
struct Looked {
    opened: Vec<PathBuf>,
    counted: Counted,
    unreadable: Vec<(PathBuf, String)>,
    /// Those whose lines are as old as another clock says.
    elsewhere: Vec<(PathBuf, Elsewhere)>,
}

fn look(
    host: &Host,
    paths: &[PathBuf],
    times: &Times,
    read: &AtomicU64,
    stop: &(dyn Fn() -> bool + Sync),
) -> Looked {
    let (mut opened, mut unreadable, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
    let mut own = times.clone();
    for path in paths {
        // One after the other: each is closed before the next is opened.
        match logs::open(host, path) {
            Ok((_, file)) => {
                match zones::elsewhere(&file, &mut own) {
                    Ok(found) => elsewhere.extend(found.map(|found| (path.clone(), found))),
                    Err(error) => unreadable.push((path.clone(), error.to_string())),
                }
                opened.push(path.clone());
            }
            Err(failure) => unreadable.push((path.clone(), failure.message)),
        }
    }
    let sources = opened.iter().map(|path| Packed::open(host, path, stop));
    let (counted, errors) = scan(sources, times, read, stop);
    for (number, error) in errors {
        let path = opened.get(number).cloned().unwrap_or_default();
        if !unreadable.iter().any(|(known, _)| *known == path) {
            unreadable.push((path, error.to_string()));
        }
    }
    Looked { opened, counted, unreadable, elsewhere }
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
    let first = match news.since_us {
        None => "; it was looked at first now, so that none of them counts as new",
        Some(_) => "",
    };
    let summary = format!(
        "{} errors of {} kinds in {} lines{most}{first}",
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
    use std::path::Path;

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
        assert!(first.summary.contains("looked at first now"), "{}", first.summary);
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

    #[test]
    fn a_file_whose_lines_another_clock_dates_is_told_beside_what_was_counted() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().canonicalize().expect("real").join("a.log");
        let written: jiff::Timestamp = "2099-01-15T11:20:07Z".parse().expect("a time");
        std::fs::write(&path, "2099-01-15 11:20:06 ERROR x\n").expect("written");
        let file = std::fs::File::options().append(true).open(&path).expect("open");
        file.set_modified(written.into()).expect("set");
        let since = written - jiff::SignedDuration::from_mins(10);
        let look = |zone: &str| {
            let zone = jiff::tz::TimeZone::get(zone).expect("a zone");
            let times = Times::new(zone, written, Some(since));
            let host = Host::showing(directory.path());
            look(&host, std::slice::from_ref(&path), &times, &AtomicU64::new(0), &|| false)
        };
        let berlin = look("Europe/Berlin");
        assert_eq!((berlin.counted.errors, berlin.elsewhere.len()), (0, 1), "it is taken for old");
        let utc = look("UTC");
        assert_eq!((utc.counted.errors, utc.elsewhere.len()), (1, 0));
    }

    fn context(host: Host) -> Context {
        let (events, _) = tokio::sync::mpsc::channel(1);
        Context::new(Arc::new(host), tokio_util::sync::CancellationToken::new(), events)
    }

    /// A log whose line was written by the host's clock, or by one two hours away, and later than it was made.
    fn log(cx: &Context, path: &Path, away: bool) {
        let written = cx.host.clock.now() + jiff::SignedDuration::from_secs(90);
        let zone = jiff::tz::TimeZone::system();
        let behind = if zone.to_offset(written).seconds() < 0 { 2 } else { -2 };
        let hours = if away { behind } else { 0 };
        let at = zone.to_datetime(written) + jiff::SignedDuration::from_hours(hours);
        std::fs::write(path, format!("{} ERROR x\n", at.strftime("%Y-%m-%d %H:%M:%S")))
            .expect("written");
        let file = std::fs::File::options().append(true).open(path).expect("open");
        file.set_modified(written.into()).expect("set");
    }

    #[tokio::test]
    async fn an_answer_says_whose_clock_dates_the_lines_and_a_check_keeps_what_it_knows() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().canonicalize().expect("real").join("a.log");
        let mut host = Host::showing(directory.path());
        host.policy.state_dir = directory.path().join("state");
        let stack = format!("[[logs]]\nname = \"a\"\npaths = [{path:?}]\n");
        host.stack = toml::from_str(&stack).expect("a stack file");
        let cx = context(host);
        let ask = async |since_s| {
            let path = vec![path.display().to_string()];
            let request = LogsErrorsRequest { path, since_s, ..LogsErrorsRequest::default() };
            let request = crate::operation::completed::<LogsErrors>(&request).expect("a request");
            LogsErrors::observe(request, &cx).await.expect("an answer")
        };
        log(&cx, &path, true);
        let away = ask(600).await;
        assert_eq!(away.status, Status::Unknown, "{away:?}");
        assert!(away.summary.contains("in another time zone"), "{away:?}");
        log(&cx, &path, false);
        let known = ask(600).await;
        assert_eq!((known.status, known.data.new_since_s.is_some()), (Status::Ok, true));
        for by_hand in 0..2 * known::REMEMBERED as u64 {
            assert_eq!(ask(1_000 + by_hand).await.data.new_since_s, None, "a first look");
        }
        assert!(ask(600).await.data.new_since_s.is_some(), "it is a check's");
        assert_eq!(ask(1_000).await.data.new_since_s, None, "that was long ago");
    }
}
