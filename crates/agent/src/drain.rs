//! Emptying a host: what runs on it is paused, and nothing starts, until it takes capsules again.
//!
//! It is for maintenance, so it is written down: a restart of the agent or of the machine does not end it.

use crate::durable::replace;
use crate::failure::Failure;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Whether a host is to be empty.
#[derive(Debug)]
pub struct Switch {
    on: AtomicBool,
    changed: Notify,
}

impl Switch {
    /// One that is on or off.
    pub fn new(on: bool) -> Self {
        Self { on: AtomicBool::new(on), changed: Notify::new() }
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// The next change. Who asks for it before looking misses none.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// `true` if that is news.
    pub fn set(&self, on: bool) -> bool {
        let is_news = self.on.swap(on, Ordering::AcqRel) != on;
        self.changed.notify_waiters();
        is_news
    }
}

/// A host's switch across restarts.
#[derive(Debug)]
pub struct Drain {
    /// It is on while this file exists.
    marker: PathBuf,
    /// As of now.
    pub switch: Switch,
}

impl Drain {
    /// As it was left.
    pub fn open(marker: PathBuf) -> io::Result<Self> {
        let switch = Switch::new(marker.try_exists()?);
        Ok(Self { marker, switch })
    }

    /// Refuses what would start a VM while it is on.
    pub fn admit(&self) -> Result<(), Failure> {
        if self.switch.is_on() { Err(Failure::Draining) } else { Ok(()) }
    }

    /// Switches, durably; `true` if that is news.
    pub fn set(&self, on: bool) -> io::Result<bool> {
        if on {
            replace(self.marker.clone(), b"")?;
        } else {
            match fs::remove_file(&self.marker) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => File::open(self.marker.parent().unwrap_or(Path::new(".")))?.sync_all()?,
            }
        }
        Ok(self.switch.set(on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn it_outlives_whoever_began_it() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let open = || Drain::open(dir.path().join("draining"));
        let drain = open()?;
        assert!(drain.admit().is_ok() && !drain.set(false)?);
        let changed = drain.switch.changed();
        assert!(drain.set(true)? && !drain.set(true)?);
        assert!(changed.now_or_never().is_some(), "it was asked for before");
        assert!(drain.admit().is_err() && open()?.switch.is_on());
        assert!(drain.set(false)?);
        assert!(drain.admit().is_ok() && !open()?.switch.is_on());
        Ok(())
    }
}
