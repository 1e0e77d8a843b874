//! One connection between agent and controller, with the HTTP/2 roles swapped.
//!
//! The agent dials and then serves; the controller accepts and then calls ([`channel`]). What is
//! called, and by whom, is not known here. Deadlines are enforced by those who dispatch, not by the
//! transport.

mod begins;
pub mod channel;

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

pub use self::channel::{Broken, Channel, connect};

/// A stream's window. One stalled reader may hold this much, and no more, of the connection's.
const STREAM_WINDOW: u32 = 64 << 10;
/// The connection's window: room for one more stream while the readers of all others have stopped.
const CONNECTION_WINDOW: u32 = (CONCURRENT_STREAMS + 1) * STREAM_WINDOW;
/// What may wait to be written, for each stream.
const SEND_BUFFER: usize = 64 << 10;
/// Calls that one peer may have open on one link.
const CONCURRENT_STREAMS: u32 = 64;
/// Both ends of both directions keep no headers for later: those that differ from call to call would
/// fill four tables of 4 KiB on every link, and those that do not are a hundred bytes.
const HEADER_TABLE: u32 = 0;
/// Headers of one call.
const HEADER_BYTES: u32 = 16 << 10;

/// How soon a silent peer counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
}

/// Why durations make no keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a keepalive's interval and timeout must both be at least one second")]
pub struct InvalidKeepalive;

impl Keepalive {
    /// A ping after each `interval` of silence; the peer is dead when none of its bytes arrive for
    /// `timeout` after that.
    ///
    /// # Errors
    /// When one of them is below a second.
    pub fn new(interval: Duration, timeout: Duration) -> Result<Self, InvalidKeepalive> {
        let second = Duration::from_secs(1);
        match interval >= second && timeout >= second {
            true => Ok(Self { interval, timeout }),
            false => Err(InvalidKeepalive),
        }
    }

    /// The longest that a silently dead peer goes unnoticed.
    pub fn detection(&self) -> Duration {
        self.interval + self.timeout
    }
}

impl Default for Keepalive {
    /// 20 s and 8 s: dead after 28 s at most.
    fn default() -> Self {
        Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(8) }
    }
}

