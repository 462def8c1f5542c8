//! Bounds of this crate, all of them.

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
