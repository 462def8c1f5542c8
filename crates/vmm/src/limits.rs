//! Bounds of this crate, all of them.

use std::time::Duration;

/// Virtual CPUs of one machine.
pub const VCPUS: u32 = 64;

/// Longest kernel command line; the x86 boot protocol's bound (`COMMAND_LINE_SIZE`) less the terminator.
pub const CMDLINE_BYTES: usize = 2047;

/// From the start of a VMM to its answer on the control socket. An emulator on a loaded machine takes a second.
pub const CONNECT: Duration = Duration::from_secs(30);

/// Pause between two tries to reach a control socket that is not there yet.
pub const CONNECT_RETRY: Duration = Duration::from_millis(2);

/// One command that only changes or reads the VMM's state. Stopping flushes the disks, so it may take a while. Saving and
/// loading have no limit: they end with the work or with the process.
pub const COMMAND: Duration = Duration::from_mins(1);

/// Longest line a VMM may send on its control socket.
pub const LINE_BYTES: u64 = 256 << 10;

/// Longest answer of a VMM's HTTP API.
pub const ANSWER_BYTES: usize = 64 << 10;

/// Longest message about a machine's guest memory. A region takes some 150 bytes, and there are a few.
pub const HANDSHAKE_BYTES: usize = 64 << 10;

/// Longest device state taken of a VMM that is not trusted. They have some 100 KB, and a megabyte with the most virtual CPUs.
pub const STATE_BYTES: u64 = 64 << 20;

/// Events kept for a slow reader; older ones are lost to it.
pub const EVENTS: usize = 64;

/// Output of the boot probe that is looked at.
pub const PROBE_OUTPUT_BYTES: usize = 256 << 10;

/// A kernel that boots at all under KVM panics for want of a root disk within a second or two.
pub const PROBE_BOOT: Duration = Duration::from_secs(10);
