//! `cargo xtask test`: everything, on real virtual machines and databases.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, sdk, toolchain, workspace};

/// Test binaries are run through this when the caller is not root: they make namespaces and virtual machines.
pub const AS_ROOT: &str = "sudo --preserve-env";

/// A test program that hangs is ended after this many seconds; its last lines tell which test it was.
const LIMIT: &str = "timeout --kill-after=10 2400";

/// Names of the suites, in the order they run.
const SUITES: [&str; 3] = ["crates", "guest", "sdk"];

/// Installs what is missing, then runs the named suites, or all; the first failing one ends the run.
pub fn run(names: &[&str]) -> Outcome {
    if let Some(unknown) = names.iter().find(|name| !SUITES.contains(name)) {
        return Err(format!("test: no suite is called {unknown}; there are {}", SUITES.join(", ")));
    }
    toolchain::check_rust()?;
    let mut missing = toolchain::missing();
    missing.extend(packages::missing(&packages::RUN));
    missing.extend(packages::missing(packages::TEST));
    packages::install(&missing, Consent::Given)?;
    let envd = guest::build()?;
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    if wanted("crates") {
        let artifacts = prepare(&envd)?;
        let arguments = ["test", "--no-fail-fast", "--workspace", "--exclude", "envd"];
        process::step("tests of all crates", || process::run(&mut cargo(&arguments, &envd, &artifacts)))?;
    }
    if wanted("guest") {
        let arguments = ["test", "--no-fail-fast", "--package", "envd", "--package", "listen"];
        process::step("tests of the guest daemon", || process::run(&mut cargo(&arguments, &envd, &envd)))?;
    }
    if wanted("sdk") {
        sdk::run(&envd)?;
    }
    Ok(())
}

/// Kernel, initramfs and root file system for the tests that boot virtual machines; returns their directory.
fn prepare(envd: &Path) -> Outcome<PathBuf> {
    let dir = workspace::tests_dir()?.join("artifacts");
    let current = dir.join("current");
    process::step("prepare guest images", || {
        let mut command =
            cargo(&["run", "--quiet", "--package", "image", "--example", "prepare", "--"], envd, &current);
        process::run(command.arg(&dir).arg(envd).stdout(Stdio::null()))
    })?;
    Ok(current)
}

/// `cargo ARGUMENTS`, whose programs find the guest's files and run as root.
fn cargo(arguments: &[&str], envd: &Path, artifacts: &Path) -> Command {
    let mut cargo = workspace::cargo(arguments);
    cargo.env("WRENN_ENVD", envd).env("WRENN_TEST_ARTIFACTS", artifacts);
    let runner = if workspace::is_root() { LIMIT.to_owned() } else { format!("{AS_ROOT} {LIMIT}") };
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    cargo
}
