//! `http.check`: one request, judged.

use std::{net::SocketAddr, time::Duration};

use hostler_proto::{
    operation::{HttpCheck, Operation},
    ops::{HttpCheck as Report, HttpCheckRequest},
    wire::{ErrorCode, Failure, Finding, Status},
};
use hyper::Uri;
use tokio::time::Instant;

use super::{
    place,
    request::{BODY, Seen, Trouble, get},
    shown,
};
use crate::{
    amount::DAY_S,
    bounds::{Bound, Bounds},
    host::place::Place,
    operation::{Answer, Context, Probe},
};

const NAME: &str = <HttpCheck as Operation>::NAME;

impl Probe for HttpCheck {
    async fn observe(request: HttpCheckRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        cx.host.policy.url(&request.url)?;
        check(&request, cx.host.clock.now().as_second()).await
    }
}

/// Requests and judges; `now` is what the certificate's end is measured against.
async fn check(request: &HttpCheckRequest, now: i64) -> Result<Answer<Report>, Failure> {
    let uri: Uri = request.url.parse().map_err(|e| {
        let message = format!("{} is no URL: {e}", shown(&request.url));
        Failure::new(ErrorCode::InvalidArgument, message)
    })?;
    let mut seen = Seen::default();
    let begun = Instant::now();
    let longest = Duration::from_secs(request.timeout_s.into());
    let ended = match tokio::time::timeout(longest, get(&uri, &mut seen)).await {
        Ok(Err(Trouble::Url(problem))) => {
            let message = format!("{} cannot be used: {problem}", shown(&request.url));
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        Ok(Err(trouble @ Trouble::Roots(_))) => {
            return Err(Failure::new(ErrorCode::Unsupported, trouble.to_string())
                .hint("install the package ca-certificates"));
        }
        Ok(other) => Some(other),
        Err(_) => None,
    };
    seen.data.total_s = begun.elapsed().as_secs_f64();
    if let Some(end) = seen.certificate.ends_at() {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date are far below 2^53")]
        let left_s = (end - now) as f64;
        seen.data.certificate_left_s = Some(left_s);
    }
    Ok(judge(request, seen, ended))
}

/// What to make of it. `ended` is none when the time was over first.
fn judge(
    request: &HttpCheckRequest,
    seen: Seen,
    ended: Option<Result<(), Trouble>>,
) -> Answer<Report> {
    let url = shown(&request.url);
    let data = &seen.data;
    // Who was asked, and else who would have been.
    let at = match data.address.parse::<SocketAddr>() {
        Ok(address) => Some(Place::at(&address.ip().to_string(), address.port())),
        Err(_) => place(&request.url),
    };
    let (next, elsewhere) = match &at {
        Some(at) if !at.is_here() => {
            (String::new(), format!("; {at} is no address of this host: look there"))
        }
        at => (at.as_ref().map(Place::whose).unwrap_or_default(), String::new()),
    };
    let finding = |status: Status, summary: String, why: &str| {
        Finding::new(status, &url, summary).why(format!("{why}{elsewhere}")).next(&next)
    };
    let mut findings = Vec::new();
    match ended {
        None => {
            let summary =
                format!("{url} was not done within {} s: {}", request.timeout_s, seen.phase);
            let bounds =
                Bounds::critical(Bound::of(NAME, "timeout-s", request.timeout_s.into()), "");
            let late = finding(Status::Critical, summary, "users wait as long, or give up");
            findings.push(bounds.told(late, data.total_s, "s"));
        }
        Some(Err(trouble)) => {
            let why = match trouble {
                Trouble::Tls(..) => "clients that check certificates refuse it as well",
                _ => "it does not answer users either",
            };
            findings.push(finding(Status::Critical, format!("{url}: {trouble}"), why));
        }
        Some(Ok(())) => {
            let expected = match request.status {
                0 => (200..400).contains(&data.status),
                exact => data.status == exact,
            };
            if !expected {
                let wanted = match request.status {
                    0 => "200 to 399".to_owned(),
                    exact => exact.to_string(),
                };
                let summary = format!("{url} answered {} instead of {wanted}", data.status);
                findings.push(finding(Status::Critical, summary, "it does not do its work"));
            }
            if !request.expect.is_empty() && !holds(&seen.body, request.expect.as_bytes()) {
                let read = match seen.body.len() {
                    BODY => format!("the first {} KiB", BODY / 1024),
                    bytes => format!("{bytes} bytes"),
                };
                let summary = format!("{url} does not hold \"{}\" in {read}", request.expect);
                findings.push(finding(Status::Critical, summary, "it answers something else"));
            }
            let slow = Bound::of(NAME, "slow-ms", request.slow_ms.into());
            let bounds = Bounds::warning(slow.times(1e-3), "");
            let took_s = data.first_byte_s;
            if let Some(status) = bounds.above(took_s) {
                let (took, most) = (took_s * 1e3, request.slow_ms);
                let summary = format!("{url} took {took:.0} ms to answer; {most} are too many");
                let slow = finding(status, summary, "users notice such waits");
                findings.push(bounds.told(slow, took_s, "s"));
            }
        }
    }
    if let Some(left_s) = data.certificate_left_s {
        let days = left_s / DAY_S;
        let limit = Bound::of(NAME, "certificate-days", request.certificate_days.into());
        let limit = limit.times(DAY_S);
        let bounds = Bounds::new(limit, limit.times(1.0 / 3.0), "");
        let summary = match days < 0.0 {
            true => format!("the certificate of {url} ended {:.0} days ago", -days),
            false => format!("the certificate of {url} ends in {days:.0} days"),
        };
        let why =
            "clients refuse the connection from its end on: renew it, and reload what serves it";
        findings.extend(
            bounds.below(left_s).map(|s| bounds.told(finding(s, summary, why), left_s, "s")),
        );
    }
    let mut summary = match findings.first() {
        Some(finding) => finding.summary.clone(),
        None => format!("{url} answered {} in {:.0} ms", data.status, data.total_s * 1e3),
    };
    if findings.is_empty() && !data.location.is_empty() {
        summary += &format!(" and redirects to {}", data.location);
    }
    let answer = Answer::ok(summary, seen.data).evidence("http", format!("GET {url}"));
    findings.into_iter().fold(answer, Answer::finding)
}

fn holds(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;

    /// A server that answers everybody the same; none never answers. Ends with the set.
    async fn server(tasks: &mut JoinSet<()>, answer: Option<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        tasks.spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                match &answer {
                    Some(text) => drop(stream.write_all(text.as_bytes()).await),
                    None => open.push(stream),
                }
            }
        });
        address
    }

    fn reply(status: &str, headers: &str, body: &str) -> Option<String> {
        Some(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    fn request(url: String) -> HttpCheckRequest {
        HttpCheckRequest {
            url,
            timeout_s: 1,
            slow_ms: 900,
            certificate_days: 21,
            ..HttpCheckRequest::default()
        }
    }

    async fn checked(request: HttpCheckRequest) -> Answer<Report> {
        check(&request, 1_767_225_600).await.expect("an answer")
    }

    #[tokio::test]
    async fn an_endpoint_that_answers_is_well_and_every_phase_is_measured() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, reply("200 OK", "", "status: ok")).await;
        let url = format!("http://{at}/health?deep=1");
        let answer = checked(HttpCheckRequest { expect: "ok".into(), ..request(url) }).await;
        assert_eq!(answer.status, Status::Ok, "{}", answer.summary);
        let data = answer.data;
        assert_eq!((data.status, data.body_bytes), (200, 10));
        assert_eq!(data.address, at.to_string());
        assert!(data.connect_s > 0.0 && data.first_byte_s > 0.0, "{data:?}");
        assert!(data.total_s >= data.connect_s + data.first_byte_s, "{data:?}");
        assert_eq!(data.certificate_left_s, None);
    }

    #[tokio::test]
    async fn a_wrong_status_is_critical_unless_it_is_the_one_expected() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, reply("500 Oops", "", "")).await;
        let answer = checked(request(format!("http://{at}/"))).await;
        assert_eq!(answer.status, Status::Critical);
        assert!(answer.summary.ends_with("answered 500 instead of 200 to 399"));
        let expected = HttpCheckRequest { status: 500, ..request(format!("http://{at}/")) };
        assert_eq!(checked(expected).await.status, Status::Ok);
    }

    #[tokio::test]
    async fn a_redirection_is_shown_and_not_followed() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, reply("302 Found", "location: /login\r\n", "")).await;
        let answer = checked(request(format!("http://{at}"))).await;
        assert_eq!((answer.status, answer.data.location.as_str()), (Status::Ok, "/login"));
    }

    #[tokio::test]
    async fn a_body_without_the_expected_text_is_critical() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, reply("200 OK", "", "maintenance")).await;
        let url = format!("http://{at}/");
        let answer = checked(HttpCheckRequest { expect: "ready".into(), ..request(url) }).await;
        assert_eq!(answer.status, Status::Critical);
    }

    #[tokio::test]
    async fn of_an_endless_body_only_the_beginning_is_read() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, reply("200 OK", "", &"x".repeat(BODY * 3))).await;
        let answer = checked(request(format!("http://{at}/"))).await;
        assert_eq!(answer.data.body_bytes, BODY as u64);
    }

    #[tokio::test]
    async fn an_endpoint_that_never_answers_is_critical_and_says_where_it_hangs() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, None).await;
        let answer = checked(request(format!("http://{at}/"))).await;
        assert_eq!(answer.status, Status::Critical);
        assert!(answer.summary.contains("waiting for the first byte"), "{}", answer.summary);
        assert!(answer.data.connect_s > 0.0);
    }

    #[tokio::test]
    async fn slow_answers_are_a_warning() {
        let mut seen = Seen::default();
        (seen.data.status, seen.data.first_byte_s) = (200, 0.95);
        let answer = judge(&request("http://web/".into()), seen, Some(Ok(())));
        assert_eq!(answer.status, Status::Warning);
        let found = &answer.findings[0];
        assert_eq!((found.value, found.warning, found.unit.as_str()), (Some(0.95), Some(0.9), "s"));
        assert_eq!(found.source, "parameter");
    }

    #[test]
    fn what_to_look_at_next_is_who_has_the_port_where_that_is_this_hosts() {
        let judged = |url: &str, address: &str| {
            let mut seen = Seen::default();
            (seen.data.status, seen.data.address) = (502, address.to_owned());
            judge(&request(url.into()), seen, Some(Ok(()))).findings.remove(0)
        };
        assert_eq!(judged("http://127.0.0.1:8000/", "").next, "net port-owner 8000");
        assert_eq!(judged("https://web.example/", "127.0.0.1:443").next, "net port-owner 443");
        let elsewhere = judged("https://web.example/", "192.0.2.7:443");
        assert_eq!(elsewhere.next, "");
        let why = "it does not do its work; 192.0.2.7:443 is no address of this host: look there";
        assert_eq!(elsewhere.why, why);
        assert!(judged("http://me:hunter2@127.0.0.1:1/", "").why.find("hunter2").is_none());
    }

    #[tokio::test]
    async fn a_closed_port_and_a_server_that_speaks_something_else_are_critical_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let at = listener.local_addr().expect("address");
        drop(listener);
        let answer = checked(request(format!("http://{at}/"))).await;
        assert_eq!(answer.status, Status::Critical);
        assert!(answer.summary.contains("cannot be connected to"), "{}", answer.summary);
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks, Some("SSH-2.0-OpenSSH_9.2\r\n".into())).await;
        assert_eq!(checked(request(format!("http://{at}/"))).await.status, Status::Critical);
        assert_eq!(checked(request(format!("https://{at}/"))).await.status, Status::Critical);
    }

    #[test]
    fn a_certificate_near_its_end_is_a_warning_and_very_near_critical() {
        for (days, status) in [
            (90.0, Status::Ok),
            (20.0, Status::Warning),
            (6.0, Status::Critical),
            (-3.0, Status::Critical),
        ] {
            let mut seen = Seen::default();
            (seen.data.status, seen.data.certificate_left_s) = (200, Some(days * DAY_S));
            let answer = judge(&request("https://web/".into()), seen, Some(Ok(())));
            assert_eq!(answer.status, status, "{days}");
            for found in answer.findings {
                assert_eq!((found.value, found.unit.as_str()), (Some(days * DAY_S), "s"));
                assert_eq!((found.warning, found.source.as_str()), (Some(21.0 * DAY_S), "default"));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused() {
        let failure = check(&request("http://".into()), 0).await.expect_err("no host");
        assert_eq!(failure.code(), ErrorCode::InvalidArgument);
    }
}
