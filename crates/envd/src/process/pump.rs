//! From a process's output to its audience.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::Process;
use super::audience::News;
use super::terminal::Terminal;
use crate::limits;

/// One output of a process.
#[derive(Debug)]
pub(super) enum Output {
    Stdout(pipe::Receiver),
    Stderr(pipe::Receiver),
    Pty(Arc<Terminal>),
}

impl Output {
    /// What a supervisor keeps of it.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(pipe) | Self::Stderr(pipe) => pipe.as_fd(),
            Self::Pty(terminal) => terminal.descriptor(),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(pipe) | Self::Stderr(pipe) => pipe.read(buffer).await,
            Self::Pty(terminal) => terminal.read(buffer).await,
        }
    }

    fn news(&self, bytes: Bytes) -> News {
        match self {
            Self::Stdout(_) => News::Stdout(bytes),
            Self::Stderr(_) => News::Stderr(bytes),
            Self::Pty(_) => News::Pty(bytes),
        }
    }

    fn chunk(&self) -> usize {
        match self {
            Self::Stdout(_) | Self::Stderr(_) => limits::PIPE_CHUNK,
            Self::Pty(_) => limits::TERMINAL_CHUNK,
        }
    }
}

/// What pumps wait for besides output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drain {
    exited: bool,
    grace: Duration,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self { exited: false, grace: limits::OUTPUT_GRACE }
    }

    /// The process itself has ended; others may still hold its output open.
    pub(super) fn exited(&mut self) {
        self.exited = true;
    }

    /// The client asked for the end and expects no more.
    pub(super) fn hurry(&mut self) {
        self.grace = limits::KILLED_OUTPUT_GRACE;
    }
}

/// An output that is still open although its process has ended.
pub(super) struct Rest(Output, Vec<u8>);

impl Rest {
    /// Reads and drops what comes until it is closed.
    pub(super) async fn discard(self) {
        let Self(mut output, mut buffer) = self;
        while matches!(output.read(&mut buffer).await, Ok(1..)) {}
    }
}

/// Runs until the output is closed, or the process has ended and nothing came for the grace; then there is a rest.
pub(super) async fn pump(mut output: Output, process: Arc<Process>, mut drain: watch::Receiver<Drain>) -> Option<Rest> {
    let mut buffer = vec![0; output.chunk()];
    loop {
        let read = tokio::select! {
            biased;
            read = output.read(&mut buffer) => read,
            () = quiet(&mut drain) => return Some(Rest(output, buffer)),
        };
        match read {
            Ok(0) => return None,
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                process.audience.tell(output.news(bytes)).await;
            }
            Err(error) => {
                tracing::warn!(pid = process.pid, %error, "output of a process");
                return None;
            }
        }
    }
}

/// Returns once the process has ended and the grace has passed since the call.
async fn quiet(drain: &mut watch::Receiver<Drain>) {
    loop {
        let Drain { exited, grace } = *drain.borrow_and_update();
        let passed = async { if exited { tokio::time::sleep(grace).await } else { std::future::pending().await } };
        tokio::select! {
            () = passed => return,
            changed = drain.changed() => if changed.is_err() { return },
        }
    }
}
