//! Start-up and stop.

use crate::{HostCredentials, StartError, credentials};
use api::ApiState;
use fleet::{Fleet, LocalHost};
use identity::Identity;
use listen::{Handle, Limits, Listener};
use model::limits;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;

/// How long running answers, and then running operations, may take to end at a stop.
const GRACE: Duration = Duration::from_secs(30);
/// Connections served at once.
const CONNECTIONS_MAX: usize = 8_192;

/// Options of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 = any free one.
    pub listen: SocketAddr,
    /// Data directory, `$WRENN_DIR`.
    pub dir: PathBuf,
    /// `postgres://…`; absent = `SQLite` in the data directory.
    pub database_url: Option<String>,
    /// Where the agent of this machine listens; absent = this machine runs no capsules.
    pub agent_socket: Option<PathBuf>,
    /// Shown by `/health`.
    pub version: &'static str,
}

impl Options {
    /// `127.0.0.1:8000`: reachable from this machine only.
    pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
}

/// A running server.
pub struct Server {
    fleet: Fleet,
    http: Handle,
    base_url: String,
}

impl Server {
    /// Starts everything; when it returns the API answers.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let listener = bind(options.listen).await?;
        let address = listener.local_addr().unwrap_or(options.listen);
        let base_url = base_url(address);
        let store = store::Options { directory: options.dir.clone(), database_url: options.database_url };
        let store = Store::open(&store).await?;
        let identity = Identity::new(store.clone());
        credentials::provide(&identity, &options.dir, &base_url).await?;
        let fleet = Fleet::start(store, bus::Bus::default());
        if let Some(socket) = options.agent_socket {
            let HostCredentials { id, token } = HostCredentials::of(&options.dir)?;
            fleet.add_local_host(LocalHost { socket, id, token }).await.map_err(StartError::Fleet)?;
        }
        let router = api::router(ApiState::new(fleet.clone(), identity, options.version));
        let http = Listener::serve(listener, router, http_limits());
        tracing::info!(%base_url, version = options.version, "server started");
        Ok(Self { fleet, http, base_url })
    }

    /// Where clients on this machine find it, without a path.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Takes no more requests, lets running ones end, then operations; what is left goes on at the next start.
    pub async fn stop(self) {
        self.http.stop(GRACE).await;
        self.fleet.shutdown(GRACE).await;
        tracing::info!("server stopped");
    }
}

/// Runs a server until `shutdown` completes.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let server = Server::start(options).await?;
    shutdown.await;
    server.stop().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse(address),
        _ => StartError::Listen { address, source },
    })
}

fn http_limits() -> Limits {
    Limits { head: limits::REQUEST_HEAD, idle: limits::CONNECTION_IDLE, connections: CONNECTIONS_MAX, http2: false }
}

/// A server on all addresses is found at the loopback one.
fn base_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}
