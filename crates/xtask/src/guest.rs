//! The guest daemon: one static binary, built apart so that its features stay its own.

use std::path::PathBuf;

use crate::{Outcome, process, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "guest";

/// Builds `envd` and returns its path.
pub fn build() -> Outcome<PathBuf> {
    let path = workspace::target_dir()?.join(TARGET).join(PROFILE).join("envd");
    process::step("build the guest daemon", || {
        let mut cargo = workspace::cargo(&["build", "--package", "envd", "--profile", PROFILE, "--target", TARGET]);
        // With an explicit --target these flags reach only what runs in the guest, not build scripts and macros.
        process::run(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static"))
    })?;
    Ok(path)
}
