//! Running the daemon until it is told to stop.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use listen::{Limits, Listener};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::{Daemon, Options};
use crate::handover::{Estate, Supervisor};
use crate::{http, limits, process};

/// Most threads that poll; what blocks has its own.
const WORKERS: usize = 2;

/// Serves on `address`, or where the daemon before this one listened, until SIGTERM or an upgrade. Prints the bound
/// address on standard output once ready. `supervisor` is the socket to whoever keeps what earlier daemons left.
pub fn run(address: SocketAddr, options: Options, supervisor: Option<OwnedFd>) -> io::Result<()> {
    let (supervisor, estate) = match supervisor {
        Some(socket) => Supervisor::meet(socket)?,
        None => (Supervisor::none(), Estate::default()),
    };
    let daemon = Arc::new(Daemon::open(options, supervisor));
    // With one processor a second worker only adds switches between the two.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(processors.min(WORKERS)).enable_all().build()?;
    let served = runtime.block_on(serve(address, daemon, estate));
    // Blocking work may hang for ever (a network file system, a frozen child), and the next daemon waits for this one.
    runtime.shutdown_background();
    served
}

async fn serve(address: SocketAddr, daemon: Arc<Daemon>, estate: Estate) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = match estate.listener {
        Some(inherited) => TcpListener::from_std(inherited.into())?,
        None => TcpListener::bind(address).await?,
    };
    daemon.supervisor.listener(listener.as_fd());
    process::adopt(&daemon, estate.processes);
    daemon.supervisor.listen()?;
    let bounds = Limits { idle: limits::IDLE, ..Limits::default() };
    let handle = Listener::serve(listener, http::router(Arc::clone(&daemon)), bounds);
    daemon.quiesce.govern(handle.clone());
    daemon.ports.start();
    tokio::spawn(Arc::clone(&daemon.ports).follow());
    if let Some(address) = handle.address() {
        // Whoever started the first daemon need not be there for a later one.
        let _ = writeln!(io::stdout(), "envd: listening on {address}");
    }
    daemon.supervisor.ready();
    tokio::select! {
        _ = terminate.recv() => {}
        () = daemon.replaced.notified() => {}
    }
    handle.stop(limits::STOP_GRACE).await;
    Ok(())
}
