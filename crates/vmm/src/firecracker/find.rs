//! Finding the Firecracker of this host.

use std::fmt;
use std::path::Path;

use super::Firecracker;
use crate::program::{self, ProgramError};

const PROGRAM: &str = "firecracker";

/// Oldest version that takes every field we send, and without known defects in what we use.
const OLDEST: Version = Version(1, 16, 1);

/// Version of a Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Why there is no usable Firecracker.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It cannot be asked.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Too old.
    #[error("Firecracker {0} is too old, {OLDEST} is needed")]
    TooOld(Version),
}

impl Firecracker {
    /// The Firecracker at `program`, or in `PATH`; whether it can run guests here is not tried. Blocks for some 20 ms.
    pub fn find(program: Option<&Path>) -> Result<Self, FindError> {
        // It will run in another directory; a bare name is looked up in PATH.
        let program = match program {
            Some(path) => {
                std::path::absolute(path).map_err(|source| ProgramError::Run { program: path.to_owned(), source })?
            }
            None => PROGRAM.into(),
        };
        let program = program.as_path();
        let version = program::version(program, "--version", version_in)?;
        if version < OLDEST {
            return Err(FindError::TooOld(version));
        }
        let snapshot_version = program::version(program, "--snapshot-version", version_in)?.to_string();
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let what = ["vendor_id", "cpu family", "model", "stepping", "flags"];
        // Of the first processor; "model" is also how "model name" begins.
        let lines = info
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| what.iter().any(|key| line.starts_with(key)));
        let cpu = format!("host@{:08x}", crc32fast::hash(lines.collect::<String>().as_bytes()));
        Ok(Self { program: program.to_owned(), version, snapshot_version, cpu })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }
}

/// The first version in `Firecracker v1.16.1`, followed by whatever else it has to say.
fn version_in(output: &str) -> Option<Version> {
    output.split_whitespace().find_map(|word| {
        let mut parts = word.strip_prefix('v')?.split(['.', '-']).map(str::parse);
        let mut next = || parts.next()?.ok();
        Some(Version(next()?, next()?, next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (output, version) in [
            ("Firecracker v1.16.1\n\n2026-08-21T10:00:00 [anonymous-instance:main] exiting", Some(Version(1, 16, 1))),
            ("Firecracker v1.17.0-dev\n", Some(Version(1, 17, 0))),
            ("v10.0.0\n", Some(Version(10, 0, 0))),
            ("Firecracker v1.16", None),
            ("", None),
        ] {
            assert_eq!(version_in(output), version, "{output}");
        }
    }
}
