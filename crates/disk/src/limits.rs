//! Every bound of this crate.

use std::time::Duration;

/// Share of the free space below that a pool file may grow to, in percent.
pub(crate) const POOL_SHARE_PERCENT: u64 = 80;

/// Smallest pool file: `mkfs.xfs` refuses less than 300 MiB, and its log takes 64 MiB of that.
pub(crate) const POOL_MIN_BYTES: u64 = 512 << 20;

/// Never promised to anybody: metadata of the file systems and small files (records, logs) live from it.
pub(crate) const HEADROOM_BYTES: u64 = 128 << 20;

/// Sector size of the pool file's device. 4 KiB suits direct I/O on every disk below; 512 would not on 4K-native ones.
pub(crate) const SECTOR_BYTES: u32 = 4096;

/// Longest piece of a tool's error output that is kept.
pub(crate) const TOOL_MESSAGE_BYTES: usize = 2000;

/// How long is waited for what is still in use, and how often it is tried.
pub(crate) const BUSY_PATIENCE: Duration = Duration::from_secs(1);
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(10);
