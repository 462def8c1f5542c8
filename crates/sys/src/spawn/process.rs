//! A started process and its end.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// What a wait of the standard library reported.
    pub fn of(status: std::process::ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => Self::Signal(signal),
            None => Self::Code(status.code().unwrap_or(-1)),
        }
    }

    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    fn waited(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

/// End and output of a process run by [`super::Spawn::output`].
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Our ends of the streams that are pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<PipeWriter>,
    pub(super) stdout: Option<PipeReader>,
    pub(super) stderr: Option<PipeReader>,
}

/// A started child. Dropping it neither ends nor reaps it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    pipes: Pipes,
    /// Once it has been reaped its pid may be another's.
    exit: Option<Exit>,
}

impl Process {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, pipes: Pipes) -> Self {
        Self { pid, pidfd, pipes, exit: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Our end of its standard input, once, when that is a pipe.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.pipes.stdin.take()
    }

    /// Our end of its standard output, once, when that is a pipe.
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.pipes.stdout.take()
    }

    /// Our end of its standard error, once, when that is a pipe.
    pub fn take_stderr(&mut self) -> Option<PipeReader> {
        self.pipes.stderr.take()
    }

    /// Waits for its end and reaps it. Blocks.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            match self.reap(WaitIdOptions::EXITED) {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for its end and leaves it a zombie: its pid stays its own. Blocks.
    pub fn peek(&mut self) -> io::Result<Exit> {
        let status = match self.exit {
            Some(exit) => return Ok(exit),
            None => rustix::process::waitid(
                WaitId::PidFd(self.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            )?,
        };
        status.as_ref().map(Exit::waited).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Its end, if it has ended; reaps it then.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        Ok(self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?)
    }

    fn reap(&mut self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        if self.exit.is_none() {
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            self.exit = status.as_ref().map(Exit::waited);
        }
        Ok(self.exit)
    }

    /// Sends `SIGKILL`; to a process that has been reaped, nothing.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends `SIGTERM`; to a process that has been reaped, nothing.
    pub fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A descriptor that becomes readable when the process ends (`pidfd_open(2)`).
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }
}
