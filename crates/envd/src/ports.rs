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
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;

/// The forwarding of ports: runs or does not.
pub struct Ports {
    /// Where forwarded ports are offered; none to forward nothing.
    address: Option<IpAddr>,
    running: Mutex<Option<Forwardings>>,
    started: Notify,
    room: Arc<Semaphore>,
}

/// What is forwarded, and everything that takes part in it.
#[derive(Default)]
struct Forwardings {
    stop: CancellationToken,
    tasks: TaskTracker,
    by_server: HashMap<SocketAddr, CancellationToken>,
}

impl Ports {
    /// Not running.
    pub fn new(address: Option<IpAddr>) -> Self {
        let room = Arc::new(Semaphore::new(limits::FORWARDED_CONNECTIONS));
        Self { address, running: Mutex::default(), started: Notify::new(), room }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Forwardings>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to forward; does nothing when it does already.
    pub fn start(&self) {
        self.running().get_or_insert_default();
        self.started.notify_one();
    }

    /// Ends every forwarding and connection there still is, and begins to forward.
    pub fn begin_anew(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.stop().await;
            this.start();
        });
    }

    /// Ends every forwarding and connection; returns when all of them have ended.
    pub async fn stop(&self) {
        let running = self.running().take();
        if let Some(Forwardings { stop, tasks, .. }) = running {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }

    /// Follows the servers of the guest, for ever. Looks on while stopped, because starting and ending a task is what
    /// a snapshot would have to wait for.
    pub async fn follow(self: Arc<Self>) {
        let Some(address) = self.address else { return };
        let mut period = tokio::time::interval(limits::PORT_SCAN);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = period.tick() => {}
                () = self.started.notified() => {}
            }
            if let Ok(Ok(servers)) = tokio::task::spawn_blocking(loopback_servers).await
                && let Some(forwardings) = self.running().as_mut()
            {
                forwardings.adjust(&servers, address, &self.room);
            }
        }
    }
}

impl Forwardings {
    fn adjust(&mut self, servers: &HashSet<SocketAddr>, address: IpAddr, room: &Arc<Semaphore>) {
        self.by_server.retain(|server, forwarding| {
            let alive = servers.contains(server);
            if !alive {
                forwarding.cancel();
            }
            alive
        });
        for server in servers {
            if self.by_server.len() >= limits::FORWARDED_PORTS || self.by_server.contains_key(server) {
                continue;
            }
            // Fails when the server itself, or the other family's forwarding, has the port.
            let Ok(listener) = bind(SocketAddr::new(address, server.port())) else { continue };
            let own = self.stop.child_token();
            self.by_server.insert(*server, own.clone());
            let work = forward(listener, *server, own.clone(), Arc::clone(room), self.tasks.clone());
            self.tasks.spawn(own.run_until_cancelled_owned(work));
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
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
