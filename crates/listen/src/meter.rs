//! What a connection is doing, and since when.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Limits;

/// A connection is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has arrived since this moment.
    Idle(Instant),
    /// The first byte of a head arrived at this moment.
    Head(Instant),
    /// So many requests are being answered.
    Busy(usize),
}

/// Shared between the byte stream, the service and the watchdog of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    state: Mutex<State>,
    head_began: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// HTTP/2 multiplexes: bytes on an idle connection may be a ping, so heads are not timed there.
    http2: bool,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    Head,
    Idle,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let state = State { phase: Phase::Idle(Instant::now()), http2: false };
        Self { state: Mutex::new(state), head_began: Notify::new() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.with(|state| matches!(state.phase, Phase::Idle(_)))
    }

    fn bytes_arrived(&self, bytes: &[u8]) {
        let began = self.with(|state| {
            // No HTTP/1 method begins like the preface of HTTP/2 (RFC 9113 section 3.4).
            state.http2 |= bytes.starts_with(b"PRI ");
            let begins = !state.http2 && matches!(state.phase, Phase::Idle(_));
            if begins {
                state.phase = Phase::Head(Instant::now());
            }
            begins
        });
        if began {
            self.head_began.notify_one();
        }
    }

    /// A request's head is complete; it is being answered until the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Answering {
        self.with(|state| {
            state.phase = match state.phase {
                Phase::Busy(count) => Phase::Busy(count + 1),
                Phase::Idle(_) | Phase::Head(_) => Phase::Busy(1),
            };
        });
        Answering(Arc::clone(self))
    }

    fn answered(&self) {
        self.with(|state| {
            state.phase = match state.phase {
                Phase::Busy(count) if count > 1 => Phase::Busy(count - 1),
                _ => Phase::Idle(Instant::now()),
            };
        });
    }

    /// Waits until a limit has run out.
    pub(crate) async fn expiry(&self, limits: &Limits) -> Expired {
        loop {
            let (deadline, expired) = match self.with(|state| state.phase) {
                Phase::Idle(since) => (since + limits.idle, Expired::Idle),
                Phase::Head(since) => (since + limits.head, Expired::Head),
                // The end of an answer needs no wake-up: the idle limit is far longer than this nap.
                Phase::Busy(_) => (Instant::now() + limits.idle.max(Duration::from_millis(1)), Expired::Idle),
            };
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {
                    if self.has_expired(limits, expired) {
                        return expired;
                    }
                }
                () = self.head_began.notified() => {}
            }
        }
    }

    fn has_expired(&self, limits: &Limits, expired: Expired) -> bool {
        let now = Instant::now();
        match (self.with(|state| state.phase), expired) {
            (Phase::Idle(since), Expired::Idle) => now >= since + limits.idle,
            (Phase::Head(since), Expired::Head) => now >= since + limits.head,
            _ => false,
        }
    }
}

/// Held while a request is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Meter>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// A byte stream that tells the meter when bytes arrive.
pub(crate) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(fresh) = buf.filled().get(before..)
            && !fresh.is_empty()
        {
            self.meter.bytes_arrived(fresh);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
