//! From the start of a process to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::process::Signal;
use sys::spawn::Exit;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::Process;
use super::end::End;
use super::pump::{self, Drain, Output};
use super::table::Table;

/// A started process and the descriptor that becomes readable at its end.
pub(super) struct Child {
    process: sys::spawn::Process,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    /// Kills the process again when the descriptor is not to be had.
    pub(super) fn new(mut process: sys::spawn::Process) -> io::Result<Self> {
        match process.pidfd().and_then(|fd| sys::readiness::watch(fd, Interest::READABLE)) {
            Ok(pidfd) => Ok(Self { process, pidfd }),
            Err(error) => {
                process.kill()?;
                process.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Waits for the process and its output, then tells the end.
///
/// The process stays a zombie until its output is complete: only so long does its pid name its group for certain.
pub(super) async fn tend(
    process: Arc<Process>,
    table: Arc<Table>,
    mut child: Child,
    outputs: Vec<Output>,
    limit: Option<Duration>,
) {
    let mut pumps = JoinSet::new();
    for output in outputs {
        pumps.spawn(pump::pump(output, Arc::clone(&process), process.grace.subscribe()));
    }
    let mut expired = false;
    {
        let mut limit = std::pin::pin!(expiry(limit));
        let drained = async {
            let _ = child.pidfd.readable().await;
            process.grace.send_modify(Drain::exited);
            while pumps.join_next().await.is_some() {}
        };
        let mut drained = std::pin::pin!(drained);
        tokio::select! {
            () = &mut drained => {}
            () = &mut limit => {
                expired = true;
                // An error means that it has just ended by itself.
                let _ = process.signal(Signal::Sigkill);
                drained.await;
            }
        }
    }
    // It has ended: this returns at once.
    let exit = child.process.wait().unwrap_or(Exit::Code(-1));
    process.mark_reaped();
    table.retire(&process);
    let timed_out = expired && exit == Exit::Signal(9);
    process.audience.end(End { exit, timed_out }).await;
}

async fn expiry(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
