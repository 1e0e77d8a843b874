use std::convert::Infallible;

use futures_util::stream::BoxStream;
use hostler_core::{
    call::Mode,
    clock::{InvocationId, SystemClock},
    link::{self, Keepalive},
};
use hostler_proto::wire::{LogLine, Outcome};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use tonic::body::Body;

use super::*;
use crate::links::{Joined, Offer};

const DEADLINE: Duration = Duration::from_secs(3);

fn event(event: event::Event) -> Event {
    Event { event: Some(event) }
}

fn line() -> Event {
    event(event::Event::Line(LogLine { text: "x".repeat(200), ..LogLine::default() }))
}

fn done() -> Event {
    event(event::Event::Outcome(Outcome::default()))
}

/// A linked host that answers every call with these events, and then says nothing more.
async fn host(links: &Links, name: &str, events: Vec<Event>) -> HostName {
    let answer = move |_: http::Request<Incoming>| {
        let frames = events.clone().into_iter().map(|event| {
            let message = event.encode_to_vec();
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            let frame = [&[0][..], &length, &message].concat();
            Ok::<_, Infallible>(Frame::data(Bytes::from(frame)))
        });
        let frames: BoxStream<'static, _> = stream::iter(frames).chain(stream::pending()).boxed();
        let response = http::Response::builder().header("content-type", "application/grpc");
        let response = response.body(Body::new(StreamBody::new(frames))).expect("a response");
        async move { Ok::<_, Infallible>(response) }
    };
    let (agent, controller) = tokio::io::duplex(64 << 10);
    let keepalive = Keepalive::default();
    tokio::spawn(link::serve(agent, tower::service_fn(answer), keepalive, std::future::pending()));
    let (channel, driver) = link::connect(controller, keepalive).await.expect("linked");
    tokio::spawn(driver);
    let offer = Offer {
        host: name.parse().expect("a name"),
        address: "127.0.0.1:1".into(),
        key: hostler_core::pki::Fingerprint::of(b"key"),
        instance: name.to_owned(),
        boot: "one".into(),
        channel,
        cut: CancellationToken::new(),
    };
    let host = offer.host.clone();
    assert!(matches!(links.join(offer), Joined::Linked(_)));
    host
}

fn job(parallel: usize) -> Job {
    Job {
        path: PathAndQuery::from_static("/hostler.ops.v1.Logs/Tail"),
        request: Bytes::new(),
        call: Call {
            invocation: InvocationId::new(&SystemClock),
            mode: Mode::Apply,
            plan_digest: None,
            operator: "alice".into(),
            timeout: Some(DEADLINE),
        },
        deadline: Some(DEADLINE),
        parallel,
        acts: false,
    }
}

fn open() -> (watch::Sender<Begin>, Gate) {
    let (decide, begin) = watch::channel(Begin::Now);
    (decide, Gate { stop: CancellationToken::new(), begin })
}

fn delivery(report: &Report) -> Option<Delivery> {
    report.end.map(|end| end.delivery)
}

fn code(report: &Report) -> Option<ErrorCode> {
    match &report.event.event {
        Some(event::Event::Failure(failure)) => Some(failure.code()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_reads_is_not_the_hosts() {
    let links = Links::default();
    let events = (0..2000).map(|_| line()).chain([done()]).collect();
    let hosts = vec![host(&links, "web-1", events).await];
    let (_decide, gate) = open();
    let (out, mut reports) = mpsc::channel(1);
    tokio::spawn(async move { relay(&links, hosts, job(1), gate, out).await });
    let mut lines = 0;
    let end = loop {
        if lines % 500 == 0 {
            tokio::time::sleep(DEADLINE * 20).await;
        }
        let report = reports.recv().await.expect("an end");
        if report.end.is_some() {
            break report;
        }
        lines += 1;
    };
    assert_eq!((lines, delivery(&end), code(&end)), (2000, Some(Delivery::Reported), None));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_says_nothing_is_given_up_after_its_deadline_and_makes_room() {
    let links = Links::default();
    let silent = host(&links, "web-1", vec![line()]).await;
    let well = host(&links, "web-2", vec![done()]).await;
    let (_decide, gate) = open();
    let (out, mut reports) = mpsc::channel(8);
    let began = Instant::now();
    relay(&links, vec![silent, well], job(1), gate, out).await;
    assert!(began.elapsed() <= DEADLINE + MARGIN + Duration::from_secs(1));
    assert!(reports.recv().await.expect("a line").end.is_none());
    let given_up = reports.recv().await.expect("an end");
    assert_eq!(
        (delivery(&given_up), code(&given_up)),
        (Some(Delivery::Accepted), Some(ErrorCode::Timeout))
    );
    assert_eq!(code(&reports.recv().await.expect("the other")), None);
}

#[tokio::test(start_paused = true)]
async fn no_host_is_begun_while_the_audit_fails_and_none_at_all_when_it_goes_on_failing() {
    let links = Links::default();
    let mut hosts = Vec::new();
    for name in ["web-1", "web-2", "web-3"] {
        hosts.push(host(&links, name, vec![done()]).await);
    }
    let unbegun = (Some(ErrorCode::Cancelled), Some(Delivery::Undelivered));
    for (decision, expected) in
        [(Begin::Now, (None, Some(Delivery::Reported))), (Begin::Never, unbegun)]
    {
        let (decide, gate) = open();
        decide.send_replace(Begin::Later);
        let (out, mut reports) = mpsc::channel(8);
        let (links, hosts) = (links.clone(), hosts.clone());
        tokio::spawn(async move { relay(&links, hosts, job(1), gate, out).await });
        assert!(timeout(DEADLINE * 20, reports.recv()).await.is_err());
        decide.send_replace(decision);
        let mut ends = Vec::new();
        while let Some(report) = reports.recv().await {
            ends.push((code(&report), delivery(&report)));
        }
        assert_eq!(ends, [expected; 3]);
    }
}

#[test]
fn a_follow_begins_everywhere_at_once_or_not_at_all() {
    assert_eq!(width(true, 700, 1, 512), Ok(700));
    assert_eq!(width(false, 700, 0, 512), Ok(512));
    assert_eq!(width(false, 700, 1, 512), Ok(1));
    assert_eq!(width(false, 700, 600, 512), Ok(512));
    let refused = width(true, FOLLOWED + 1, 0, 512).expect_err("too many");
    assert_eq!(refused.code(), ErrorCode::LimitExceeded);
    assert!(refused.to_string().contains("--on"), "{refused}");
}
