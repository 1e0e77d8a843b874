//! `nginx.status`: what the status page says.

use std::time::Duration;

use hostler_proto::{
    operation::NginxStatus,
    ops::{NginxStatus as Report, NginxStatusRequest},
    wire::{Failure, Finding, Status},
};
use hyper::Uri;
use tokio::time::{Instant, timeout};

use crate::{
    bounds::{Bound, Bounds},
    host::{blocking, processes},
    operation::{Answer, Context, Probe},
    ops::http::{
        self,
        request::{Seen, Trouble, get},
    },
};

/// Between the two readings.
const WINDOW: Duration = Duration::from_secs(1);
/// Longest for one answer.
const ANSWER: Duration = Duration::from_secs(5);

impl Probe for NginxStatus {
    async fn observe(request: NginxStatusRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        cx.host.policy.url(&request.url)?;
        let before = match page(&request.url).await {
            Ok(report) => report,
            Err(trouble) => return Ok(unread(&request.url, &trouble)),
        };
        let began = Instant::now();
        cx.pause(WINDOW).await;
        let after = match page(&request.url).await {
            Ok(report) => report,
            Err(trouble) => return Ok(unread(&request.url, &trouble)),
        };
        let window = began.elapsed().as_secs_f64();
        let after = match http::place(&request.url).is_some_and(|at| at.is_here()) {
            true => Report { since_s: blocking(|| Ok(master())).await?, ..after },
            false => after,
        };
        let answer = judge(&before, after, window);
        Ok(answer.evidence("http", format!("GET {}, twice", request.url)))
    }
}

/// When nginx's master process began; none where there are several, as while one takes another's place:
/// nobody can tell whose page it is. Blocks on /proc.
fn master() -> Option<f64> {
    let all = processes::with_arguments();
    let mut masters = all.iter().filter(|(_, arguments)| is_master(arguments));
    let (only, another) = (masters.next()?, masters.next());
    match another {
        None => processes::began_s(&only.0),
        Some(_) => None,
    }
}

/// By the title that it gives itself.
fn is_master(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|title| title.starts_with("nginx: master process"))
}

/// Why there is no page.
#[derive(Debug)]
enum Unread {
    /// Nobody is there, or nobody answers.
    Away(String),
    /// Somebody answers, and it is not the page.
    Other(String),
}

/// An answer for a page that was not read: without nginx it is critical, without the page unknown.
fn unread(url: &str, trouble: &Unread) -> Answer<Report> {
    let finding = match trouble {
        Unread::Away(why) => {
            let summary = format!("nginx does not answer at {url}: {why}");
            Finding::new(Status::Critical, url, summary)
                .why("it does not run, listens elsewhere, or hangs")
                .next("systemd status nginx")
        }
        Unread::Other(why) => {
            let summary = format!("the status page {url} cannot be read: {why}");
            Finding::new(Status::Unknown, url, summary)
                .why("add `location = /nginx_status { stub_status; allow 127.0.0.1; deny all; }`")
                .next("nginx test")
        }
    };
    Answer::unmeasured(finding).evidence("http", format!("GET {url}"))
}

async fn page(url: &str) -> Result<Report, Unread> {
    let uri: Uri = url.parse().map_err(|e| Unread::Other(format!("{e}")))?;
    let mut seen = Seen::default();
    match timeout(ANSWER, get(&uri, &mut seen)).await {
        Err(_) => return Err(Unread::Away("no answer in time".to_owned())),
        Ok(Err(trouble @ Trouble::Connect(..))) => return Err(Unread::Away(trouble.to_string())),
        Ok(Err(trouble)) => return Err(Unread::Other(trouble.to_string())),
        Ok(Ok(())) => {}
    }
    match seen.data.status {
        200 => read(&String::from_utf8_lossy(&seen.body))
            .ok_or_else(|| Unread::Other("it has another form".to_owned())),
        status => Err(Unread::Other(format!("it answers with {status}"))),
    }
}

