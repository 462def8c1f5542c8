//! Every bound of the agent, in one place.

use std::time::Duration;

/// Commands waiting in one capsule's mailbox.
pub const MAILBOX: usize = 64;
/// Capsules on one host, paused ones included.
pub const CAPSULES: usize = 10_000;
/// Until a restored or booted guest answers its first request.
pub const GUEST_READY: Duration = Duration::from_secs(30);
/// Until a guest that boots for the first time answers: emulated machines are slow.
pub const GUEST_BOOT: Duration = Duration::from_mins(3);
/// For the one `/init` after a start; its own limit, so that a slow start does not eat it.
pub const GUEST_INIT: Duration = Duration::from_secs(30);
/// For a guest that is told to go on after a pause that failed, or that an agent which has just started finds: others wait meanwhile.
pub const CARRY_ON: Duration = Duration::from_secs(5);
/// Between two attempts to reach a starting guest.
pub const GUEST_RETRY: Duration = Duration::from_millis(5);
/// Limit of one such attempt.
pub const GUEST_ATTEMPT: Duration = Duration::from_secs(1);
/// Until a guest whose daemon is replaced answers again: longer than its init waits for the new one before it takes the
/// former back (60 s).
pub const GUEST_UPGRADE: Duration = Duration::from_secs(90);
/// VMs looked for at a time when the agent starts.
pub const ADOPTIONS: usize = 64;
/// Until a VMM that was started answers on its control socket.
pub const VMM_START: Duration = Duration::from_secs(30);
/// Until one that is found again answers: giving up loses the capsule, and a host that has just started is busy.
pub const VMM_ANSWER: Duration = Duration::from_mins(3);
/// Events not yet delivered to the control plane; the oldest go first when it stays away.
pub const EVENTS: usize = 10_000;
/// Between two attempts to deliver events, doubled up to [`EVENT_RETRY_MAX`].
pub const EVENT_RETRY: Duration = Duration::from_millis(500);
/// Longest pause between two attempts.
pub const EVENT_RETRY_MAX: Duration = Duration::from_secs(30);
/// Buffered messages of one stream, as requirement B15 says.
pub const STREAM_BUFFER: usize = 256;
/// Bytes of them.
pub const STREAM_BYTES: u32 = 1 << 20;
/// Buffered messages of an upload.
pub const UPLOAD_BUFFER: usize = 4;
/// Bytes per message when a file is streamed.
pub const FILE_CHUNK: usize = 64 << 10;
/// Pauses at a time when the agent shuts down: the disk is the bottleneck.
pub const SHUTDOWN_PAUSES: usize = 4;
/// VMs that are made at a time for each processor: they keep it busy, and wait for the disk now and then.
pub const STARTS_PER_PROCESSOR: usize = 2;
/// On small hosts at least so many.
pub const STARTS_MIN: usize = 4;
/// Size classes whose generation is kept.
pub const CLASSES: usize = 16;
/// Disk space a VM may write before it is admitted, in bytes.
pub const ADMIT_DISK: u64 = 256 << 20;
/// Memory that a start leaves to everybody else, in MiB, beside a part of the VM's own.
pub const MEMORY_LEFT_MB: u64 = 256;
/// One part in so many of its memory a VM touches soon.
pub const MEMORY_TOUCHED_SHARE: u64 = 4;
/// One part in so many left free is little room.
pub const LITTLE_ROOM: u64 = 10;
/// Between two attempts to end a VMM that does not end.
pub const END_RETRY: Duration = Duration::from_secs(10);
/// With less than so many bytes unused VMs are stopped before a write of theirs fails.
pub const STAND_STILL_BELOW: u64 = 192 << 20;
/// With as many they go on.
pub const GO_ON_FROM: u64 = 256 << 20;
/// Between two looks at the room on the disk, where there is little.
pub const ROOM_LOOK: Duration = Duration::from_millis(250);
/// The same where there is much.
pub const ROOM_LOOK_MAX: Duration = Duration::from_secs(5);
/// Bytes a disk may fill by in a millisecond.
pub const FILL_PER_MS: u64 = 1 << 20;
/// From the start of a VM to that of the next one's keeper: it would take the processors this one starts with.
pub const KEEPER_PAUSE: Duration = Duration::from_millis(400);
/// Network slots kept prepared.
pub const READY_SLOTS: usize = 8;
/// A VMM dies before its host's own programs when memory runs out.
pub const VMM_OOM_SCORE: i32 = 500;
/// Memory of a VMM beside its guest's, page cache included; what an emulator has translated is a good part of it.
pub const VMM_MEMORY: u64 = 512 << 20;
/// Threads of a VMM: virtual CPUs and whoever waits for its disks.
pub const VMM_THREADS: u64 = 256;
/// The first of 2^27 user ids that VMMs run as, each with the number of its network slot: beyond the ids that systemd gives to
/// containers (its `UIDS-GIDS.md`), below the signed limit.
pub const VMM_USERS: u32 = 0x7000_0000;
/// Longest console line shown in an error.
pub const CONSOLE_LINE: usize = 256;
/// Commands a VM runs before it waits as a ready one.
pub const REHEARSALS: usize = 2;
/// How often a capsule's lifetime is compared with the clock, at least.
pub const LIFETIME_LOOK: Duration = Duration::from_secs(30);
/// Until a lifetime that could not be ended is ended again.
pub const LIFETIME_RETRY: Duration = Duration::from_secs(30);
/// It waits twice as long after each failure, but not longer than this: most attempts stop the guest for a moment.
pub const LIFETIME_RETRY_MAX: Duration = Duration::from_mins(8);
/// VMs saved at a time: the disk is the bottleneck, and a guest that waits for its turn runs on.
pub const SAVES: usize = 4;
/// Loading a device state: hundreds of kilobytes.
pub const VM_LOAD: Duration = Duration::from_mins(2);
/// Saving a device state: milliseconds.
pub const VM_SAVE: Duration = Duration::from_mins(10);
/// A VMM that saves its memory itself has so much longer for each MiB of it: no disk is that slow.
pub const VM_SAVE_MIB: Duration = Duration::from_millis(200);
/// Until a VM that stopped because the disk was full is let run again.
pub const ROOM_RETRY: Duration = Duration::from_secs(2);
/// From a start until the next generation is begun: what is asked of the capsule first goes first.
pub const DRAFT_AHEAD: Duration = Duration::from_millis(300);
/// After this the guest is asked again to stand still: its watchdog ends a standstill by itself, after 10 s.
pub const STANDSTILL: Duration = Duration::from_secs(5);
/// VMs kept ready at a time, of all classes together.
pub const READY_TOTAL: usize = 4;
/// Between two measurements of a running capsule.
pub const METRICS_PERIOD: Duration = Duration::from_millis(500);
/// Measurements kept of a capsule, and how far back they reach.
pub const POINTS: usize = 1_200;
/// See [`POINTS`].
pub const POINTS_REACH: Duration = Duration::from_mins(10);
/// Averages over half a minute kept of a capsule, and how far back they reach.
pub const HALF_MINUTES: usize = 240;
/// See [`HALF_MINUTES`].
pub const HALF_MINUTES_REACH: Duration = Duration::from_hours(2);
/// Averages over five minutes kept of a capsule: a day's.
pub const FIVE_MINUTES: usize = 288;
/// Most bytes of a capsule's metrics in a file: what is kept of it takes less.
pub const METRICS_FILE_BYTES: u64 = 1 << 20;
/// Between two questions to a guest about its memory.
pub const GUEST_METRICS_PERIOD: Duration = Duration::from_secs(5);
/// From then on what a guest said of its memory no longer counts.
pub const GUEST_METRICS_AGE: Duration = Duration::from_secs(15);
/// Guests asked about their memory at a time.
pub const GUESTS_ASKED: usize = 16;
