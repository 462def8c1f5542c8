//! The guest's name server: listens at the gateway's address inside the slot's namespace, asks the host's resolvers
//! from the host's namespace. It caches nothing and invents nothing.

mod message;
mod upstream;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::SocketType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};

use crate::address::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use crate::entrance::Entrance;
use crate::{limits, listener};
use message::{Failure, Query};
pub(crate) use upstream::Upstream;
pub use upstream::{Resolvers, try_resolvers};
use upstream::{Transport, framed};

const PORT: u16 = 53;

/// A running name server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    context: Arc<Context>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct Context {
    upstream: Arc<Upstream>,
    resolves: AtomicBool,
}

impl Server {
    /// Starts a name server inside `namespace`.
    pub(crate) async fn start(
        entrance: &Entrance,
        namespace: &Arc<OwnedFd>,
        upstream: Arc<Upstream>,
        resolves: bool,
    ) -> io::Result<Self> {
        let bind = |kind| listener::bind(kind, GATEWAY_ADDRESS, PORT);
        let bind = move || Ok((bind(SocketType::DGRAM)?, bind(SocketType::STREAM)?));
        let (udp, tcp) = entrance.run(namespace, bind).await?;
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let context = Arc::new(Context { upstream, resolves: AtomicBool::new(resolves) });
        let serving = Arc::clone(&context);
        let tasks = [
            tokio::spawn(serve_udp(Arc::new(udp), Arc::clone(&context))).abort_handle(),
            tokio::spawn(listener::serve(tcp, move |stream| serve_connection(stream, Arc::clone(&serving))))
                .abort_handle(),
        ];
        Ok(Self { context, tasks })
    }

    /// Whether queries are passed on from now on, or refused.
    pub(crate) fn set_resolves(&self, resolves: bool) {
        self.context.resolves.store(resolves, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Context {
    async fn answer(&self, query: &Query, transport: Transport) -> Vec<u8> {
        if self.resolves.load(Ordering::Relaxed) {
            self.upstream.answer(query, transport).await
        } else {
            query.failure(Failure::Refused)
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, context: Arc<Context>) {
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; limits::DNS_QUERY_BYTES + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = answers.join_next() => continue,
        };
        let Ok((length, guest)) = received else {
            // Errors of a datagram socket are about single packets; yielding keeps a lasting one from taking a CPU.
            tokio::task::yield_now().await;
            continue;
        };
        // Beyond the bound queries are lost, as datagrams are: the guest asks again.
        if guest.ip() != IpAddr::V4(GUEST_ADDRESS) || answers.len() >= limits::DNS_IN_FLIGHT {
            continue;
        }
        let Some(query) = Query::parse(buffer.get(..length).unwrap_or_default()) else { continue };
        let (socket, context) = (Arc::clone(&socket), Arc::clone(&context));
        answers.spawn(async move {
            let answer = context.answer(&query, Transport::Udp).await;
            // A guest that is gone does not wait.
            let _ = socket.send_to(&answer, guest).await;
        });
    }
}

/// Answers one query after the other until the guest ends, errs or falls silent.
async fn serve_connection(mut stream: TcpStream, context: Arc<Context>) {
    while let Ok(Ok(Some(query))) = tokio::time::timeout(limits::SERVER_IDLE, read_query(&mut stream)).await {
        let answer = framed(&context.answer(&query, Transport::Tcp).await);
        if !matches!(tokio::time::timeout(limits::SERVER_IDLE, stream.write_all(&answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Option<Query>> {
    let length = usize::from(stream.read_u16().await?);
    if length > limits::DNS_QUERY_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Query::parse(&bytes))
}