/// The page of ngx_http_stub_status_module: four lines.
fn read(text: &str) -> Option<Report> {
    let mut lines = text.lines();
    let number = |word: &str| word.parse::<u64>().ok();
    let active = number(lines.next()?.strip_prefix("Active connections:")?.trim())?;
    let mut totals = lines.nth(1)?.split_whitespace().map(number);
    let (accepted, handled, requests) = (totals.next()??, totals.next()??, totals.next()??);
    let words: Vec<&str> = lines.next()?.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        number(words.get(at + 1)?)
    };
    Some(Report {
        active,
        reading: after("Reading:")?,
        writing: after("Writing:")?,
        waiting: after("Waiting:")?,
        accepted,
        dropped: accepted.saturating_sub(handled),
        requests,
        ..Report::default()
    })
}

fn judge(before: &Report, after: Report, window: f64) -> Answer<Report> {
    let dropped = after.dropped.saturating_sub(before.dropped);
    #[expect(clippy::cast_precision_loss, reason = "requests of a second")]
    let rate = after.requests.saturating_sub(before.requests) as f64 / window;
    let summary = format!("{} connections, {rate:.1} requests a second", after.active);
    #[expect(clippy::cast_precision_loss, reason = "a number of connections")]
    let active = after.active as f64;
    let report = Report { requests_per_s: rate, window_s: window, ..after };
    let answer = Answer::ok(summary, report)
        .figure("connections", "", active, "")
        .figure("requests", "", rate, "/s");
    match dropped {
        0 => answer,
        n => {
            let summary = format!("{n} connections were dropped within {window:.0} s");
            let finding = Finding::new(Status::Warning, "connections", summary)
                .why("worker_connections are used up: clients get no answer")
                .next("nginx access-report");
            #[expect(clippy::cast_precision_loss, reason = "connections of a second")]
            let dropped = n as f64;
            let bounds = Bounds::warning(Bound::fixed(1.0), "");
            answer.finding(bounds.told(finding, dropped, "connections"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Active connections: 291 \nserver accepts handled requests\n 16630948 16630946 \
                        31070465 \nReading: 6 Writing: 179 Waiting: 106 \n";

    #[tokio::test]
    async fn where_nothing_listens_it_is_critical_and_where_something_else_answers_unknown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = format!("http://127.0.0.1:{port}/nginx_status");
        let answer = unread(&url, &page(&url).await.expect_err("nobody is there"));
        assert_eq!((answer.status, answer.unmeasured.is_some()), (Status::Critical, true));
        assert_eq!(answer.findings[0].next, "systemd status nginx");
        let other = unread(&url, &Unread::Other("it answers with 404".into()));
        assert_eq!(other.status, Status::Unknown);
        assert!(other.findings[0].why.contains("stub_status"));
    }

    #[test]
    fn the_page_is_read_and_connections_that_were_dropped_meanwhile_are_told() {
        let before = read(PAGE).expect("read");
        assert_eq!((before.active, before.dropped, before.waiting), (291, 2, 106));
        let after = Report { dropped: 5, requests: before.requests + 10, ..before };
        let answer = judge(&before, after, 2.0);
        assert_eq!(answer.status, Status::Warning);
        assert!((answer.data.requests_per_s - 5.0).abs() < 0.01);
        assert_eq!(judge(&before, before, 1.0).status, Status::Ok);
        assert!(read("<html>").is_none());
    }

    #[test]
    fn the_counters_count_from_the_start_of_the_master_process_by_its_title() {
        let title = |text: &str| is_master(&[text.to_owned()]);
        assert!(title("nginx: master process /usr/sbin/nginx -g daemon on; master_process on;"));
        assert!(!title("nginx: worker process") && !title("vim nginx: master process"));
        let own = processes::one(std::process::id()).expect("this process");
        let began = processes::began_s(&own).expect("a time");
        let now = std::fs::metadata("/proc/self").expect("it").modified().expect("a time");
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - began).abs() < 3600.0, "{began} is long from {now}");
    }
}
