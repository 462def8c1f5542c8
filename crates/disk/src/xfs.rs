//! The pool file: an XFS file system with reflink in a sparse file, for hosts whose own file system has none.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstat, stat};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::loopdev::LoopDevice;
use sys::spawn::{Exit, Spawn};

use crate::admission::available_bytes;
use crate::busy::outlast;
use crate::{limits, mounts};

/// Why there is no pool file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// The space that may be used is too small.
    #[error("{available_bytes} bytes may be used, {} are needed", limits::POOL_MIN_BYTES)]
    TooSmall {
        /// What may be used.
        available_bytes: u64,
    },
    /// The tool is not installed.
    #[error("mkfs.xfs is not installed")]
    NoTool,
    /// The tool failed.
    #[error("mkfs.xfs failed: {message}")]
    Tool {
        /// The end of what it wrote.
        message: String,
    },
    /// Creating or renaming the file failed.
    #[error("cannot create the pool file: {0}")]
    Io(#[from] io::Error),
}

/// Makes the pool file `image`. It appears under its name only when it is whole.
pub(crate) fn format(image: &Path, size_limit_bytes: Option<u64>) -> Result<(), FormatError> {
    let directory = image.parent().unwrap_or(Path::new("."));
    let share = available_bytes(directory)? / 100 * limits::POOL_SHARE_PERCENT;
    let size_bytes = share.min(size_limit_bytes.unwrap_or(u64::MAX));
    if size_bytes < limits::POOL_MIN_BYTES {
        return Err(FormatError::TooSmall { available_bytes: size_bytes });
    }
    let unfinished = unfinished(image);
    let made = make(&unfinished, size_bytes).and_then(|()| {
        std::fs::rename(&unfinished, image)?;
        Ok(File::open(directory)?.sync_all()?)
    });
    if made.is_err() {
        // The first error is what matters; the next attempt overwrites what is left.
        let _ = std::fs::remove_file(&unfinished);
    }
    made
}

/// Where a pool file is made.
pub(crate) fn unfinished(image: &Path) -> PathBuf {
    image.with_extension("new")
}

fn make(file: &Path, size_bytes: u64) -> Result<(), FormatError> {
    let sparse = OpenOptions::new().write(true).create(true).truncate(true).open(file)?;
    sparse.set_len(size_bytes)?;
    let sector = format!("size={}", limits::SECTOR_BYTES);
    let made = Spawn::new("mkfs.xfs")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-f", "-m", "reflink=1", "-s", &sector])
        .arg(file)
        .output();
    match made {
        Ok(output) if output.exit == Exit::Code(0) => Ok(sparse.sync_all()?),
        Ok(output) => {
            let message = output.stderr.iter().take(limits::TOOL_MESSAGE_BYTES).copied().collect::<Vec<_>>();
            Err(FormatError::Tool { message: String::from_utf8_lossy(&message).trim().to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FormatError::NoTool),
        Err(error) => Err(error.into()),
    }
}

/// Mounts the pool file at `directory` and says on which device. The kernel detaches the device at the unmount.
///
/// `discard`: freed extents become holes of the file, or the host's disk would fill up with deleted capsules. `nouuid`: a
/// copy of a data directory may be used beside the original (mount(8)). So it is on us that no file is mounted twice.
pub(crate) fn mount(image: &Path, directory: &Path) -> io::Result<PathBuf> {
    let backing = OpenOptions::new().read(true).write(true).open(image)?;
    outlast(Errno::BUSY, || claim(&backing)).map_err(|errno| match errno {
        Errno::BUSY => {
            io::Error::new(io::ErrorKind::ResourceBusy, "the file is mounted elsewhere, perhaps by another name")
        }
        errno => errno.into(),
    })?;
    let device = LoopDevice::attach(backing.as_fd(), limits::SECTOR_BYTES)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    rustix::mount::mount(device.path(), directory, "xfs", flags, c"discard,nouuid")?;
    Ok(device.path().to_owned())
}

/// Busy while any loop device has the file. The lock, which a device keeps for as long as it keeps the file open, is for two
/// who look at the same time.
fn claim(file: &File) -> Result<(), Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Errno::BUSY),
        locked => locked?,
    }
    let own = fstat(file)?;
    let same = |path: PathBuf| stat(path).is_ok_and(|other| (other.st_dev, other.st_ino) == (own.st_dev, own.st_ino));
    if mounts::backing_files().any(same) { Err(Errno::BUSY) } else { Ok(()) }
}
