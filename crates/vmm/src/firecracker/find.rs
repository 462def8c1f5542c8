//! Finding the Firecracker of this host.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Firecracker;
use crate::program::{self, ProgramError};

const PROGRAM: &str = "firecracker";

/// How the name of a dynamic linker begins.
const INTERPRETER: &[u8] = b"/ld-";

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
        // It will run in another directory, and with another root.
        let program = program.map_or_else(in_path, Path::canonicalize);
        let program = program.map_err(|source| ProgramError::Run { program: PROGRAM.into(), source })?;
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
        let libraries =
            libraries(program).map_err(|source| ProgramError::Run { program: program.to_owned(), source })?;
        Ok(Self { program: program.to_owned(), version, snapshot_version, libraries, cpu })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }
}

fn in_path() -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|program| program.is_file());
    found.ok_or(io::ErrorKind::NotFound)?.canonicalize()
}

/// Where a program loads its libraries from. Releases of Firecracker are whole in themselves; those of a distribution may not be.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let mut head = Vec::new();
    File::open(program)?.take(4096).read_to_end(&mut head)?;
    // The interpreter's path, which only a dynamically linked program has, is next to the program headers (elf(5), PT_INTERP).
    if !head.windows(INTERPRETER.len()).any(|window| window == INTERPRETER) {
        return Ok(Vec::new());
    }
    Ok(["/lib", "/lib64", "/usr/lib"].map(PathBuf::from).into_iter().filter(|dir| dir.is_dir()).collect())
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
    fn libraries_are_for_programs_that_load_some() {
        assert!(libraries(Path::new("/bin/sh")).is_ok_and(|dirs| !dirs.is_empty()));
        assert!(libraries(Path::new("/etc/passwd")).is_ok_and(|dirs| dirs.is_empty()));
    }

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
