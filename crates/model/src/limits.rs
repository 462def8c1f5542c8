//! Every bound that a user can meet, in one place.

use std::time::Duration;

/// vCPUs of a capsule when none are asked for.
pub const VCPUS_DEFAULT: u32 = 1;
/// Most vCPUs of one capsule.
pub const VCPUS_MAX: u32 = 32;
/// Memory of a capsule when none is asked for.
pub const MEMORY_MB_DEFAULT: u32 = 512;
/// Least memory: Debian's kernel and Python start in it.
pub const MEMORY_MB_MIN: u32 = 128;
/// Most memory of one capsule.
pub const MEMORY_MB_MAX: u32 = 65_536;
/// Memory is a multiple of this: one size class per step.
pub const MEMORY_MB_STEP: u32 = 2;
/// Size of the root disk.
pub const DISK_MB_DEFAULT: u32 = 5_120;
/// Largest root disk in MiB.
pub const DISK_MB_MAX: u32 = 102_400;
/// Longest inactivity time and longest E2B timeout: 30 days.
pub const LIFETIME_S_MAX: u32 = 30 * 24 * 3600;
/// Positive inactivity times below this are raised to it, as Wrenn SDK 0.3.0 documents.
pub const IDLE_S_MIN: u32 = 60;
/// E2B: timeout when `POST /v2/sandboxes` names none.
pub const E2B_TIMEOUT_S_DEFAULT: u32 = 300;

/// User metadata: most keys.
pub const METADATA_KEYS_MAX: usize = 64;
/// User metadata: longest key or value in bytes.
pub const METADATA_BYTES_MAX: usize = 1_024;
/// Environment of a capsule or a command: most variables.
pub const ENVS_MAX: usize = 1_024;

/// Address blocks in each list of what a capsule may reach.
pub const EGRESS_BLOCKS_MAX: usize = 256;

/// Largest JSON request body.
pub const JSON_BODY_BYTES_MAX: usize = 1 << 20;
/// Largest body of `files/write`, which Wrenn clients expect to be refused above it.
pub const FILE_WRITE_BYTES_MAX: u64 = 100 << 20;
/// Output of a foreground exec kept per stream; more is cut and marked.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Time limit of a foreground exec that names none.
pub const EXEC_TIMEOUT_S_DEFAULT: u32 = 30;
/// Longest foreground exec.
pub const EXEC_TIMEOUT_S_MAX: u32 = 24 * 3600;

/// Sandboxes whose newest metrics one request may ask for.
pub const METRICS_SANDBOXES_MAX: usize = 100;

/// How long calls to a starting or resuming capsule are held.
pub const HOLD: Duration = Duration::from_secs(30);
/// How long pause and resume may hold their answer.
pub const ANSWER_HOLD: Duration = Duration::from_secs(5);
/// Longest `?wait=`.
pub const WAIT_MAX: Duration = Duration::from_mins(1);
/// Time for the first byte of a request to become a whole head.
pub const REQUEST_HEAD: Duration = Duration::from_secs(10);
/// Time a kept-alive connection may be idle.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(620);
/// Rows on one page of a list.
pub const PAGE_MAX: u32 = 100;
/// Most clones one fork makes.
pub const FORK_COUNT_MAX: u32 = 20;
/// Most templates of one team: each takes as much of a disk as a paused capsule.
pub const TEAM_TEMPLATES_MAX: usize = 200;
/// Most capsules of one team that are not stopped.
pub const TEAM_CAPSULES_MAX: u64 = 1_000;
