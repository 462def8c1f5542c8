//! Running the daemon until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use listen::{Limits, Listener};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::{Daemon, Options, blocking};
use crate::{http, limits};

/// Threads that poll; what blocks has its own.
const WORKERS: usize = 2;

/// Serves on `address` until SIGTERM. Prints the bound address on standard output once ready.
pub fn run(address: SocketAddr, options: Options) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?.block_on(async {
        let daemon = blocking(|| Ok::<_, crate::daemon::Interrupted>(Arc::new(Daemon::open(options)))).await;
        let daemon = daemon.map_err(io::Error::other)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let listener = TcpListener::bind(address).await?;
        let bounds = Limits { idle: limits::IDLE, ..Limits::default() };
        let handle = Listener::serve(listener, http::router(Arc::clone(&daemon)), bounds);
        daemon.quiesce.govern(handle.clone());
        daemon.ports.start();
        tokio::spawn(Arc::clone(&daemon.ports).follow());
        if let Some(address) = handle.address() {
            println!("envd: listening on {address}");
        }
        terminate.recv().await;
        handle.stop(limits::STOP_GRACE).await;
        Ok(())
    })
}
