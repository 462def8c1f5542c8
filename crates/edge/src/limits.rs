//! Bounds of the proxy.

use std::time::Duration;

/// Requests and tunnels open at once to one capsule.
pub(crate) const OPEN_PER_CAPSULE: usize = 1_024;
/// Capsules with pools; beyond it those with nothing open are forgotten.
pub(crate) const CAPSULES: usize = 4_096;
/// Pools (port and generation) of one capsule.
pub(crate) const POOLS_PER_CAPSULE: usize = 64;
/// Idle connections of one pool and how long they are kept.
pub(crate) const POOL: dial::Limits =
    dial::Limits { idle_max: 20, idle: Duration::from_secs(90), dial: Duration::from_secs(15) };
/// Pause before the second attempt to connect; it grows by as much with each further one.
pub(crate) const DIAL_STEP: Duration = Duration::from_millis(100);
/// Attempts for failures other than a refused connection.
pub(crate) const DIAL_ATTEMPTS: u32 = 3;
/// Pauses of a refused connection in sum: the guest's port forwarder needs up to a second to see a new listener.
pub(crate) const DIAL_REFUSED: Duration = Duration::from_secs(2);
