//! Cloning a file: shared extents where the file system can, a sparse copy elsewhere.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// How the target of [`clone_file`] got its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// Both files share their extents until one of them is written to; the cost does not depend on the data.
    Shared,
    /// Data was copied, holes were kept.
    Copied,
}

/// Why a file was not cloned. The target does not exist then, unless it existed before.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The source cannot be read.
    #[error("cannot read {path}")]
    Source {
        /// The source.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The target exists or cannot be created.
    #[error("cannot create {path}")]
    Target {
        /// The target.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The data did not arrive, for lack of space in most cases.
    #[error("cannot copy {from} to {to}")]
    Copy {
        /// The source.
        from: PathBuf,
        /// The target, removed again.
        to: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Makes `target`, which must not exist, a file of mode 0600 with the content of `source`.
pub fn clone_file(source: &Path, target: &Path) -> Result<Cloned, CloneError> {
    let from = File::open(source).map_err(|e| CloneError::Source { path: source.into(), source: e })?;
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(|e| CloneError::Target { path: target.into(), source: e })?;
    fill(&from, &to).map_err(|e| {
        // The copy's error is what matters; a leftover is found by whoever owns the directory.
        let _ = std::fs::remove_file(target);
        CloneError::Copy { from: source.into(), to: target.into(), source: e }
    })
}

fn fill(from: &File, to: &File) -> io::Result<Cloned> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(Cloned::Shared),
        // ioctl_ficlone(2): not this file system, two file systems, or alignment the file system does not accept.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            sys::sparse::copy(from, to, from.metadata()?.len())?;
            Ok(Cloned::Copied)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether files of this directory share extents, found out by doing it: some file systems (overlays, XFS made
/// without `reflink`) cannot be told from others by their type.
pub(crate) fn shares_extents(directory: &Path) -> io::Result<bool> {
    let from = directory.join(format!(".probe-{}-from", std::process::id()));
    let to = from.with_extension("to");
    for leftover in [&from, &to] {
        let _ = std::fs::remove_file(leftover);
    }
    std::fs::write(&from, [1_u8; 4096])?;
    let cloned = clone_file(&from, &to);
    for probe in [&from, &to] {
        let _ = std::fs::remove_file(probe);
    }
    match cloned {
        Ok(how) => Ok(how == Cloned::Shared),
        Err(
            CloneError::Source { source, .. } | CloneError::Target { source, .. } | CloneError::Copy { source, .. },
        ) => Err(source),
    }
}
