//! Every bound and period of this crate.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Slots of one instance: two addresses each out of a /17, the first pair unused.
pub const MAX_SLOTS: u16 = 16_383;

/// Entries of one list of a policy. The kernel takes more; a policy nobody can read protects nobody.
pub(crate) const POLICY_ENTRIES: usize = 256;

/// Flows one guest may have to the outside at a time. The host's flow table is shared: one guest must not fill it.
pub const MAX_FLOWS: u32 = 4096;

/// Time a released slot rests before another guest gets it: packets of the former one's peers are still on their way.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(3);

/// Slots prepared or removed at the same time; the kernel serialises most of the work (`rtnl_lock`).
pub(crate) const PARALLEL_SETUPS: usize = 4;

/// Ready slots beyond the wanted number that are kept for a while after a burst.
pub(crate) const SPARE_SLOTS: usize = 16;

/// That while.
pub(crate) const SPARE_IDLE: Duration = Duration::from_secs(10);

/// How long a slot that was taken may be missing while enough are left.
pub(crate) const REFILL_PAUSE: Duration = Duration::from_millis(400);

/// Pause after a slot could not be prepared ahead.
pub(crate) const SETUP_RETRY: Duration = Duration::from_secs(5);

/// How often uplinks are looked at again: a laptop changes its network, the new interface does not forward yet.
pub(crate) const UPLINK_PERIOD: Duration = Duration::from_secs(10);

/// Jobs waiting for the thread that enters namespaces.
pub(crate) const ENTRANCE_QUEUE: usize = 1024;

/// Transmit queue of the TAP device, in frames: bursts to a guest that is not scheduled at the moment must not be lost.
pub(crate) const TAP_QUEUE_FRAMES: u32 = 5000;

/// What one guest may send to the outside, in bytes per second: 200 MiB, as Firecracker's limiter would be set.
pub(crate) const SENT_RATE: u32 = 200 << 20;

/// What it may send at once after a silence, in bytes.
pub(crate) const SENT_BURST: u32 = 100 << 20;

/// What may wait for its turn, in bytes: 50 ms at that rate. More is lost, which slows every TCP down.
pub(crate) const SENT_QUEUE: u32 = SENT_RATE / 20;

/// Longest piece of `nft`'s error output that is kept, in bytes.
pub(crate) const TOOL_MESSAGE_BYTES: usize = 2000;

/// TCP connections of one guest to each of its servers, for names and for metadata.
pub(crate) const SERVER_CONNECTIONS: usize = 8;

/// Time such a connection may be silent.
pub(crate) const SERVER_IDLE: Duration = Duration::from_secs(10);

/// Largest head of a request for metadata, in bytes.
pub(crate) const METADATA_HEAD_BYTES: usize = 8 * 1024;

/// How long a token for metadata may be asked to last; six hours, as at Firecracker.
pub(crate) const METADATA_TOKEN_TTL_SECONDS: RangeInclusive<u32> = 1..=21_600;

/// Valid tokens of one guest.
pub(crate) const METADATA_TOKENS: usize = 256;

/// Queries of one guest that may wait for an answer at a time.
pub(crate) const DNS_IN_FLIGHT: usize = 64;

/// Queries of all guests that may wait for an answer at a time; each holds a socket.
pub(crate) const DNS_IN_FLIGHT_TOTAL: usize = 1024;

/// Largest query: names end at 255 bytes (RFC 1035), the rest is EDNS options.
pub(crate) const DNS_QUERY_BYTES: usize = 4096;

/// Largest answer over UDP; larger ones come truncated from the resolver and are asked for again over TCP.
pub(crate) const DNS_UDP_ANSWER_BYTES: usize = 4096;

/// Time one resolver gets for an answer.
pub(crate) const DNS_TIMEOUT: Duration = Duration::from_secs(3);

/// Resolvers used; resolv.conf(5) knows three.
pub(crate) const DNS_RESOLVERS: usize = 3;

/// How long `/etc/resolv.conf` is believed to be unchanged.
pub(crate) const DNS_RESOLVERS_AGE: Duration = Duration::from_secs(5);

/// Largest `/etc/resolv.conf` that is read, in bytes.
pub(crate) const DNS_RESOLV_CONF_BYTES: u64 = 64 * 1024;
