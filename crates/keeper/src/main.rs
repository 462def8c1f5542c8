//! The keeper as a program of its own: `wrenn-keeper keeper`, the same word as `wrenn keeper`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if !std::env::args().skip(1).eq(["keeper"]) {
        eprintln!("usage: wrenn-keeper keeper");
        return ExitCode::from(2);
    }
    match keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
