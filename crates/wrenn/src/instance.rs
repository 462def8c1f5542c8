//! One platform per data directory: a lock that the kernel releases when its holder dies.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: &str = "wrenn.lock";
/// How long a running platform may take to pause its capsules and end.
const END: Duration = Duration::from_mins(2);

/// The right to run on a data directory; given back on drop.
#[derive(Debug)]
pub struct Instance {
    _lock: File,
}

impl Instance {
    /// Takes the directory, making it if need be (0700: it holds keys and guests' memory).
    pub fn take(dir: &Path) -> Outcome<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| Failure::path("create", dir, &error))?;
        let path = dir.join(FILE);
        let mut lock = open(&path).map_err(|error| Failure::path("open", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(dir, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(Failure::path("lock", &path, &error)),
        }
        lock.set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(|error| Failure::path("write", &path, &error))?;
        Ok(Self { _lock: lock })
    }
}

fn taken(dir: &Path, lock: &mut File) -> Failure {
    let holder = holder(lock).map(|pid| format!(" (process {})", pid.as_raw_nonzero())).unwrap_or_default();
    Failure::new(Exit::WrongState, format_args!("a platform is already running on {}{holder}", dir.display()))
        .hint("use it, end it with `wrenn down`, or start another with --dir and --listen")
}

/// Whether some process holds the directory.
pub fn is_running(dir: &Path) -> bool {
    running(dir).is_some()
}

/// Ends the process that holds the directory, if any, and waits until it is gone. It pauses its capsules first,
/// unless `at_once`.
pub fn end(dir: &Path, at_once: bool) -> Outcome {
    let Some((lock, pid)) = running(dir) else { return Ok(()) };
    let pid = pid.ok_or_else(|| Failure::plain(format_args!("{} names no process", dir.join(FILE).display())))?;
    let deadline = Instant::now() + END;
    let signal = |signal| {
        kill_process(pid, signal)
            .map_err(|error| Failure::plain(format_args!("cannot end process {}: {error}", pid.as_raw_nonzero())))
    };
    signal(Signal::INT)?;
    while matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        if Instant::now() >= deadline {
            return Err(Failure::plain(format_args!(
                "process {} did not end within {} s",
                pid.as_raw_nonzero(),
                END.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
        if at_once {
            // The second one skips the pausing. Its target may be gone by now, which is what we want.
            let _ = kill_process(pid, Signal::INT);
        }
    }
    Ok(())
}

/// The lock file and its holder's id, when it is held: a held lock means that the process it names is alive.
fn running(dir: &Path) -> Option<(File, Option<Pid>)> {
    let mut lock = File::options().read(true).write(true).open(dir.join(FILE)).ok()?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let pid = holder(&mut lock);
            Some((lock, pid))
        }
        _ => None,
    }
}

fn holder(lock: &mut File) -> Option<Pid> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether a platform was ever started on the directory. Only such a one may be torn down or deleted.
pub fn is_ours(dir: &Path) -> bool {
    dir.join(FILE).is_file()
}

/// Deletes a data directory. The caller has checked that it is ours.
pub fn purge(dir: &Path) -> Outcome {
    remaining_mounts(dir)?;
    fs::remove_dir_all(dir).map_err(|error| Failure::path("delete", dir, &error))
}

/// Deleting through a mount that was left behind would delete what is mounted there.
fn remaining_mounts(dir: &Path) -> Outcome {
    let dir = dir.canonicalize().map_err(|error| Failure::path("read", dir, &error))?;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .find(|mount| mount.starts_with(&dir));
    match inside {
        Some(mount) => Err(Failure::plain(format_args!("{} is still mounted", mount.display()))
            .hint(format_args!("umount {}", mount.display()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() -> Outcome {
        let dir = tempfile::tempdir().map_err(Failure::from)?;
        assert!(!is_running(dir.path()));
        let first = Instance::take(dir.path())?;
        assert!(is_running(dir.path()));
        let second = Instance::take(dir.path()).expect_err("it is taken");
        assert_eq!(second.exit, Exit::WrongState);
        assert!(second.message.contains(&format!("(process {})", std::process::id())), "{}", second.message);
        drop(first);
        Instance::take(dir.path()).map(drop)
    }

    #[test]
    fn a_directory_is_ours_once_it_was_taken() -> Outcome {
        let dir = tempfile::tempdir().map_err(Failure::from)?;
        assert!(!is_ours(dir.path()));
        drop(Instance::take(dir.path())?);
        assert!(is_ours(dir.path()));
        purge(dir.path())?;
        assert!(!dir.path().exists());
        Ok(())
    }
}
