//! `nginx.access-report`: the requests of the last minutes, from the access log.

use std::{collections::HashMap, path::Path, sync::Arc};

use super::form::{Request, read};
use crate::{
    bounds::{Bound, Bounds},
    host::{blocking, logs},
    operation::{Answer, Context, Probe},
    ops::logs::backwards::Backwards,
    order::Order as _,
};
use hostler_proto::{
    operation::{NginxAccessReport, Operation},
    ops::{NginxAccessReport as Report, NginxAccessReportRequest, PathCount, StatusCount},
    wire::{ErrorCode, Failure, Finding, Status},
};

/// Paths that are told apart.
const PATHS: usize = 10_000;
/// Times that are kept for the percentiles; of more, every n-th.
const TIMES: usize = 200_000;

impl Probe for NginxAccessReport {
    async fn observe(
        request: NginxAccessReportRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let host = Arc::clone(&cx.host);
        let now = cx.host.clock.now().as_second();
        let since = now - i64::from(request.since_s);
        let (asked, timed) = (request.path.clone(), request.format == "combined-time");
        let stop = cx.cancelled.clone();
        let seen = blocking(move || {
            let (_, file) = logs::open(&host, Path::new(&asked))?;
            let read = || -> std::io::Result<Seen> {
                let length = file.metadata()?.len();
                let mut lines = Backwards::new(&file, length);
                let mut seen = Seen::default();
                // Requests are written when they end, so that times go a little back and forth.
                let mut old = 0;
                while let Some((_, line)) = lines.next()?
                    && old < 100
                    && !stop.is_cancelled()
                {
                    match read(&String::from_utf8_lossy(&line), timed) {
                        None if line.is_empty() => {}
                        None => seen.unread += 1,
                        Some(request) if request.at < since => old += 1,
                        Some(request) => seen.add(&request),
                    }
                    seen.before |= old > 0;
                    if seen.unread > 1000 && seen.requests == 0 {
                        break;
                    }
                }
                Ok(seen)
            };
            read().map_err(|e| {
                Failure::new(ErrorCode::HostFault, format!("{asked} cannot be read: {e}"))
            })
        })
        .await?;
        let answer = judge(seen, &request, now);
        Ok(answer.evidence("file", format!("{}, the last {} s", request.path, request.since_s)))
    }
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    bytes: u64,
    unread: u64,
    statuses: HashMap<&'static str, u64>,
    /// Failures, all, and milliseconds of each path.
    paths: HashMap<String, (u64, u64, f64)>,
    times: Vec<f64>,
    step: u64,
    /// The log has requests from before the time that was asked for.
    before: bool,
    /// When the first of them was, in seconds since 1970.
    first: Option<i64>,
}

impl Seen {
    fn add(&mut self, request: &Request<'_>) {
        self.requests += 1;
        self.first = Some(self.first.map_or(request.at, |first| first.min(request.at)));
        self.bytes += request.bytes;
        let class = match request.status {
            499 => "499",
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=498 => "4xx",
            500..=599 => "5xx",
            // 000 where the client left before there was an answer.
            _ => "other",
        };
        *self.statuses.entry(class).or_default() += 1;
        let path = kind(request.path);
        let path = match self.paths.len() < PATHS || self.paths.contains_key(&path) {
            true => path,
            false => "(others)".to_owned(),
        };
        let of = self.paths.entry(path).or_default();
        of.0 += u64::from(class == "5xx");
        of.1 += 1;
        let Some(took) = request.took_s else { return };
        of.2 += took;
        if self.requests.is_multiple_of(self.step + 1) {
            self.times.push(took);
            if self.times.len() >= TIMES {
                self.step = self.step * 2 + 1;
                let mut at = 0;
                self.times.retain(|_| {
                    at += 1;
                    at % 2 == 0
                });
            }
        }
    }
}

