//! Every bound of the daemon, in one place.

use std::time::Duration;

/// Bytes read from a pipe at once, hence the largest data event.
pub const PIPE_CHUNK: usize = 32 * 1024;
/// Bytes read from a terminal at once.
pub const TERMINAL_CHUNK: usize = 16 * 1024;
/// Data events queued per subscriber; a full queue slows the process down.
pub const SUBSCRIBER_QUEUE: usize = 8;
/// Output of a terminal that is kept for whoever attaches again.
pub const REPLAY: usize = 256 * 1024;
/// The same once its process has ended: up to [`RETAINED_EXITS`] of them are kept.
pub const REPLAY_ENDED: usize = 16 * 1024;
/// Live processes started through the daemon.
pub const PROCESSES: usize = 4096;
/// Ended processes remembered for late subscribers.
pub const RETAINED_EXITS: usize = 1024;
/// How long an ended process is remembered.
pub const RETENTION: Duration = Duration::from_secs(30);
/// What a daemon may note of a process for the next one, in bytes. A packet must fit a socket's buffer
/// (`net.core.wmem_default`, 208 KiB).
pub const RECORD_BYTES: usize = 64 * 1024;
/// Silence of an output some other process still holds open, after which the process's end is reported.
pub const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// The same after a kill, when nobody expects more.
pub const KILLED_OUTPUT_GRACE: Duration = Duration::from_millis(50);

/// Silence on a stream after which a keep-alive message is sent, unless the client asks for another.
pub const KEEPALIVE: Duration = Duration::from_secs(90);
/// Shortest keep-alive interval a client may ask for.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// Largest RPC message.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest body of a control request (`/init`).
pub const CONTROL_BYTES: usize = 1024 * 1024;
/// Largest daemon an upgrade brings.
pub const DAEMON_BYTES: usize = 64 * 1024 * 1024;
/// Time a new daemon has to tell its version.
pub const TRIAL: Duration = Duration::from_secs(10);
/// How often, and after which pause, a program that is still open for writing is tried again.
pub const BUSY_RETRIES: usize = 50;
/// See [`BUSY_RETRIES`].
pub const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Files up to this size are read whole before the answer begins, so that its length is known.
pub const WHOLE_FILE: usize = 64 * 1024;
/// Bytes read from a file at once.
pub const READ_CHUNK: usize = 256 * 1024;
/// Bytes collected before an upload is written.
pub const WRITE_CHUNK: usize = 2 * 1024 * 1024;
/// Compressed bytes inflated at once: bounds the memory of a body that expands a thousandfold.
pub const INFLATE_STEP: usize = 4 * 1024;
/// Files in one upload.
pub const UPLOAD_FILES: usize = 4096;
/// Longest metadata key in bytes; with the prefix `user.e2b.` it makes the kernel's 255 (xattr(7)).
pub const METADATA_KEY: usize = 246;
/// All metadata of a file together, in bytes.
pub const METADATA_BYTES: usize = 4096;

/// Deepest directory listing.
pub const LIST_DEPTH: u32 = 1000;
/// Entries in one listing.
pub const LIST_ENTRIES: usize = 200_000;
/// Watchers of the polling kind.
pub const WATCHERS: usize = 1024;
/// Events stored per watcher.
pub const WATCHER_EVENTS: usize = 65_536;
/// Directories one recursive watch may cover.
pub const WATCHED_DIRECTORIES: usize = 65_536;
/// A watcher nobody asked for so long is forgotten.
pub const WATCHER_IDLE: Duration = Duration::from_mins(10);

/// Period at which servers in the guest are looked for.
pub const PORT_SCAN: Duration = Duration::from_millis(500);
/// Ports forwarded at once.
pub const FORWARDED_PORTS: usize = 512;
/// Connections through all forwarded ports together.
pub const FORWARDED_CONNECTIONS: usize = 1024;

/// How long user processes stay frozen when no `/init` follows `/snapshot/prepare`.
pub const FREEZE: Duration = Duration::from_secs(10);
/// How long `/snapshot/prepare` waits for the kernel to have frozen everything.
pub const FREEZING: Duration = Duration::from_millis(500);
/// How long `/snapshot/hold` waits for the same: without it there is no snapshot. Below the host's limit of 3 s.
pub const HOLDING: Duration = Duration::from_secs(2);
/// Clock differences `/init` leaves alone: behind, ahead.
pub const CLOCK_SLACK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Longest wait for running answers when the daemon is told to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(1);
/// Idle connections; longer than the host's 620 s, so that the host closes first.
pub const IDLE: Duration = Duration::from_secs(640);

/// A daemon that ran so long is started again at once; one that ended sooner after [`RESTART_PAUSE`].
pub const STEADY: Duration = Duration::from_secs(5);
/// A daemon that does not serve within this is ended: by then even a busy host without KVM has started one.
pub const READY: Duration = Duration::from_mins(1);
/// See [`STEADY`].
pub const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Until the kernel has heard that its disk is longer.
pub const DISK_GROWTH: Duration = Duration::from_secs(5);
/// Between two looks at that.
pub const DISK_LOOK: Duration = Duration::from_millis(1);
