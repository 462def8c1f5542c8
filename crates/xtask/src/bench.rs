//! `cargo xtask bench`: figures as ratios against references measured in the same run.

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, toolchain, workspace};

/// The benchmark of the guest daemon; all other names are the platform's.
const ENVD: &str = "envd";

/// Installs what is missing, builds, measures. `arguments` are benchmark names and `--json`.
pub fn run(arguments: &[&str]) -> Outcome {
    toolchain::check_rust()?;
    packages::install(&packages::missing(packages::RUN), Consent::Given)?;
    let named = arguments.iter().any(|argument| !argument.starts_with('-'));
    let of_envd = arguments.contains(&ENVD) || !named;
    let of_platform: Vec<&str> = arguments.iter().copied().filter(|argument| *argument != ENVD).collect();
    let platform = !named || of_platform.iter().any(|argument| !argument.starts_with('-'));
    let done = if platform { measure("wrenn", "platform", &of_platform) } else { Ok(()) };
    if of_envd {
        packages::install(&packages::missing(packages::BENCH), Consent::Given)?;
        let flags: Vec<&str> = arguments.iter().copied().filter(|argument| argument.starts_with('-')).collect();
        measure(ENVD, ENVD, &flags)?;
    }
    done
}

/// The profile of `up` and of the tests: the figures are those of what users run.
fn measure(package: &str, bench: &str, arguments: &[&str]) -> Outcome {
    let envd = guest::build()?;
    let mut cargo =
        workspace::cargo(&["bench", "--quiet", "--profile", "dev", "--package", package, "--bench", bench, "--"]);
    cargo.args(arguments).env("WRENN_ENVD", envd);
    if !workspace::is_root() {
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", crate::test::AS_ROOT);
    }
    process::run(&mut cargo)
}
