//! Starting keepers.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sys::readiness::watch;
use sys::spawn::{Process, Spawn, Stream};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe::Receiver;

use crate::handle::{Keeper, attach};
use crate::limits;
use crate::records::{self, EXIT, ExitRecord, KeeperSpec, LOG, RUNNING, Running, SPEC};

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The machine's directory, or the program, cannot be used.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The keeper ended before its VMM ran.
    #[error("the VMM did not start: {0}")]
    NotStarted(String),
    /// It neither reported nor ended in time.
    #[error("the keeper did not report within {} s", .0.as_secs())]
    TimedOut(Duration),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Io { action, source }
}

/// Starts keepers by a program that is run as `PROGRAM keeper`. One can be started before anybody knows what it is to keep:
/// of all steps of a launch, a process of this size is the slowest.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
    waiting: Mutex<Option<Process>>,
}

impl Launcher {
    /// Nothing is started yet.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), waiting: Mutex::default() }
    }

    /// Starts the next keeper, unless one waits. It ends with this process if it is not needed before. Blocks for milliseconds.
    pub fn prepare(&self) -> io::Result<()> {
        // Under the lock: a launch that waits for it could not start one any sooner.
        let mut waiting = self.waiting();
        if waiting.is_none() {
            *waiting = Some(self.start()?);
        }
        Ok(())
    }

    /// Has the keeper that waits, or a new one, run what is in `spec`, and returns once its VMM runs. What an earlier one left in the
    /// directory is removed first.
    pub async fn launch(&self, spec: &KeeperSpec) -> Result<Keeper, LaunchError> {
        records::clear(&spec.dir).map_err(failed("clear the machine's directory"))?;
        records::write(&spec.dir, SPEC, spec).map_err(failed("write spec.json"))?;
        let mut process = self.take().map_or_else(|| self.start(), Ok).map_err(failed("start the keeper"))?;
        match started(&mut process, &spec.dir).await {
            Ok((running, pidfd)) => {
                Keeper::launched(spec.dir.clone(), running, pidfd, process).map_err(failed("watch the keeper"))
            }
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                // A VMM, should there be one, ends with this.
                let _ = attach(&spec.dir);
                Err(error)
            }
        }
    }

    /// In a session of its own.
    fn start(&self) -> io::Result<Process> {
        Spawn::new(&self.program)
            .arg("keeper")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stream::Pipe)
            .stdout(Stream::Pipe)
            .new_session()
            .spawn()
    }

    /// The one that waits, if nobody ended it.
    fn take(&self) -> Option<Process> {
        let mut waiting = self.waiting().take()?;
        matches!(waiting.try_wait(), Ok(None)).then_some(waiting)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Process>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a keeper its directory; what it says of itself once its VMM runs.
async fn started(process: &mut Process, dir: &Path) -> Result<(Running, AsyncFd<OwnedFd>), LaunchError> {
    tell(process, dir).map_err(failed("tell the keeper what to run"))?;
    let report = tokio::time::timeout(limits::LAUNCH, report(process)).await;
    let report = report.map_err(|_| LaunchError::TimedOut(limits::LAUNCH))?;
    if !report.map_err(failed("hear from the keeper"))? {
        return Err(LaunchError::NotStarted(why_not(dir)));
    }
    let pidfd = process.pidfd().and_then(|fd| watch(fd, Interest::READABLE)).map_err(failed("watch the keeper"))?;
    let running = records::read(dir, RUNNING)
        .and_then(|running| running.ok_or(io::ErrorKind::NotFound.into()))
        .map_err(failed("read keeper.json"))?;
    Ok((running, pidfd))
}

/// Shorter than a pipe's buffer, so this does not block. The end of the line says that nothing is missing.
fn tell(process: &mut Process, dir: &Path) -> io::Result<()> {
    let line = [dir.as_os_str().as_bytes(), b"\n"].concat();
    process.take_stdin().ok_or(io::ErrorKind::BrokenPipe)?.write_all(&line)
}

/// Whether the keeper said that its VMM runs, rather than ended.
async fn report(process: &mut Process) -> io::Result<bool> {
    let stdout: OwnedFd = process.take_stdout().ok_or(io::ErrorKind::BrokenPipe)?.into();
    Ok(Receiver::from_owned_fd(stdout)?.read(&mut [0; 1]).await? == 1)
}

fn why_not(dir: &Path) -> String {
    match records::read::<ExitRecord>(dir, EXIT) {
        Ok(Some(record)) => record.errors_tail,
        _ => format!("the keeper ended without a word; see {}", dir.join(LOG).display()),
    }
}
