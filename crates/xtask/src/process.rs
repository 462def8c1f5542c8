//! Runs programs: one line per step, with its seconds.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Failure, Outcome};

/// Prints `title`, does it, prints how long it took.
pub fn step<T>(title: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    eprintln!("▸ {title}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "✓" } else { "✗" };
    eprintln!("{verdict} {title} ({:.1} s)", start.elapsed().as_secs_f32());
    result
}

/// Runs a program that shows its own progress on this terminal.
pub fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} ended with {status}", line(command)))
}

/// Runs a program silently; its output is shown when it fails.
pub fn run_quietly(command: &mut Command) -> Outcome {
    output(command.stderr(Stdio::piped())).map(drop)
}

/// Standard output of a program. Its standard error goes to this terminal unless redirected before.
pub fn output(command: &mut Command) -> Outcome<String> {
    let output = command
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .map_err(|error| cannot_start(command, &error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{text}{errors}\n{} ended with {}", line(command), output.status))
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    format!("cannot start {}: {error}", command.get_program().to_string_lossy())
}
