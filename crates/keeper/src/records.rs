//! The files of a machine's directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sys::spawn::Exit;

use crate::cgroup::CgroupSpec;
use crate::limits;

pub(crate) const SPEC: &str = "spec.json";
pub(crate) const RUNNING: &str = "keeper.json";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const CONSOLE: &str = "console.sock";
pub(crate) const LOG: &str = "keeper.log";
/// Socket in a machine's directory where a keeper with a [`PagerSpec`] waits for its VMM.
pub const PAGER: &str = "pager.sock";

/// What a keeper is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// The machine's directory, below one that only root may enter.
    pub dir: PathBuf,
    /// The VMM.
    pub command: vmm::Command,
    /// Network namespace the VMM enters, such as `/run/netns/NAME`.
    pub network_namespace: Option<PathBuf>,
    /// Control group the VMM is put into as soon as it runs; it lasts as long as the VMM.
    pub cgroup: Option<CgroupSpec>,
    /// How readily the kernel kills the VMM when memory runs out, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Guest memory to be brought page by page to a VMM that connects to [`PAGER`].
    pub pager: Option<PagerSpec>,
}

/// Guest memory that a keeper serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagerSpec {
    /// Flat memory file; must not change.
    pub memory: PathBuf,
    /// What to bring first: a file with a [`memory::pager::WorkingSet`].
    pub working_set: Option<PathBuf>,
}

/// A keeper and its VMM. Process ids are used again, so each comes with its start time (`proc_pid_stat(5)`, field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The keeper.
    pub keeper_pid: u32,
    /// Ticks after boot.
    pub keeper_start: u64,
    /// The VMM.
    pub vmm_pid: u32,
    /// Ticks after boot.
    pub vmm_start: u64,
}

/// How a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The process's end.
    pub end: End,
    /// Why, as far as the keeper can tell.
    pub cause: Cause,
    /// Last console output.
    pub console_tail: String,
    /// Last messages of the VMM's own.
    pub errors_tail: String,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// A process's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It never ran.
    NotStarted,
    /// Exit code.
    Code(i32),
    /// Signal.
    Signal(i32),
    /// Nobody saw it: the keeper was killed.
    Unknown,
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal(signal) => Self::Signal(signal),
        }
    }
}

/// Why a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It could not be started.
    StartFailed,
    /// The keeper was asked to end it.
    Requested,
    /// In order: the guest reset or powered off, or the VMM was told to quit.
    Finished,
    /// The kernel killed it for want of memory, the host's or its group's.
    HostOom,
    /// Its guest memory could no longer be served; the keeper killed it, and the messages end with the reason.
    PagesLost,
    /// Anything else.
    Crashed,
    /// The keeper was killed, and the VMM with it.
    KeeperLost,
}

impl ExitRecord {
    pub(crate) fn new(end: End, cause: Cause, console_tail: String, errors_tail: String) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { end, cause, console_tail, errors_tail, at_unix_ms }
    }
}

/// An empty file that only root may read: guests write parts of what comes into it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Replaces a record as a whole: readers see the old one or the new one.
pub(crate) fn write(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    let mut file = create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(temporary, dir.join(name))
}

/// A record, or nothing when there is none.
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    match File::open(dir.join(name)) {
        Ok(file) => file.take(limits::RECORD_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Removes what an earlier VMM left in the directory.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    for name in [RUNNING, EXIT, CONSOLE, PAGER] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// When a process started, in ticks after boot; none when there is no such process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    start_time_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field, the program's name in parentheses, may itself hold blanks and parentheses.
fn start_time_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times() {
        let stat = "42 (a) b) R 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2000";
        assert_eq!(start_time_in(stat), Some(98765));
        assert_eq!(start_time_in("42 (a"), None);
        assert!(start_time(std::process::id()).is_some());
    }

    #[test]
    fn records_are_replaced_whole() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(read::<Running>(dir.path(), RUNNING)?, None);
        for keeper_pid in 1..4 {
            let running = Running { keeper_pid, keeper_start: 1, vmm_pid: 2, vmm_start: 3 };
            write(dir.path(), RUNNING, &running)?;
            assert_eq!(read(dir.path(), RUNNING)?, Some(running));
        }
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        clear(dir.path())?;
        assert_eq!(fs::read_dir(dir.path())?.count(), 0);
        Ok(())
    }
}
