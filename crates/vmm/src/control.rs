//! Reaching the control socket of a VMM.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::limits;

/// Connects to the socket `name` in a machine's directory as soon as the VMM listens on it.
pub(crate) async fn reach(runtime_dir: &File, name: &str, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    // Short whatever the directory is called: a socket's path has at most 107 bytes (unix(7)).
    let path = format!("/proc/self/fd/{}/{name}", runtime_dir.as_raw_fd());
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(limits::CONNECT_RETRY).await,
        }
    }
}
