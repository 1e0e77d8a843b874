//! Gives up a caller that does not begin: the keepalive asks only those that have begun.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What every caller says first: `PRI * HTTP/2.0`, and what belongs to it (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// A transport that fails when its peer has not begun in time.
pub(super) struct Begins<IO> {
    io: IO,
    /// Until when it waits, and for how many bytes yet; none when the peer has begun.
    waits: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<IO> Begins<IO> {
    pub(super) fn within(longest: Duration, io: IO) -> Self {
        Self { io, waits: Some((Box::pin(sleep(longest)), PREFACE)) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Begins<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let Some((longest, missing)) = &mut self.waits else { return read };
        if read.is_pending() {
            ready!(longest.as_mut().poll(cx));
            let late = io::Error::new(io::ErrorKind::TimedOut, "the peer did not begin to speak");
            return Poll::Ready(Err(late));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.waits = None;
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Begins<IO> {
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
