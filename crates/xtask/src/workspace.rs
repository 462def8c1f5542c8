//! The checkout, and commands in it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{Outcome, process};

/// Root of the checkout this task runs for: cargo names it at every run. Where it was compiled may be gone, because
/// checkouts can share a target directory.
pub fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(&here).to_owned()
}

/// `cargo ARGUMENTS` with the toolchain that runs this task.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo set for this task is not meant for the crates it builds.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("RUSTFLAGS");
    command.args(arguments).current_dir(root());
    command
}

/// `cargo metadata` of the workspace members alone.
pub fn metadata() -> Outcome<Value> {
    let text = process::output(&mut cargo(&["metadata", "--no-deps", "--format-version=1"]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Outcome<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    Ok(dir.into())
}

/// `CARGO_TARGET_TMPDIR` of the tests: what is prepared here serves all suites, and the next run.
pub fn tests_dir() -> Outcome<PathBuf> {
    Ok(target_dir()?.join("tmp"))
}

/// The effective user owns `/proc/self`.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
