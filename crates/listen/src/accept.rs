//! The accept loop and the handle that governs it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Limits;
use crate::connection;
use crate::registry::{Generation, Registry, Reset};
use crate::socket::{Raw, Socket};

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Time a handshake (TLS) may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where connections come from.
#[derive(Debug)]
pub enum Endpoint {
    /// TCP; `TCP_NODELAY` and keep-alive probes are set on each connection.
    Tcp(TcpListener),
    /// Unix stream socket.
    Unix(UnixListener),
}

impl From<TcpListener> for Endpoint {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Endpoint {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl Endpoint {
    async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Neither is worth refusing a connection for.
                let _ = stream.set_nodelay(true);
                let _ = probe(&stream);
                Ok(Raw::Tcp(stream, peer))
            }
            Self::Unix(listener) => Ok(Raw::Unix(listener.accept().await?.0)),
        }
    }
}

/// Finds a peer that vanished without a word after 30 s. Not `TCP_USER_TIMEOUT`: since Linux 5.11 that also
/// ends a connection whose reader is merely slow (zero window).
fn probe(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &15)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)
}

/// Any byte stream HTTP can run over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What a [`Handshake`] made of a socket.
pub struct Accepted {
    /// The stream HTTP runs over.
    pub stream: Box<dyn Stream>,
    /// Put into the extensions of every request of this connection, the peer's certificate for instance.
    pub extensions: http::Extensions,
}

/// Done on each connection before HTTP, TLS for instance. An error drops the connection.
pub trait Handshake: Send + Sync + 'static {
    /// Turns the accepted socket into the stream HTTP runs over.
    fn handshake(&self, socket: Socket) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>>;
}

/// Plain text.
struct Plain;

impl Handshake for Plain {
    fn handshake(&self, socket: Socket) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>> {
        let accepted = Accepted { stream: Box::new(socket), extensions: http::Extensions::new() };
        std::future::ready(Ok(accepted)).boxed()
    }
}

/// Starts serving; see [`Listener::serve`].
pub struct Listener;

impl Listener {
    /// Serves `router` on `endpoint` until [`Handle::stop`]. Handlers find the peer as `ConnectInfo<SocketAddr>` (TCP only).
    ///
    /// Must be called inside a tokio runtime.
    pub fn serve(endpoint: impl Into<Endpoint>, router: Router, limits: Limits) -> Handle {
        Self::serve_after(Arc::new(Plain), endpoint, router, limits)
    }

    /// As [`Self::serve`], with a handshake before HTTP.
    pub fn serve_after(
        handshake: Arc<dyn Handshake>,
        endpoint: impl Into<Endpoint>,
        router: Router,
        limits: Limits,
    ) -> Handle {
        let endpoint = endpoint.into();
        let address = match &endpoint {
            Endpoint::Tcp(listener) => listener.local_addr().ok(),
            Endpoint::Unix(_) => None,
        };
        let handle = Handle {
            registry: Arc::new(Registry::default()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            address,
        };
        let shop = Shop { handshake, router, limits, handle: handle.clone() };
        handle.tasks.spawn(shop.run(endpoint));
        handle
    }
}

struct Shop {
    handshake: Arc<dyn Handshake>,
    router: Router,
    limits: Limits,
    handle: Handle,
}

impl Shop {
    async fn run(self, endpoint: Endpoint) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = endpoint.accept() => accepted,
                () = self.handle.stop.cancelled() => return,
            };
            match accepted {
                Ok(raw) => {
                    let work = self.connection(raw);
                    self.handle.tasks.spawn(async move {
                        work.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn connection(&self, raw: Raw) -> impl Future<Output = ()> + Send + 'static {
        let entry = self.handle.registry.enter();
        let socket = Socket::new(raw, Arc::clone(&entry));
        let peer = socket.peer();
        let (handshake, router, limits) = (Arc::clone(&self.handshake), self.router.clone(), self.limits);
        async move {
            match tokio::time::timeout(HANDSHAKE, handshake.handshake(socket)).await {
                Ok(Ok(mut accepted)) => {
                    if let Some(peer) = peer {
                        accepted.extensions.insert(axum::extract::ConnectInfo(peer));
                    }
                    accepted.extensions.insert(entry.generation());
                    accepted.extensions.insert(Reset::new(&entry));
                    connection::serve(accepted, entry, router, limits).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "handshake failed"),
                Err(_) => tracing::debug!("handshake took too long"),
            }
        }
    }
}

/// Governs a listener. Clones govern the same one; dropping them does not stop it.
#[derive(Debug, Clone)]
pub struct Handle {
    registry: Arc<Registry>,
    stop: CancellationToken,
    tasks: TaskTracker,
    address: Option<SocketAddr>,
}

impl Handle {
    /// Bound address; none for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Open connections, upgraded ones included.
    pub fn connections(&self) -> usize {
        self.registry.len()
    }

    /// Closes the connections that answer nothing at the moment; returns how many.
    pub fn close_idle(&self) -> usize {
        self.registry.close_idle()
    }

    /// From now on every answer closes its connection.
    pub fn disable_keep_alive(&self) {
        self.registry.set_keep_alive(false);
    }

    /// Undoes [`Self::disable_keep_alive`].
    pub fn enable_keep_alive(&self) {
        self.registry.set_keep_alive(true);
    }

    /// Begins a new generation and returns it; connections accepted from now on belong to it.
    pub fn mark_generation(&self) -> Generation {
        self.registry.mark_generation()
    }

    /// Resets every connection accepted before `generation` began; returns how many.
    pub fn reset_before(&self, generation: Generation) -> usize {
        self.registry.reset_before(generation)
    }

    /// Stops accepting, lets running answers end for at most `grace`, then resets what is left.
    pub async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        self.registry.finish_all();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            self.registry.reset_all();
            self.tasks.wait().await;
        }
    }
}
