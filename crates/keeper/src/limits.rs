//! Bounds of this crate, all of them.

use std::time::Duration;

/// Console output kept.
pub const CONSOLE_BYTES: usize = 256 << 10;

/// End of the console, and of the VMM's own messages, written to `exit.json`.
pub const TAIL_BYTES: usize = 4 << 10;

/// The VMM's own messages (standard error) kept.
pub const ERRORS_BYTES: usize = 16 << 10;

/// Readers of one console at a time.
pub const CONSOLE_READERS: u32 = 8;

/// Pieces of output (at most [`READ_BYTES`] each) a console reader may lag behind before it is dropped.
pub const CONSOLE_LAG: usize = 64;

/// Output read at once.
pub const READ_BYTES: usize = 16 << 10;

/// Longest file of a machine's directory that is read.
pub const RECORD_BYTES: u64 = 1 << 20;

/// Longest path of a machine's directory, with its line's end; what a pipe takes without blocking is no less (`pipe(7)`).
pub const LINE_BYTES: u64 = 4096;

/// From what a keeper is told to its report that the VMM runs.
pub const LAUNCH: Duration = Duration::from_secs(30);

/// From the request to end to the keeper's end; after that it is killed, and the VMM with it.
pub const KILL: Duration = Duration::from_secs(5);

/// Between two attempts to remove the group of a VMM that is about to end.
pub const RETRY: Duration = Duration::from_millis(10);

/// From a VMM's connection to the pager to its message about its memory.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// After the VMM's end, for output that is still in the pipes.
pub const DRAIN: Duration = Duration::from_secs(1);
