//! Sockets inside a namespace for its guest alone: few connections, and none that lasts by being silent.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::limits;

const LISTEN_BACKLOG: i32 = 16;

/// A socket at an address of the calling thread's namespace.
pub(crate) fn bind(kind: SocketType, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // The slot's former server ends when the runtime gets round to it.
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((address, port)))?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    }
    Ok(socket)
}

/// Lets `talk` have every connection, up to the bound; those beyond it are closed at once.
pub(crate) async fn serve<F>(listener: TcpListener, talk: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < limits::SERVER_CONNECTIONS => {
                connections.spawn(talk(stream));
            }
            Ok(_) => {}
            // Out of descriptors, most likely: somebody has to close one first.
            Err(_) => tokio::time::sleep(limits::SERVER_IDLE).await,
        }
    }
}
