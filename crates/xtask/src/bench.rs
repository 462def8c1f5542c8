//! `cargo xtask bench`: figures as ratios against references measured in the same run.

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, toolchain, workspace};

/// Installs what is missing, builds, measures. `arguments` are benchmark names and `--json`.
pub fn run(arguments: &[&str]) -> Outcome {
    toolchain::check_rust()?;
    packages::install(&packages::missing(packages::RUN), Consent::Given)?;
    let envd = guest::build()?;
    // The profile of `up` and of the tests: the figures are those of what users run.
    let mut cargo =
        workspace::cargo(&["bench", "--quiet", "--profile", "dev", "--package", "wrenn", "--bench", "platform", "--"]);
    cargo.args(arguments).env("WRENN_ENVD", envd);
    if !workspace::is_root() {
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", crate::test::AS_ROOT);
    }
    process::run(&mut cargo)
}
