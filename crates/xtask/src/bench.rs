//! `cargo xtask bench`: figures as ratios against references measured in the same run.

use std::process::Command;

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, toolchain, workspace};

/// The benchmark of the guest daemon and that of the page server; all other names are the platform's.
const ENVD: &str = "envd";
const PAGER: &str = "pager";

/// Installs what is missing, builds, measures. `arguments` are benchmark names and `--json`.
pub fn run(arguments: &[&str]) -> Outcome {
    toolchain::check_rust()?;
    packages::install(&packages::missing(&packages::RUN), Consent::Given)?;
    let (flags, names): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    let wanted = |name| names.is_empty() || names.contains(&name);
    let of_platform: Vec<&str> = arguments.iter().copied().filter(|name| ![ENVD, PAGER].contains(name)).collect();
    let mut done = Ok(());
    if names.is_empty() || of_platform.len() > flags.len() {
        done = measure_with_guest("wrenn", "platform", &of_platform);
    }
    if wanted(ENVD) {
        packages::install(&packages::missing(packages::BENCH), Consent::Given)?;
        done = done.and(measure_with_guest(ENVD, ENVD, &flags));
    }
    if wanted(PAGER) {
        done = done.and(measure(&mut bench("memory", PAGER, &flags)));
    }
    done
}

fn measure_with_guest(package: &str, name: &str, arguments: &[&str]) -> Outcome {
    let envd = guest::build()?;
    measure(bench(package, name, arguments).env("WRENN_ENVD", envd))
}

/// The profile of `up` and of the tests: the figures are those of what users run.
fn bench(package: &str, name: &str, arguments: &[&str]) -> Command {
    let mut cargo =
        workspace::cargo(&["bench", "--quiet", "--profile", "dev", "--package", package, "--bench", name, "--"]);
    cargo.args(arguments);
    cargo
}

fn measure(cargo: &mut Command) -> Outcome {
    if !workspace::is_root() {
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", crate::test::AS_ROOT);
    }
    process::run(cargo)
}
