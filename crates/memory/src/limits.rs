//! Bounds of this crate, all of them.

use std::time::Duration;

/// Longest `/proc/PID/maps` that is read. A line is about 100 bytes; a VMM has a few hundred mappings.
pub const MAPS_BYTES: u64 = 4 << 20;

/// Longest manifest that is read. An extent takes about 25 bytes, so this is some 2.5 million extents.
pub const MANIFEST_BYTES: u64 = 64 << 20;

/// Most guest memory one generation may hold: 1 TiB.
pub const MEMORY_BYTES: u64 = 1 << 40;

/// Buffer between the guest's memory and the file, and the longest extent.
pub const COPY_BYTES: usize = 2 << 20;

/// Pages whose pagemap entries (8 bytes each) are read at once: 256 MiB of guest memory.
pub const SCAN_PAGES: usize = 64 << 10;

/// Most runs read by one `process_vm_readv`; the kernel's own bound is `IOV_MAX`, 1024.
pub const RUNS_PER_READ: usize = 1024;

/// Clean pages between two dirty runs that are written along to make one run of them. Each run becomes an extent of its own in the
/// reflinked file, which costs XFS about 0.1 ms when it is flushed and again in every clone: as much as writing some
/// ten pages.
pub const JOINED_GAP_PAGES: u64 = 8;

/// Most pages that are placed ahead of a save (16 MiB). With more, a save takes long for its bytes and not for its extents.
pub const PLACED_PAGES: u64 = 4096;

/// Extents written into a memory file and its ancestors after which the next one is a full copy, not a reflink: by then the
/// reflink takes longer.
pub const FRAGMENTS: u64 = 8192;

/// As many of them a save counts for that the VMM wrote itself: nobody looks where.
pub const WRITTEN_FRAGMENTS: u64 = 512;

/// Most bytes of prefetched memory that a page server puts in place between two looks for faults: what a fault may have to
/// wait for, some 0.1 ms.
pub const SLICE_BYTES: u64 = 256 << 10;

/// Generations that wait to be erased; what comes beyond that the next start erases.
pub const GRAVES: usize = 10_000;

/// Buffers of [`COPY_BYTES`] between reading ahead and putting in place.
pub const PREFETCH_BUFFERS: usize = 2;

/// Times a failed read of guest memory is tried again.
pub const SOURCE_RETRIES: u32 = 3;

/// Pause before the first of these tries; it doubles from one to the next.
pub const SOURCE_RETRY: Duration = Duration::from_millis(50);

/// Longest such pause.
pub const SOURCE_RETRY_MOST: Duration = Duration::from_millis(500);

/// Pause before the next try where an address space is changing and the kernel has nothing to say about it yet.
pub const CHANGING: Duration = Duration::from_millis(1);

/// Runs kept of a working set; what is touched after them is brought with the rest.
pub const WORKING_SET_RUNS: usize = 64 << 10;

/// Longest working set file that is read: that many runs of the largest numbers.
pub const WORKING_SET_BYTES: u64 = 2 << 20;
