//! `POST /upgrade`: another daemon takes this one's place. No process notices; clients connect again.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sys::spawn::{Spawn, Stream};

use super::refusal::Refusal;
use crate::daemon::{Daemon, Interrupted, blocking};
use crate::limits;
use crate::supervise::FORMER;

/// The new binary until it has shown that it runs.
const NEXT: &str = "next";

/// The body is a daemon for this machine. 204 once it is in its place; should it not begin to serve, the supervisor
/// puts the former one back.
pub(super) async fn upgrade(State(daemon): State<Arc<Daemon>>, binary: Bytes) -> Result<StatusCode, Refusal> {
    if !daemon.supervisor.is_there() {
        return Err(Refusal::new(StatusCode::CONFLICT, "the daemon runs without a supervisor"));
    }
    // Carried through even if whoever asked does not wait: half of it would be a daemon that nobody has tried.
    tokio::spawn(replace(daemon, binary)).await.map_err(|_| Refusal::from(Interrupted))?
}

/// `GET /upgrade`: which daemon this is, as 16 hex digits that another one has not.
pub(super) async fn identity() -> Result<Json<Value>, Refusal> {
    let key = blocking(|| {
        let program = fs::read("/proc/self/exe").map_err(|error| failed(&error))?;
        // As the host digests what it makes guests from: each piece after its length.
        let digest = Sha256::new().chain_update((program.len() as u64).to_le_bytes()).chain_update(program).finalize();
        Ok::<_, Refusal>(format!("{:016x}", digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))))
    });
    Ok(Json(json!({ "key": key.await? })))
}

fn failed(error: &io::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn replace(daemon: Arc<Daemon>, binary: Bytes) -> Result<StatusCode, Refusal> {
    let mut upgraded = daemon.upgraded.lock().await;
    if *upgraded {
        return Err(Refusal::new(StatusCode::CONFLICT, "the daemon is being replaced"));
    }
    let program = daemon.options.program.clone();
    blocking(move || install(&program, &binary)).await?;
    *upgraded = true;
    daemon.replaced.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

fn install(program: &Path, binary: &[u8]) -> Result<(), Refusal> {
    let next = program.with_extension(NEXT);
    let installed = try_out(&next, binary).and_then(|()| {
        let former = program.with_extension(FORMER);
        let _ = fs::remove_file(&former);
        fs::hard_link(program, &former).map_err(|error| failed(&error))?;
        fs::rename(&next, program).map_err(|error| failed(&error))
    });
    if installed.is_err() {
        let _ = fs::remove_file(&next);
    }
    installed
}

/// For a moment some process being started may have the file open for writing, from this one.
fn run(next: &Path) -> io::Result<(bool, Vec<u8>)> {
    for _ in 0..limits::BUSY_RETRIES {
        match ask_version(next) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(limits::BUSY_PAUSE),
            run => return run,
        }
    }
    ask_version(next)
}

/// Success and the first bytes of the output; in time, or not at all.
fn ask_version(next: &Path) -> io::Result<(bool, Vec<u8>)> {
    let mut process = Spawn::new(next).arg("--version").stdout(Stream::Pipe).spawn()?;
    let pidfd = process.pidfd()?;
    let limit = Timespec { tv_sec: limits::TRIAL.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
    if !matches!(ended, Ok(1..)) {
        process.kill()?;
    }
    let success = process.wait()?.success();
    let mut said = Vec::new();
    if let Some(stdout) = process.take_stdout().filter(|_| success) {
        // One read: what it left behind may hold the pipe open.
        said.resize(64, 0);
        let count = { stdout }.read(&mut said)?;
        said.truncate(count);
    }
    Ok((success, said))
}

/// Writes it and has it say its version.
fn try_out(next: &Path, binary: &[u8]) -> Result<(), Refusal> {
    let write = || {
        fs::write(next, binary)?;
        fs::set_permissions(next, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|error| Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
    match run(next) {
        Ok((true, said)) if said.starts_with(b"envd ") => Ok(()),
        Ok(_) => Err(Refusal::bad_request("the body is not a daemon: it does not tell its version")),
        Err(error) => Err(Refusal::bad_request(format!("the body is not a program for this machine: {error}"))),
    }
}
