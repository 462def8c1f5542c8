//! Runs the external tools this room is allowed to start.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use crate::Error;

/// Lines of output an error shows.
const TAIL_LINES: usize = 20;
/// Longer lines are cut: package tools may print anything.
const LINE_BYTES: usize = 400;

/// A program with the package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    pub package: &'static str,
}

pub const DEPMOD: Tool = Tool { name: "depmod", package: "kmod" };
pub const DPKG_DEB: Tool = Tool { name: "dpkg-deb", package: "dpkg" };
pub const MKE2FS: Tool = Tool { name: "mke2fs", package: "e2fsprogs" };
pub const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };
pub const TAR: Tool = Tool { name: "tar", package: "tar" };

impl Tool {
    /// A command in the C locale that also finds the tools of `/usr/sbin`, where an ordinary user's PATH has none.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.name);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).env("LC_ALL", "C");
        command
    }

    /// Runs to the end; standard output and error are kept only for the error message.
    pub fn run(self, command: &mut Command) -> Result<(), Error> {
        self.watch(command, |_| {})
    }

    /// Like [`Tool::run`], calling `line` for each line the tool writes to standard error.
    pub fn watch(self, command: &mut Command, mut line: impl FnMut(&str)) -> Result<(), Error> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| {
                match error.kind() {
                    ErrorKind::NotFound => Error::MissingTool { tool: self.name, package: self.package },
                    _ => Error::io("start", self.name.as_ref())(error),
                }
            })?;
        let mut tail = VecDeque::with_capacity(TAIL_LINES);
        if let Some(stderr) = child.stderr.take() {
            for bytes in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(bytes.get(..LINE_BYTES).unwrap_or(&bytes)).into_owned();
                line(&text);
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(text);
            }
        }
        let status = child.wait().map_err(Error::io("wait for", self.name.as_ref()))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Tool { tool: self.name, status, tail: Vec::from(tail).join("\n") })
    }
}

/// `/proc/self` belongs to the effective user.
pub fn require_root() -> Result<(), Error> {
    let owner = fs::metadata("/proc/self").map_err(Error::io("inspect", "/proc/self".as_ref()))?.uid();
    if owner == 0 { Ok(()) } else { Err(Error::NotRoot) }
}