/// The common form of a path: parts with digits, and long ones, become `*`.
fn kind(path: &str) -> String {
    let part = |part: &str| match part.bytes().any(|b| b.is_ascii_digit()) || part.len() > 40 {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    let parts: Vec<_> = path.split('/').take(8).map(part).collect();
    parts.join("/").chars().filter(|c| !c.is_control()).take(120).collect()
}

#[expect(clippy::cast_precision_loss, reason = "shares of requests")]
fn judge(mut seen: Seen, request: &NginxAccessReportRequest, now: i64) -> Answer<Report> {
    // A log that was rotated of late does not reach back so far.
    let first = seen.first.filter(|_| !seen.before).map(|at| (now - at).max(1));
    let covered = first.and_then(|s| u32::try_from(s).ok()).unwrap_or(request.since_s);
    let covered = covered.min(request.since_s);
    let failed = seen.statuses.get("5xx").copied().unwrap_or(0);
    let share = failed as f64 * 100.0 / seen.requests.max(1) as f64;
    seen.times.sort_by(f64::total_cmp);
    let percentile = |p: usize| {
        seen.times
            .get((seen.times.len() * p / 100).min(seen.times.len().saturating_sub(1)))
            .copied()
    };
    let top = |mut paths: Vec<PathCount>, order: fn(&PathCount) -> f64| {
        paths.order_by(|a, b| order(b).total_cmp(&order(a)).then_with(|| a.path.cmp(&b.path)));
        paths.truncate(request.top as usize);
        paths
    };
    let failing = seen.paths.iter().filter(|(_, of)| of.0 > 0);
    let failing =
        failing.map(|(path, of)| PathCount { path: path.clone(), count: of.0, total_s: 0.0 });
    let slowest = seen.paths.iter().filter(|(_, of)| of.2 > 0.0);
    let slowest =
        slowest.map(|(path, of)| PathCount { path: path.clone(), count: of.1, total_s: of.2 });
    let mut statuses: Vec<_> = seen
        .statuses
        .iter()
        .map(|(status, count)| StatusCount { status: (*status).to_owned(), count: *count })
        .collect();
    statuses.order_by(|a, b| a.status.cmp(&b.status));
    let report = Report {
        requests: seen.requests,
        requests_per_s: seen.requests as f64 / f64::from(covered.max(1)),
        covered_s: covered.into(),
        statuses,
        errors_percent: share,
        bytes: seen.bytes,
        p50_s: percentile(50),
        p95_s: percentile(95),
        p99_s: percentile(99),
        failing: top(failing.collect(), |p| p.count as f64),
        slowest: top(slowest.collect(), |p| p.total_s),
        unread: seen.unread,
    };
    let short = if covered < request.since_s { ", since the log begins" } else { "" };
    let summary =
        format!("{} requests in {covered} s{short}, {share:.1} % failed", report.requests);
    let mut findings = Vec::new();
    let name = <NginxAccessReport as Operation>::NAME;
    let bound = Bound::of(name, "errors-percent", request.errors_percent.into());
    let bounds = Bounds::critical(bound, "awesome-prometheus-alerts (5 %)");
    // Of few requests a share says nothing.
    if let Some(status) = bounds.above(share).filter(|_| report.requests >= request.requests) {
        let most =
            report.failing.first().map_or(String::new(), |p| format!("; most often {}", p.path));
        let summary = format!("{share:.1} % of the answers are 500 or above{most}");
        let finding = Finding::new(status, "5xx", summary)
            .why("so many of the users' requests fail")
            .next("logs errors /var/log/nginx/error.log");
        findings.push(bounds.told(finding, share, "percent"));
    }
    if report.unread > 0 {
        let status = if report.requests == 0 { Status::Unknown } else { Status::Ok };
        let summary = format!("{} lines have another form", report.unread);
        let finding = Finding::new(status, "format", summary);
        findings.push(
            finding
                .why("the log is not written in the format combined")
                .next(format!("logs tail {} --lines 5", request.path)),
        );
    }
    let rate = report.requests_per_s;
    let answer = Answer::ok(summary, report)
        .figure("requests", "", rate, "/s")
        .figure("failed", "", share, "percent");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::completed;

    fn line(path: &str, status: u16, more: &str) -> String {
        format!(
            "127.0.0.1 - - [26/Nov/2026:06:12:01 +0100] \"GET {path} HTTP/1.1\" {status} 612 \"-\" \"curl/8\"{more}"
        )
    }

    #[test]
    fn a_line_is_read_with_its_time_zone_and_without_its_query() {
        let text = line("/a/17?token=secret", 502, " 0.250");
        let request = read(&text, true).expect("read");
        assert_eq!((request.status, request.bytes, request.path), (502, 612, "/a/17"));
        assert_eq!(request.at, 1_795_669_921);
        assert_eq!(request.took_s, Some(0.25));
        assert_eq!(kind(request.path), "/a/*");
        assert!(read("garbage", false).is_none());
    }

    #[test]
    fn failures_count_from_a_number_of_requests_on_and_name_their_path() {
        let request = NginxAccessReportRequest {
            since_s: 300,
            errors_percent: 5,
            top: 10,
            requests: 50,
            ..NginxAccessReportRequest::default()
        };
        let judged = |request: &NginxAccessReportRequest, ok: usize, bad: usize| {
            let mut seen = Seen::default();
            for (path, status, count) in [("/fine", 200, ok), ("/users/7", 500, bad)] {
                for _ in 0..count {
                    seen.add(&read(&line(path, status, " 0.1"), true).expect("read"));
                }
            }
            judge(seen, request, 1_795_669_921 + 60)
        };
        let of = |ok, bad| judged(&request, ok, bad);
        assert_eq!(of(30, 10).status, Status::Ok, "too few to judge");
        let few = NginxAccessReportRequest { requests: 40, ..request.clone() };
        assert_eq!(judged(&few, 30, 10).status, Status::Critical);
        let bad = of(90, 10);
        assert_eq!(bad.status, Status::Critical);
        assert!(bad.summary.contains("/users/*"), "{}", bad.summary);
        assert_eq!(bad.data.p95_s, Some(0.1));
    }

    #[test]
    fn the_slowest_paths_are_those_that_took_the_most_time_together() {
        // As `log_format` with $request_time at its end writes it: seconds with three places.
        let log = [
            ("/report/1", 200, "2.517"),
            ("/report/2", 200, "3.001"),
            ("/health", 200, "0.000"),
            ("/api/users?page=2", 200, "0.120"),
            ("/api/users", 499, "0.380"),
            ("/api/login", 200, "-"),
        ];
        let request = completed::<NginxAccessReport>(&NginxAccessReportRequest {
            format: "combined-time".into(),
            top: 2,
            ..Default::default()
        });
        let mut seen = Seen::default();
        for (path, status, took) in log {
            let text = line(path, status, &format!(" {took}"));
            seen.add(&read(&text, true).expect("read"));
        }
        let report = judge(seen, &request.expect("defaults"), 1_795_669_921 + 60).data;
        let slowest: Vec<_> =
            report.slowest.iter().map(|p| (p.path.as_str(), p.count, p.total_s)).collect();
        assert_eq!(slowest, [("/report/*", 2, 5.518), ("/api/users", 2, 0.5)]);
        assert_eq!((report.p50_s, report.p99_s), (Some(0.38), Some(3.001)));
    }

    #[test]
    fn who_left_before_there_was_an_answer_is_no_failure_of_the_server() {
        let request =
            NginxAccessReportRequest { since_s: 300, errors_percent: 5, ..Default::default() };
        let mut seen = Seen::default();
        for (status, count) in [(200, 60), (0, 30), (600, 1), (499, 9)] {
            for _ in 0..count {
                let text = line("/", status, "").replace(" 0 612", " 000 612");
                seen.add(&read(&text, false).expect("read"));
            }
        }
        let answer = judge(seen, &request, 1_795_669_921 + 60);
        assert_eq!((answer.status, answer.data.errors_percent), (Status::Ok, 0.0));
        let counts: Vec<_> =
            answer.data.statuses.iter().map(|s| (s.status.as_str(), s.count)).collect();
        assert_eq!(counts, [("2xx", 60), ("499", 9), ("other", 31)]);
    }

    #[test]
    fn a_log_that_was_rotated_of_late_is_not_counted_as_if_it_went_back_further() {
        let request =
            NginxAccessReportRequest { since_s: 300, errors_percent: 5, ..Default::default() };
        let of = |before| {
            let mut seen = Seen { before, ..Seen::default() };
            for _ in 0..120 {
                seen.add(&read(&line("/", 200, ""), false).expect("read"));
            }
            judge(seen, &request, 1_795_669_921 + 60)
        };
        let short = of(false);
        assert_eq!((short.data.covered_s, short.data.requests_per_s), (60, 2.0));
        assert!(short.summary.contains("since the log begins"), "{}", short.summary);
        assert_eq!(of(true).data.covered_s, 300);
    }
}
