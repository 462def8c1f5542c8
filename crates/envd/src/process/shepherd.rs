//! From the start of a process to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::process::Signal;
use sys::spawn::Exit;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Process;
use super::end::End;
use super::pump::{self, Drain, Output, Rest};
use super::table::Table;
use crate::handover::Supervisor;

/// A process whose end can be waited for.
pub(super) enum Child {
    /// Started by this daemon: its end is its parent's to collect.
    Own {
        process: sys::spawn::Process,
        /// Readable once it has ended.
        pidfd: AsyncFd<OwnedFd>,
    },
    /// Started by an earlier daemon: the supervisor tells.
    Inherited(oneshot::Receiver<Exit>),
}

impl Child {
    /// Kills the process again when the descriptor is not to be had.
    pub(super) fn own(mut process: sys::spawn::Process) -> io::Result<Self> {
        match process.pidfd().and_then(|fd| sys::readiness::watch(fd, Interest::READABLE)) {
            Ok(pidfd) => Ok(Self::Own { process, pidfd }),
            Err(error) => {
                process.kill()?;
                process.wait()?;
                Err(error)
            }
        }
    }

    /// An inherited one whose end is known.
    pub(super) fn ended_already(exit: Exit) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(exit);
        Self::Inherited(receiver)
    }

    /// Waits for its end and leaves it a zombie, if it is this daemon's to reap.
    async fn ended(&mut self) -> Exit {
        let end = match self {
            Self::Own { process, pidfd } => {
                let _ = pidfd.readable().await;
                process.peek().ok()
            }
            Self::Inherited(end) => end.await.ok(),
        };
        end.unwrap_or(Exit::Code(-1))
    }

    fn reap(&mut self) {
        if let Self::Own { process, .. } = self {
            // It has ended: this returns at once.
            let _ = process.wait();
        }
    }
}

/// Everything that is needed until the end of a process.
pub(super) struct Shepherd {
    pub(super) process: Arc<Process>,
    pub(super) table: Arc<Table>,
    pub(super) supervisor: Supervisor,
    pub(super) child: Child,
    pub(super) outputs: Vec<Output>,
    /// The longest it may run.
    pub(super) limit: Option<Duration>,
}

impl Shepherd {
    /// Waits for the process and its output, then tells the end.
    ///
    /// The process stays a zombie until its output is complete: only so long does its pid name its group for certain.
    pub(super) async fn tend(self) {
        let Self { process, table, supervisor, mut child, outputs, limit } = self;
        let mut pumps = JoinSet::new();
        for output in outputs {
            pumps.spawn(pump::pump(output, Arc::clone(&process), process.grace.subscribe()));
        }
        let mut expired = false;
        let (exit, rest) = {
            let mut limit = std::pin::pin!(expiry(limit));
            let mut drained = std::pin::pin!(drained(&process, &mut child, &mut pumps));
            tokio::select! {
                biased;
                done = &mut drained => done,
                () = &mut limit => {
                    expired = true;
                    // An error means that it has just ended by itself.
                    let _ = process.signal(Signal::Sigkill);
                    drained.await
                }
            }
        };
        // Before the zombie goes: should this daemon die now, the next one knows the end all the same.
        supervisor.ended(process.held, exit, rest.is_empty());
        child.reap();
        process.mark_reaped();
        table.retire(&process);
        let timed_out = expired && exit == Exit::Signal(9);
        if !rest.is_empty() {
            tokio::spawn(discard(rest, supervisor, process.held, exit));
        }
        process.audience.end(End { exit, timed_out }).await;
    }
}

async fn drained(process: &Process, child: &mut Child, pumps: &mut JoinSet<Option<Rest>>) -> (Exit, Vec<Rest>) {
    let exit = child.ended().await;
    if matches!(child, Child::Inherited(_)) {
        process.mark_reaped();
    }
    process.grace.send_modify(Drain::exited);
    let mut rest = Vec::new();
    while let Some(pump) = pumps.join_next().await {
        rest.extend(pump.ok().flatten());
    }
    (exit, rest)
}

/// What a process leaves behind may write to its output for as long as it likes: a closed pipe would kill it.
async fn discard(rest: Vec<Rest>, supervisor: Supervisor, held: u64, exit: Exit) {
    for output in rest {
        output.discard().await;
    }
    supervisor.ended(held, exit, true);
}

async fn expiry(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
