//! Where pages come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::dirty::PAGE_BYTES;
use crate::limits::{SOURCE_RETRIES, SOURCE_RETRY, SOURCE_RETRY_MOST};

/// Guest memory somewhere. Two threads read it at the same time.
pub trait Source: Send + Sync {
    /// Fills `buffer` with what is at `offset`. Must end: whoever waits for the page waits as long.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Bytes from `offset` on that are known to be zero without being read.
    fn zeros(&self, offset: u64) -> u64 {
        let _ = offset;
        0
    }
}

/// Reads, and tries again a few times when that fails.
pub(super) fn read_patiently(source: &dyn Source, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut pause = SOURCE_RETRY;
    for _ in 0..SOURCE_RETRIES {
        match source.read(offset, buffer) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!(offset, %error, "cannot read guest memory; trying again"),
        }
        sleep(pause);
        pause = (pause * 2).min(SOURCE_RETRY_MOST);
    }
    source.read(offset, buffer)
}

/// A flat memory file, such as a generation's.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    bytes: u64,
}

impl MemoryFile {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Its length when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() >= self.bytes)
    }
}

impl Source for MemoryFile {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn zeros(&self, offset: u64) -> u64 {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // There is none behind it (lseek(2)): a hole, unless the file was cut off.
            Err(Errno::NXIO) if self.is_whole() => self.bytes,
            Err(_) => offset,
        };
        // Holes of a file system with small blocks may end within a page.
        data.saturating_sub(offset) / PAGE_BYTES * PAGE_BYTES
    }
}
