//! The agent's side of a keeper: finding it again, learning how it ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sys::readiness::watch;
use sys::spawn::Process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::limits;
use crate::records::{self, Cause, EXIT, End, ExitRecord, KeeperSpec, RUNNING, Running, SPEC};

/// Why a keeper's end is not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for the keeper in {dir}: {source}")]
pub struct WaitError {
    /// The machine's directory.
    pub dir: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// A keeper that runs, or did when this was made. Dropping it changes nothing for the keeper.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    running: Running,
    pidfd: AsyncFd<OwnedFd>,
    /// When it is a child of ours, which has to be reaped.
    child: Mutex<Option<Process>>,
}

/// Finds the keeper of the machine in `dir` again; none if it does not run any more (see [`ExitRecord::of`] then). Its VMM has
/// ended then, too.
pub fn attach(dir: &Path) -> io::Result<Option<Keeper>> {
    let Some(running) = records::read::<Running>(dir, RUNNING)? else { return Ok(None) };
    let Some(pidfd) = find(running.keeper_pid, running.keeper_start)? else {
        kill_vmm(&running)?;
        return Ok(None);
    };
    let pidfd = watch(pidfd, Interest::READABLE)?;
    guard(&pidfd, running)?;
    Ok(Some(Keeper { dir: dir.to_owned(), running, pidfd, child: Mutex::new(None) }))
}

/// Ends the machine in `dir`, if one runs there. After an error it may still run.
pub async fn end(dir: &Path) -> io::Result<()> {
    match attach(dir)? {
        Some(keeper) => keeper.kill().await.map(drop).map_err(io::Error::other),
        None => Ok(()),
    }
}

/// The process with this id that began at this time, if it runs.
fn find(pid: u32, start: u64) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Compared after opening: from then on the descriptor stands for one process, whatever becomes of the number.
    let same = records::start_time(pid.as_raw_nonzero().get().cast_unsigned()) == Some(start);
    Ok(same.then_some(pidfd))
}

/// Ends the VMM as soon as its keeper has ended, as long as this process lives; afterwards [`attach`] does.
fn guard(keeper: &AsyncFd<OwnedFd>, running: Running) -> io::Result<()> {
    let keeper = watch(keeper.get_ref().try_clone()?, Interest::READABLE)?;
    tokio::spawn(async move {
        let ended = match keeper.readable().await {
            Ok(_) => end_vmm(running).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::error!(pid = running.vmm_pid, %error, "a VMM without its keeper may still run");
        }
    });
    Ok(())
}

/// Ends a VMM whose keeper was killed. The kernel does so only as long as the VMM is the user it was started as: a change of it
/// takes the death signal away (`PR_SET_PDEATHSIG(2const)`). Done when it is gone.
async fn end_vmm(running: Running) -> io::Result<()> {
    tokio::task::spawn_blocking(move || kill_vmm(&running)).await.map_err(io::Error::other)?
}

/// Blocks until it is gone: milliseconds, for a large one seconds.
fn kill_vmm(running: &Running) -> io::Result<()> {
    let Some(vmm) = find(running.vmm_pid, running.vmm_start)? else { return Ok(()) };
    match pidfd_send_signal(&vmm, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let limit = Timespec { tv_sec: limits::KILL.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&vmm, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl ExitRecord {
    /// How the VMM in `dir` ended, if it was seen to.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        records::read(dir, EXIT)
    }
}

impl Keeper {
    /// One that is a child of ours.
    pub(crate) fn launched(
        dir: PathBuf,
        running: Running,
        pidfd: AsyncFd<OwnedFd>,
        process: Process,
    ) -> io::Result<Self> {
        guard(&pidfd, running)?;
        Ok(Self { dir, running, pidfd, child: Mutex::new(Some(process)) })
    }

    /// The machine's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it was told.
    pub fn spec(&self) -> io::Result<KeeperSpec> {
        records::read(&self.dir, SPEC)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Its processes.
    pub fn running(&self) -> Running {
        self.running
    }

    /// The VMM's process, whose memory is the guest's.
    pub fn vmm_pid(&self) -> u32 {
        self.running.vmm_pid
    }

    /// Waits for the VMM's end, and for the keeper's with it. Somebody has to wait for a keeper this process launched,
    /// or a zombie stays.
    pub async fn wait_exit(&self) -> Result<ExitRecord, WaitError> {
        let error = |source| self.waiting(source);
        // Never cleared: a pidfd stays readable once the process ended.
        let _ready = self.pidfd.readable().await.map_err(error)?;
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // Reaping twice is no harm: the result is kept.
            child.try_wait().map_err(error)?;
        }
        let record = ExitRecord::of(&self.dir).map_err(error)?;
        Ok(record.unwrap_or_else(|| ExitRecord::new(End::Unknown, Cause::KeeperLost, String::new(), String::new())))
    }

    /// Ends the VMM without asking the guest, and the keeper with it. Done when both are gone.
    pub async fn kill(&self) -> Result<ExitRecord, WaitError> {
        self.request_end()?;
        let exit = if let Ok(exit) = tokio::time::timeout(limits::KILL, self.wait_exit()).await {
            exit?
        } else {
            tracing::warn!(dir = %self.dir.display(), "the keeper does not end; killing it");
            self.signal(Signal::KILL)?;
            self.wait_exit().await?
        };
        if exit.cause == Cause::KeeperLost {
            end_vmm(self.running).await.map_err(|source| self.waiting(source))?;
            let removed = tokio::time::timeout(limits::KILL, self.remove_group()).await;
            removed.unwrap_or_else(|late| Err(late.into())).map_err(|source| self.waiting(source))?;
        }
        Ok(exit)
    }

    /// What a keeper would have done that was killed.
    async fn remove_group(&self) -> io::Result<()> {
        let spec: Option<KeeperSpec> = records::read(&self.dir, SPEC)?;
        let Some(group) = spec.and_then(|spec| spec.cgroup) else { return Ok(()) };
        while let Err(error) = group.remove() {
            if error.kind() != io::ErrorKind::ResourceBusy {
                return Err(error);
            }
            tokio::time::sleep(limits::RETRY).await;
        }
        Ok(())
    }

    fn waiting(&self, source: io::Error) -> WaitError {
        WaitError { dir: self.dir.clone(), source }
    }

    /// Asks the keeper to end the VMM and itself; does not wait.
    pub fn request_end(&self) -> Result<(), WaitError> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> Result<(), WaitError> {
        match pidfd_send_signal(self.pidfd.get_ref().as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(self.waiting(error.into())),
        }
    }
}
