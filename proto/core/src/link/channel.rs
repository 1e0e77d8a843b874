//! The calling end of a connection.
//!
//! Straight on h2: a client of hyper's keeps a queue of requests of 8 KiB for every connection, and a
//! controller has ten thousand. There is no reconnect here: when the connection is gone, every call
//! on it fails at once.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tower::Service;

use super::{CONNECTION_WINDOW, HEADER_BYTES, HEADER_TABLE, Keepalive, SEND_BUFFER, STREAM_WINDOW};

/// How a connection ended that was not closed.
#[derive(Debug, Error)]
pub enum Broken {
    /// Nothing came, not even the answer to a ping.
    #[error("it fell silent: no answer to the keepalive")]
    Silent,
    /// The transport or the protocol failed.
    #[error(transparent)]
    Failed(#[from] h2::Error),
}

/// Calls a peer over one connection; a clone shares it.
#[derive(Debug, Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
}

impl Channel {
    /// The connection is gone.
    pub fn is_closed(&self) -> bool {
        self.pulse.over.load(Ordering::Acquire)
    }

    /// For how long nothing was heard of the peer.
    pub fn silent_for(&self) -> Duration {
        self.pulse.heard().elapsed()
    }
}

/// When the peer was heard last, and whether the connection is over.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    heard_ms: AtomicU64,
    over: AtomicBool,
}

impl Pulse {
    fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }
}

/// Says that the connection is over when it is dropped.
struct Over(Arc<Pulse>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// A transport that notes when something was heard.
struct Heard<IO> {
    io: IO,
    pulse: Arc<Pulse>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            let ms = u64::try_from(self.pulse.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.pulse.heard_ms.store(ms, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A channel, and the future that moves the connection's bytes and ends with it. Dropping that cuts
/// the connection, with every call on it.
///
/// # Errors
/// When the connection broke at once. That the peer speaks no HTTP/2 the future tells.
pub async fn connect<IO>(
    io: IO,
    keepalive: Keepalive,
) -> Result<(Channel, impl Future<Output = Result<(), Broken>> + Send), Broken>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Arc::new(Pulse {
        began: Instant::now(),
        heard_ms: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let io = Heard { io, pulse: Arc::clone(&pulse) };
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .header_table_size(HEADER_TABLE)
        .max_header_list_size(HEADER_BYTES)
        // What would be pushed nobody asked for.
        .enable_push(false)
        .handshake(io)
        .await?;
    let over = Over(Arc::clone(&pulse));
    let heard = Arc::clone(&pulse);
    let driver = async move {
        let _over = over;
        let pings = connection.ping_pong();
        tokio::select! {
            ended = connection => Ok(ended?),
            () = silence(pings, &heard, keepalive) => Err(Broken::Silent),
        }
    };
    Ok((Channel { requests, pulse }, driver))
}

/// Ends when the peer was asked whether it lives and nothing at all was heard of it.
async fn silence(pings: Option<PingPong>, pulse: &Pulse, keepalive: Keepalive) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        tokio::time::sleep_until(pulse.heard() + keepalive.interval).await;
        if pulse.heard().elapsed() < keepalive.interval {
            continue;
        }
        let mut since = Instant::now();
        if pings.send_ping(Ping::opaque()).is_err() {
            // The connection has ended, and says itself how.
            return pending().await;
        }
        loop {
            let answer = poll_fn(|cx| pings.poll_pong(cx));
            match tokio::time::timeout(keepalive.timeout, answer).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) => return pending().await,
                // The answer waits behind what is being read.
                Err(_) if pulse.heard() >= since => since = Instant::now(),
                Err(_) => return,
            }
        }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Received>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let whole = body.is_end_stream();
        let sent = self.requests.send_request(Request::from_parts(head, ()), whole);
        Box::pin(async move {
            let (response, stream) = sent?;
            match whole {
                true => Ok(response.await?.map(|stream| Received { stream, _sending: None })),
                false => exchange(response, stream, body).await,
            }
        })
    }
}

/// Sends a body, which may go on after the answer has begun.
async fn exchange(
    response: ResponseFuture,
    stream: SendStream<Bytes>,
    body: Body,
) -> Result<Response<Received>, h2::Error> {
    let mut sending = Box::pin(send(stream, body));
    let mut response = pin!(response);
    let (response, sending) = tokio::select! {
        biased;
        () = &mut sending => (response.await?, None),
        response = &mut response => (response?, Some(sending)),
    };
    let sending = sending.map(|sending| AbortOnDropHandle::new(tokio::spawn(sending)));
    Ok(response.map(|stream| Received { stream, _sending: sending }))
}

/// Sends a body to its end, as fast as the peer takes it.
async fn send(mut stream: SendStream<Bytes>, body: Body) {
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return stream.send_reset(Reason::CANCEL) };
        match frame.into_data() {
            Ok(mut data) => loop {
                stream.reserve_capacity(data.len());
                while stream.capacity() == 0 && !data.is_empty() {
                    let Some(Ok(_)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                }
                let part = data.split_to(stream.capacity().min(data.len()));
                let last = data.is_empty() && body.is_end_stream();
                if stream.send_data(part, last).is_err() || last {
                    return;
                }
                if data.is_empty() {
                    break;
                }
            },
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    // When that fails the peer has given the call up.
                    let _ = stream.send_trailers(trailers);
                    return;
                }
            }
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

/// What a peer answers. Dropping it gives the call up.
#[derive(Debug)]
pub struct Received {
    stream: RecvStream,
    /// What is still being sent.
    _sending: Option<AbortOnDropHandle<()>>,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // It was taken; the peer may send as much again.
                let taken = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(taken.map(|()| Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx));
                Poll::Ready(trailers.transpose().map(|t| t.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
