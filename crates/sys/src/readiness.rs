//! Awaiting descriptors that tokio has no type for, such as a pidfd.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd`, which should be non-blocking, with the current tokio runtime.
///
/// # Panics
/// Outside of a tokio runtime with I/O enabled.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays so until it is dropped, and always names the same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
