//! Servers that listen on the loopback interface only are made reachable from the host.
//!
//! The host reaches one address of the guest. For each port on which something listens on `127.0.0.1` or `::1`, and
//! nothing on all addresses, the same port of that address is forwarded.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use procfs::net::TcpState;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;

/// The forwarding of ports: runs or does not.
pub struct Ports {
    /// Where forwarded ports are offered; none to forward nothing.
    address: Option<IpAddr>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Ports {
    /// Not running.
    pub fn new(address: Option<IpAddr>) -> Self {
        Self { address, running: Mutex::default() }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look for servers; does nothing when it does already.
    pub fn start(&self) {
        let (Some(address), running) = (self.address, &mut *self.running()) else { return };
        if running.is_none() {
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            tasks.spawn(stop.clone().run_until_cancelled_owned(scan(address, stop.clone(), tasks.clone())));
            *running = Some(Running { stop, tasks });
        }
    }

    /// Ends every forwarding and connection; returns when all of them have ended.
    pub async fn stop(&self) {
        let running = self.running().take();
        if let Some(Running { stop, tasks }) = running {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// Follows the servers of the guest until it is dropped. What it starts ends with `stop`.
async fn scan(address: IpAddr, stop: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(limits::FORWARDED_CONNECTIONS));
    let mut forwarded: HashMap<SocketAddr, CancellationToken> = HashMap::new();
    let mut period = tokio::time::interval(limits::PORT_SCAN);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let Ok(Ok(servers)) = tokio::task::spawn_blocking(loopback_servers).await else { continue };
        forwarded.retain(|server, forwarding| {
            let alive = servers.contains(server);
            if !alive {
                forwarding.cancel();
            }
            alive
        });
        for server in servers {
            if forwarded.len() >= limits::FORWARDED_PORTS || forwarded.contains_key(&server) {
                continue;
            }
            // Fails when the server itself, or the other family's forwarding, has the port.
            let Ok(listener) = TcpListener::bind((address, server.port())).await else { continue };
            let own = stop.child_token();
            forwarded.insert(server, own.clone());
            let work = forward(listener, server, own.clone(), Arc::clone(&room), tasks.clone());
            tasks.spawn(own.run_until_cancelled_owned(work));
        }
    }
}

async fn forward(
    listener: TcpListener,
    server: SocketAddr,
    stop: CancellationToken,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
) {
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((mut client, _)) => {
                let relay = async move {
                    let _place = place;
                    let mut upstream = TcpStream::connect(server).await?;
                    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
                    tokio::io::copy_bidirectional(&mut client, &mut upstream).await
                };
                tasks.spawn(stop.clone().run_until_cancelled_owned(relay));
            }
            Err(error) => {
                tracing::warn!(%error, "accept on a forwarded port");
                tokio::time::sleep(limits::PORT_SCAN).await;
            }
        }
    }
}

/// Loopback listeners whose port nobody serves on all addresses.
fn loopback_servers() -> io::Result<HashSet<SocketAddr>> {
    let mut entries = procfs::net::tcp().map_err(io::Error::other)?;
    // A kernel without IPv6 has no such file.
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let listening = entries.iter().filter(|entry| entry.state == TcpState::Listen).map(|entry| entry.local_address);
    let (everywhere, here): (Vec<_>, Vec<_>) = listening
        .filter(|server| server.ip().is_unspecified() || is_loopback(server.ip()))
        .partition(|server| server.ip().is_unspecified());
    let open: HashSet<u16> = everywhere.iter().map(SocketAddr::port).collect();
    Ok(here.into_iter().filter(|server| !open.contains(&server.port())).collect())
}

/// Exactly these two: other addresses of 127.0.0.0/8 are somebody's intention.
fn is_loopback(address: IpAddr) -> bool {
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}
