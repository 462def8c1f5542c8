//! `POST /upgrade`: another daemon takes this one's place. No process notices; clients connect again.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use sys::spawn::{Output, Spawn};

use super::refusal::Refusal;
use crate::daemon::{Daemon, blocking};
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
    let program = daemon.options.program.clone();
    blocking(move || install(&program, &binary)).await?;
    daemon.replaced.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

fn install(program: &Path, binary: &[u8]) -> Result<(), Refusal> {
    let next = program.with_extension(NEXT);
    let installed = try_out(&next, binary).and_then(|()| {
        let former = program.with_extension(FORMER);
        let failed = |error: io::Error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let _ = fs::remove_file(&former);
        fs::hard_link(program, &former).map_err(failed)?;
        fs::rename(&next, program).map_err(failed)
    });
    if installed.is_err() {
        let _ = fs::remove_file(&next);
    }
    installed
}

/// For a moment some process being started may have the file open for writing, from this one.
fn run(next: &Path) -> io::Result<Output> {
    for _ in 0..limits::BUSY_RETRIES {
        match Spawn::new(next).arg("--version").output() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(limits::BUSY_PAUSE),
            run => return run,
        }
    }
    Spawn::new(next).arg("--version").output()
}

/// Writes it and has it say its version.
fn try_out(next: &Path, binary: &[u8]) -> Result<(), Refusal> {
    let write = || {
        fs::write(next, binary)?;
        fs::set_permissions(next, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|error| Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
    match run(next) {
        Ok(output) if output.exit.success() && output.stdout.starts_with(b"envd ") => Ok(()),
        Ok(_) => Err(Refusal::bad_request("the body is not a daemon: it does not tell its version")),
        Err(error) => Err(Refusal::bad_request(format!("the body is not a program for this machine: {error}"))),
    }
}
