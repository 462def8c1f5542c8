//! Asking a VMM's program what it is.

use std::io;
use std::path::{Path, PathBuf};

use sys::spawn::Spawn;

/// Why it is not known which version a program has.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Not installed, most often.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It runs but does not say a version.
    #[error("{program} does not tell its version: {output:?}")]
    NoVersion {
        /// The program.
        program: PathBuf,
        /// What it said.
        output: String,
    },
}

/// Runs it with this argument, and reads a version in what it says. Blocks.
pub(crate) fn version<T>(program: &Path, argument: &str, read: fn(&str) -> Option<T>) -> Result<T, ProgramError> {
    let output = Spawn::new(program).inherit_env().arg(argument).output();
    let output = output.map_err(|source| ProgramError::Run { program: program.to_owned(), source })?.stdout;
    let output = String::from_utf8_lossy(&output).into_owned();
    read(&output).ok_or_else(|| ProgramError::NoVersion { program: program.to_owned(), output })
}
