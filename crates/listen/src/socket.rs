//! An accepted socket that can be told to end by reset.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::registry::Entry;

#[derive(Debug)]
pub(crate) enum Raw {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// An accepted connection before HTTP. It stays in the registry for as long as this value lives, also after
/// an upgrade has taken it away from HTTP.
pub struct Socket {
    raw: Raw,
    entry: Arc<Entry>,
    reset: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Socket {
    pub(crate) fn new(raw: Raw, entry: Arc<Entry>) -> Self {
        let reset = Box::pin(CancellationToken::clone(&entry.reset).cancelled_owned());
        Self { raw, entry, reset }
    }

    /// Address of the other side; none for a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match &self.raw {
            Raw::Tcp(_, peer) => Some(*peer),
            Raw::Unix(_) => None,
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.reset.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Closing with a linger time of zero sends RST instead of FIN (socket(7), SO_LINGER).
        if let Raw::Tcp(stream, _) = &self.raw
            && self.entry.reset.is_cancelled()
        {
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_reset(cx)?;
        match &mut self.raw {
            Raw::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Raw::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_reset(cx)?;
        match &mut self.raw {
            Raw::Tcp(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Raw::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_reset(cx)?;
        match &mut self.raw {
            Raw::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Raw::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.raw {
            Raw::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            Raw::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.raw {
            Raw::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Raw::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
