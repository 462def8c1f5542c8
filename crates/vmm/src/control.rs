//! Reaching the control socket of a VMM.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::limits;

/// Connects to the socket `name` in a machine's directory as soon as the VMM listens on it.
pub(crate) async fn reach(runtime_dir: &File, name: &str, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    loop {
        match connect(runtime_dir, name).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(limits::CONNECT_RETRY).await,
        }
    }
}

/// The directory may be a VMM's that has fallen to its guest: a link in there leads nowhere.
async fn connect(runtime_dir: &File, name: &str) -> io::Result<UnixStream> {
    let socket = openat(runtime_dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // Short whatever the directory is called: a socket's path has at most 107 bytes (unix(7)).
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_link_to_another_socket_is_not_followed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let _listener = UnixListener::bind(dir.path().join("socket"))?;
        std::os::unix::fs::symlink("socket", dir.path().join("link"))?;
        let runtime_dir = File::open(dir.path())?;
        for (name, expected) in [("socket", true), ("link", false), ("missing", false)] {
            assert_eq!(reach(&runtime_dir, name, Duration::ZERO).await.is_ok(), expected, "{name}");
        }
        Ok(())
    }
}
