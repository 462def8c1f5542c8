//! `cargo xtask soak`: what takes long. Not part of the tests.

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, toolchain, workspace};

/// How long each fuzz target goes on.
const FUZZ_SECONDS: &str = "60";

/// How long the random history of capsules is.
const HISTORY_STEPS: &str = "500";

/// Runs a long history of capsules, ends processes at every point of every operation, and fuzzes what the guest daemon takes from outside.
pub fn run() -> Outcome {
    toolchain::check_rust()?;
    packages::install(&packages::missing(&packages::RUN), Consent::Given)?;
    let envd = guest::build()?;
    let platform = |what, scenario, (name, value)| {
        process::step(what, || {
            let mut cargo = workspace::cargo(&["test", "--package", "wrenn", "--test", "platform", "--", scenario]);
            if !workspace::is_root() {
                cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", crate::test::AS_ROOT);
            }
            process::run(cargo.env("WRENN_ENVD", &envd).env(name, value))
        })
    };
    platform("a long history of capsules", "history", ("WRENN_HISTORY_STEPS", HISTORY_STEPS))?;
    platform("an end at every point", "kill_points", ("WRENN_KILL_POINTS", "all"))?;
    process::step("fuzzing of the guest daemon", || {
        let mut cargo = workspace::cargo(&["test", "--package", "envd", "--test", "fuzz"]);
        process::run(cargo.env("WRENN_FUZZ_SECONDS", FUZZ_SECONDS))
    })
}
