//! `cargo xtask up`: from a checkout to a running platform.

use std::os::unix::process::CommandExt as _;

use crate::packages::{self, Consent};
use crate::{Outcome, guest, process, toolchain, workspace};

/// What the caller typed behind `up`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    consent: Consent,
    once: bool,
}

impl Options {
    pub fn parse(flags: &[&str]) -> Outcome<Self> {
        let mut options = Self { consent: Consent::Ask, once: false };
        for flag in flags {
            match *flag {
                "--yes" | "-y" => options.consent = Consent::Given,
                "--once" => options.once = true,
                _ => {
                    return Err(format!("up: unknown argument {flag}; known are --yes and --once"));
                }
            }
        }
        Ok(options)
    }
}

/// Installs, builds, then gives this terminal to `wrenn up`.
pub fn run(options: Options) -> Outcome {
    toolchain::check_rust()?;
    let mut missing = toolchain::missing();
    missing.extend(packages::missing(&packages::RUN));
    packages::install(&missing, options.consent)?;
    let envd = guest::build()?;
    process::step("build Wrenn", || process::run(&mut workspace::cargo(&["build", "--package", "wrenn"])))?;

    let program = workspace::target_dir()?.join("debug/wrenn");
    let mut command = packages::privileged("env");
    command.arg(format!("WRENN_ENVD={}", envd.display()));
    // sudo forgets the environment; the platform's own settings are part of the call.
    command.args(std::env::vars().filter(|(name, _)| is_setting(name)).map(|(name, value)| format!("{name}={value}")));
    command.arg(&program).arg("up").current_dir(workspace::root());
    command.args((options.consent == Consent::Given).then_some("--yes"));
    command.args(options.once.then_some("--once"));
    // Takes this process's place: Ctrl-C is for the platform, which saves its capsules before it ends.
    Err(format!("cannot start {}: {}", program.display(), command.exec()))
}

fn is_setting(name: &str) -> bool {
    const OTHERS: &[&str] = &["DATABASE_URL", "REDIS_URL", "LOG_LEVEL", "RUST_BACKTRACE"];
    (name.starts_with("WRENN_") && name != "WRENN_ENVD") || OTHERS.contains(&name)
}
