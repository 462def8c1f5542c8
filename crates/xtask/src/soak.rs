//! `cargo xtask soak`: what takes long. Not part of the tests.

use crate::{Outcome, process, toolchain, workspace};

/// How long each fuzz target goes on.
const FUZZ_SECONDS: &str = "60";

/// Fuzzes what the guest daemon takes from outside.
pub fn run() -> Outcome {
    toolchain::check_rust()?;
    process::step("fuzzing of the guest daemon", || {
        let mut cargo = workspace::cargo(&["test", "--package", "envd", "--test", "fuzz"]);
        process::run(cargo.env("WRENN_FUZZ_SECONDS", FUZZ_SECONDS))
    })
}
