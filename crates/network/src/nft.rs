//! Running `nft`: once for the host's table, once per slot. Slots are prepared ahead, so that it is not on the way of a capsule that
//! is created, unless more are created at once than slots are ready.

use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use nftables::schema::Nftables;
use rustix::fs::MemfdFlags;
use sys::spawn::{Spawn, Stream};

use crate::limits;

/// Why a ruleset was not applied or read. A ruleset that fails changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The tool is not installed.
    #[error("nft is not installed (Debian package nftables)")]
    NoTool,
    /// The tool or the kernel refused.
    #[error("nft failed: {message}")]
    Refused {
        /// The beginning of what it wrote.
        message: String,
    },
    /// Starting the tool or talking to it failed.
    #[error("cannot run nft: {0}")]
    Io(#[from] io::Error),
    /// Its output is not JSON.
    #[error("nft's output cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Applies a ruleset in a namespace, atomically. Blocks for some 10 ms.
pub(crate) fn apply(ruleset: &Nftables<'_>, namespace: OwnedFd) -> Result<(), NftError> {
    let mut input = std::fs::File::from(rustix::fs::memfd_create("nft", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    input.write_all(&serde_json::to_vec(ruleset)?)?;
    input.rewind()?;
    run(Spawn::new("nft").args(["-j", "-f", "-"]).stdin(Stream::Fd(input.into())), namespace).map(drop)
}

/// The whole ruleset of a namespace as `nft -j` prints it.
pub(crate) fn list(namespace: OwnedFd) -> Result<serde_json::Value, NftError> {
    let output = run(Spawn::new("nft").args(["-j", "list", "ruleset"]), namespace)?;
    Ok(serde_json::from_slice(&output)?)
}

fn run(command: Spawn, namespace: OwnedFd) -> Result<Vec<u8>, NftError> {
    let command = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").enter_namespace(namespace);
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::NoTool,
        _ => NftError::Io(error),
    })?;
    if output.exit.success() {
        return Ok(output.stdout);
    }
    let message: Vec<u8> = output.stderr.into_iter().take(limits::TOOL_MESSAGE_BYTES).collect();
    Err(NftError::Refused { message: String::from_utf8_lossy(&message).trim().to_owned() })
}
