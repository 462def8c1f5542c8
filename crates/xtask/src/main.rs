//! Developer tasks: `cargo xtask up | test | soak | bench | check | guest`.
//!
//! Knows how a newcomer's machine becomes one that builds, runs and tests Wrenn, and verifies the invariants of
//! ARCHITECTURE.md. Must never know how the product does anything: it starts `cargo`, `apt-get` and `wrenn`.

mod bench;
mod check;
mod guest;
mod packages;
mod process;
mod sdk;
mod soak;
mod test;
mod toolchain;
mod up;
mod workspace;

use std::process::ExitCode;

/// Why a task ended early, ready to be shown.
pub type Failure = String;
/// What most functions here return.
pub type Outcome<T = ()> = Result<T, Failure>;

const USAGE: &str = "\
usage: cargo xtask TASK

  up [--yes] [--once]   install what is missing, build, run Wrenn here (--once: first capsule, then exit)
  test [crates|guest|sdk]
                        install what is missing, run all tests, real virtual machines included
  soak                  fuzz the guest daemon for minutes
  bench [NAME…] [--json]
                        create, resume, pause, exec, envd: figures against what the machine allows
  check                 formatting, lints, architecture rules
  guest                 build the static guest daemon and print its path";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["up", flags @ ..] => up::Options::parse(flags).and_then(up::run),
        ["test", suites @ ..] => test::run(suites),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["soak"] => soak::run(),
        ["check"] => check::run(),
        ["guest"] => guest::build().map(|path| println!("{}", path.display())),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
