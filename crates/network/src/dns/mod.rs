//! The guest's name server: listens at the gateway's address inside the slot's namespace, asks the host's resolvers
//! from the host's namespace. It caches nothing and invents nothing.

mod message;
mod upstream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};

use crate::address::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use crate::entrance::Entrance;
use crate::limits;
use message::{Failure, Query};
pub use upstream::Resolvers;
pub(crate) use upstream::Upstream;
use upstream::{Transport, framed};

const LISTEN_BACKLOG: i32 = 16;

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
        let (udp, tcp) = entrance.run(namespace, || Ok((bind(SocketType::DGRAM)?, bind(SocketType::STREAM)?))).await?;
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let context = Arc::new(Context { upstream, resolves: AtomicBool::new(resolves) });
        let tasks = [
            tokio::spawn(serve_udp(Arc::new(udp), Arc::clone(&context))).abort_handle(),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&context))).abort_handle(),
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

/// A socket at the name server's address of the calling thread's namespace.
fn bind(kind: SocketType) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // The slot's former server ends when the runtime gets round to it.
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((GATEWAY_ADDRESS, 53)))?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    }
    Ok(socket)
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

async fn serve_tcp(listener: TcpListener, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < limits::DNS_CONNECTIONS => {
                let context = Arc::clone(&context);
                connections.spawn(async move { serve_connection(stream, &context).await });
            }
            Ok(_) => {}
            // Out of descriptors, most likely: somebody has to close one first.
            Err(_) => tokio::time::sleep(limits::DNS_IDLE).await,
        }
    }
}

/// Answers one query after the other until the guest ends, errs or falls silent.
async fn serve_connection(mut stream: TcpStream, context: &Context) {
    while let Ok(Ok(Some(query))) = tokio::time::timeout(limits::DNS_IDLE, read_query(&mut stream)).await {
        let answer = framed(&context.answer(&query, Transport::Tcp).await);
        if !matches!(tokio::time::timeout(limits::DNS_IDLE, stream.write_all(&answer)).await, Ok(Ok(()))) {
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
