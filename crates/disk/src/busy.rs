//! Waiting out what others hold for a moment: a process being started, a device manager that looks at a new device.

use std::time::Instant;

use rustix::io::Errno;

use crate::limits;

/// Tries again for [`limits::BUSY_PATIENCE`] while the answer is `busy`.
pub(crate) fn outlast<T>(busy: Errno, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let given_up = Instant::now() + limits::BUSY_PATIENCE;
    loop {
        match attempt() {
            Err(errno) if errno == busy && Instant::now() < given_up => std::thread::sleep(limits::BUSY_PAUSE),
            outcome => return outcome,
        }
    }
}
