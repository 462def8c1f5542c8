//! Pooled HTTP/1.1 clients over any way to open a connection.
//!
//! Knows: how to keep connections that a [`Dialler`] opened alive and reuse them, as plain HTTP ([`Client`])
//! and as a transport of Connect RPC ([`Transport`]).
//! Must never know: who is at the other end. A dialler opens connections to exactly one peer, so the host in
//! a request's URI is decoration.
//!
//! HTTP/1.1 only: a stream has a connection of its own, and a slow reader stalls nobody else.

use connectrpc::client::{ClientBody, ServiceTransport};
use futures_util::future::BoxFuture;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection: any two-way byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection of any kind.
pub type BoxIo = Box<dyn Io>;

/// Opens one more connection to its peer.
#[derive(Clone)]
pub struct Dialler(Arc<dyn Fn() -> BoxFuture<'static, io::Result<BoxIo>> + Send + Sync>);

impl Dialler {
    /// A dialler made of a function.
    pub fn new<F, Fut, S>(open: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: Io,
    {
        Self(Arc::new(move || {
            let opening = open();
            Box::pin(async move { Ok(Box::new(opening.await?) as BoxIo) })
        }))
    }

    /// Opens a connection.
    pub async fn dial(&self) -> io::Result<BoxIo> {
        (self.0)().await
    }
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialler")
    }
}

/// Bounds of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Idle connections kept.
    pub idle_max: usize,
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// How long opening one may take.
    pub dial: Duration,
}

impl Default for Limits {
    /// 10 idle connections for 90 s, 10 s to dial.
    fn default() -> Self {
        Self { idle_max: 10, idle: Duration::from_secs(90), dial: Duration::from_secs(10) }
    }
}

/// A pooled HTTP/1.1 client for requests with bodies `B`.
pub type Client<B = ClientBody> = legacy::Client<Connector, B>;

/// A pooled transport of Connect RPC.
pub type Transport = ServiceTransport<Client>;

/// A client with a pool of its own.
pub fn client<B>(dialler: Dialler, limits: Limits) -> Client<B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(limits.idle)
        .pool_max_idle_per_host(limits.idle_max)
        .build(Connector { dialler, limit: limits.dial })
}

/// Connect RPC over a client with a pool of its own.
pub fn transport(dialler: Dialler, limits: Limits) -> Transport {
    ServiceTransport::new(client(dialler, limits))
}

/// A [`Dialler`] as the pool wants it.
#[derive(Debug, Clone)]
pub struct Connector {
    dialler: Dialler,
    limit: Duration,
}

impl tower::Service<http::Uri> for Connector {
    type Response = PooledIo;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<PooledIo>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { dialler, limit } = self.clone();
        Box::pin(async move {
            let dialled = tokio::time::timeout(limit, dialler.dial()).await;
            let io = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(PooledIo(TokioIo::new(io)))
        })
    }
}

/// A connection in a pool.
pub struct PooledIo(TokioIo<BoxIo>);

impl Connection for PooledIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for PooledIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for PooledIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
