//! ext4, mounted.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `EXT4_IOC_RESIZE_FS` of `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`.
const RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Grows the file system that this is a file or directory of to so many of its blocks. Its device must have them already.
pub fn grow(mounted: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64, which lives until the call is over.
    match unsafe { libc::ioctl(mounted.as_raw_fd(), RESIZE_FS as _, &raw const blocks) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