/// Serves calls on a connection until it ends; `shutdown` lets running calls finish first.
///
/// # Errors
/// When the connection broke instead of being closed.
pub async fn serve<IO, S>(
    io: IO,
    service: S,
    keepalive: Keepalive,
    shutdown: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive.interval)
        .keep_alive_timeout(keepalive.timeout)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .header_table_size(HEADER_TABLE)
        .max_header_list_size(HEADER_BYTES);
    let service = TowerToHyperService::new(service);
    let io = begins::Begins::within(keepalive.detection(), io);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = &mut shutdown => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use tokio::io::AsyncWriteExt as _;
    use tokio_stream::StreamExt;

    use super::*;

    /// `/flood` streams without end, `/echo` sends back what it is sent, everything else answers at
    /// once.
    async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let body = match request.uri().path() {
            "/flood" => {
                let block = bytes::Bytes::from(vec![0_u8; 16 << 10]);
                let blocks = tokio_stream::iter(std::iter::repeat(block));
                Body::new(StreamBody::new(blocks.map(|b| Ok::<_, Infallible>(Frame::data(b)))))
            }
            "/echo" => Body::new(request.into_body()),
            _ => Body::empty(),
        };
        Ok(Response::new(body))
    }

    fn request(path: &'static str) -> Request<Body> {
        Request::builder().uri(format!("http://agent{path}")).body(Body::empty()).expect("request")
    }

    async fn linked() -> Channel {
        let (agent, controller) = tokio::io::duplex(64 << 10);
        let service = tower::service_fn(answer);
        tokio::spawn(serve(agent, service, Keepalive::default(), std::future::pending()));
        let (channel, driver) = connect(controller, Keepalive::default()).await.expect("connect");
        tokio::spawn(driver);
        channel
    }

    #[tokio::test(start_paused = true)]
    async fn for_how_long_nothing_was_heard_counts_from_the_last_byte_also_when_it_is_over() {
        let (agent, controller) = tokio::io::duplex(64 << 10);
        let service = tower::service_fn(answer);
        tokio::spawn(serve(agent, service, Keepalive::default(), std::future::pending()));
        let (mut channel, driver) =
            connect(controller, Keepalive::default()).await.expect("connect");
        let driver = tokio::spawn(driver);
        let second = Duration::from_secs(1);
        tokio::time::advance(2 * second).await;
        channel.call(request("/other")).await.expect("other");
        tokio::time::advance(3 * second).await;
        assert_eq!(channel.silent_for().as_secs(), 3);
        driver.abort();
        driver.await.expect_err("it is over");
        tokio::time::advance(4 * second).await;
        assert_eq!(channel.silent_for().as_secs(), 7);
    }

    #[tokio::test]
    async fn readers_that_stopped_reading_block_no_other_call() {
        let mut channel = linked().await;
        let mut stalled = Vec::new();
        for _ in 1..CONCURRENT_STREAMS {
            let mut response = channel.call(request("/flood")).await.expect("flood");
            response.body_mut().frame().await.expect("frame").expect("data");
            stalled.push(response);
        }
        for _ in 0..100 {
            let response = channel.call(request("/other")).await.expect("other");
            assert!(response.into_body().collect().await.expect("body").to_bytes().is_empty());
        }
        drop(stalled);
    }

    #[tokio::test]
    async fn what_a_caller_streams_is_answered_while_it_is_still_being_sent() {
        let mut channel = linked().await;
        let (parts, streamed) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(streamed);
        let frames = frames.map(|part| Ok::<_, Infallible>(Frame::data(part)));
        let mut echo = request("/echo");
        *echo.body_mut() = Body::new(StreamBody::new(frames));
        let mut answer = channel.call(echo).await.expect("answered before it is all sent");
        // More than a window at a time, and what is sent next depends on what came back.
        for round in 0_u8..8 {
            let part = bytes::Bytes::from(vec![round; 100 << 10]);
            parts.send(part.clone()).await.expect("taken");
            let mut back = Vec::new();
            while back.len() < part.len() {
                let frame = answer.body_mut().frame().await.expect("more").expect("a frame");
                back.extend(frame.into_data().expect("data"));
            }
            assert!(back == part, "round {round} came back changed");
        }
        let stalled = parts.clone();
        drop(parts);
        channel.call(request("/other")).await.expect("a stream that pauses blocks no other call");
        drop(stalled);
        assert!(answer.into_body().collect().await.expect("its end").to_bytes().is_empty());
    }

    #[tokio::test]
    async fn a_stream_of_the_caller_that_breaks_off_is_no_end_to_the_peer() {
        let mut channel = linked().await;
        let (parts, streamed) = tokio::sync::mpsc::channel(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(streamed);
        let mut echo = request("/echo");
        *echo.body_mut() = Body::new(StreamBody::new(frames));
        let answer = channel.call(echo).await.expect("answered");
        parts.send(Ok(Frame::data(bytes::Bytes::from_static(b"half")))).await.expect("taken");
        parts.send(Err(std::io::Error::other("the file went away"))).await.expect("taken");
        assert!(answer.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn a_connection_that_is_dropped_is_cut_with_the_calls_on_it() {
        let (agent, controller) = tokio::io::duplex(64 << 10);
        let service = tower::service_fn(answer);
        let serving =
            tokio::spawn(serve(agent, service, Keepalive::default(), std::future::pending()));
        let (mut channel, driver) =
            connect(controller, Keepalive::default()).await.expect("connect");
        let driving = tokio::spawn(driver);
        let mut flood = channel.call(request("/flood")).await.expect("flood");
        driving.abort();
        while let Some(Ok(_)) = flood.body_mut().frame().await {}
        let _ = serving.await.expect("the other end notices");
        assert!(channel.is_closed());
    }

    #[tokio::test]
    async fn a_call_on_a_lost_connection_fails_at_once() {
        let (agent, controller) = tokio::io::duplex(1024);
        let (mut channel, driver) = {
            let service = tower::service_fn(answer);
            let serving = serve(agent, service, Keepalive::default(), async {});
            let (connected, _) =
                tokio::join!(connect(controller, Keepalive::default()), serving_once(serving));
            connected.expect("connect")
        };
        let _ = driver.await;
        assert!(channel.is_closed());
        assert!(channel.call(request("/other")).await.is_err());
    }

    async fn serving_once<F: Future>(serving: F) {
        let _ = tokio::time::timeout(Duration::from_millis(200), serving).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_falls_silent_is_found_within_thirty_seconds() {
        let (peer, controller) = tokio::io::duplex(64 << 10);
        let (_channel, driver) = connect(controller, Keepalive::default()).await.expect("connect");
        // The peer's end stays open and never answers a ping.
        let began = tokio::time::Instant::now();
        assert!(driver.await.is_err());
        assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
        drop(peer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_falls_silent_is_found_within_thirty_seconds() {
        let (agent, mut caller) = tokio::io::duplex(64 << 10);
        let service = tower::service_fn(answer);
        // It begins as every caller does, leaves its end open, and never answers a ping.
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]];
        caller.write_all(&begin.concat()).await.expect("begun");
        let began = tokio::time::Instant::now();
        let served = serve(agent, service, Keepalive::default(), std::future::pending());
        let served = tokio::time::timeout(Duration::from_secs(60), served).await;
        assert!(served.expect("it ends").is_err());
        assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
        drop(caller);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_never_begins_is_found_as_well() {
        let (agent, mut caller) = tokio::io::duplex(64 << 10);
        caller.write_all(b"PRI").await.expect("half begun");
        let service = tower::service_fn(answer);
        let began = tokio::time::Instant::now();
        let served = serve(agent, service, Keepalive::default(), std::future::pending());
        let served = tokio::time::timeout(Duration::from_secs(60), served).await;
        let error = served.expect("it is given up").expect_err("an error");
        assert!(format!("{error:?}").contains("did not begin to speak"), "{error:?}");
        assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
        drop(caller);
    }

    #[test]
    fn a_keepalive_that_would_flood_cannot_be_made() {
        assert!(Keepalive::new(Duration::ZERO, Duration::from_secs(1)).is_err());
    }
}
