//! The daemon's side of a pseudo terminal.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proto::process::PTY;
use rustix::io::Errno;
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pseudo terminal's master.
#[derive(Debug)]
pub(super) struct Terminal(AsyncFd<OwnedFd>);

/// Sizes beyond 16 bits are truncated, as the kernel's type is.
#[expect(clippy::cast_possible_truncation)]
fn winsize(pty: &PTY) -> Winsize {
    Winsize { ws_row: pty.size.rows as u16, ws_col: pty.size.cols as u16, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Opens a pair; the second value is the process's side.
    pub(super) fn open(pty: &PTY) -> io::Result<(Self, OwnedFd)> {
        use rustix::fs::{Mode, OFlags};
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let process_side = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::termios::tcsetwinsize(&master, winsize(pty))?;
        Ok((Self::from_master(master)?, process_side))
    }

    /// One whose pair was opened before.
    pub(super) fn from_master(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self(sys::readiness::watch(master, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// The master.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }

    pub(super) fn resize(&self, pty: &PTY) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), winsize(pty))?)
    }

    /// Reads what is there, waiting for it; 0 when no process has the terminal open any more.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let result = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?));
            match result {
                // A master whose other side is closed reports EIO, not end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(0),
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = bytes.get(written?..).unwrap_or_default();
            }
        }
        Ok(())
    }
}
