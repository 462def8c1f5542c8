//! Says in time that the disk fills up: one with little room refuses capsules, and those that run stand still before it is full.

use crate::host::Host;
use crate::limits;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A tenth or more.
    Enough,
    /// Less than a tenth.
    Little,
    /// Less than one VM is admitted with.
    None,
    /// The next write may fail: VMs stand still.
    Exhausted,
}

/// Bytes of a disk.
#[derive(Debug, Clone, Copy)]
struct Space {
    /// Neither used nor promised.
    free: u64,
    unused: u64,
    total: u64,
}

impl Space {
    fn of(pool: &disk::Pool) -> io::Result<Self> {
        Ok(Self { free: pool.free_bytes()?, unused: pool.unused_bytes()?, total: pool.size_bytes()? })
    }

    /// Before it can be full.
    fn look_again(self) -> Duration {
        let left = self.unused.saturating_sub(limits::STAND_STILL_BELOW);
        Duration::from_millis(left / limits::FILL_PER_MS).clamp(limits::ROOM_LOOK, limits::ROOM_LOOK_MAX)
    }

    /// How much room that is, after there was `last`.
    fn room(self, last: Room) -> Room {
        let floor = if last == Room::Exhausted { limits::GO_ON_FROM } else { limits::STAND_STILL_BELOW };
        match self {
            Self { unused, .. } if unused < floor => Room::Exhausted,
            Self { free, .. } if free < limits::ADMIT_DISK => Room::None,
            Self { free, total, .. } if free < total / limits::LITTLE_ROOM => Room::Little,
            _ => Room::Enough,
        }
    }
}

/// Looks until the agent ends, and says each change once.
pub async fn watch(host: Arc<Host>) {
    loop {
        let mut pause = limits::ROOM_LOOK_MAX;
        if let Ok(space) = Space::of(&host.pool) {
            let last = *host.room.borrow();
            let now = space.room(last);
            if now != last {
                say(now, space.unused >> 20);
                host.room.send_replace(now);
            }
            pause = space.look_again();
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = host.stopping.cancelled() => return,
        }
    }
}

fn say(room: Room, unused_mb: u64) {
    match room {
        Room::Enough => tracing::info!(unused_mb, "there is room on the disk again"),
        Room::Little => tracing::warn!(
            unused_mb,
            "the disk fills up; delete capsules or templates, or make room for the data directory"
        ),
        Room::None => tracing::error!(unused_mb, "the disk is as good as full: capsules are refused"),
        Room::Exhausted => tracing::error!(unused_mb, "the disk is full: capsules stand still until there is room"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_comes_before_none_and_none_before_a_standstill() {
        const GIB: u64 = 1 << 30;
        const MIB: u64 = 1 << 20;
        for (free, unused, total, last, expected) in [
            (50 * GIB, 50 * GIB, 100 * GIB, Room::Little, Room::Enough),
            (10 * GIB, 20 * GIB, 100 * GIB, Room::Enough, Room::Enough),
            (10 * GIB - 1, 20 * GIB, 100 * GIB, Room::Enough, Room::Little),
            (limits::ADMIT_DISK, GIB, 100 * GIB, Room::Enough, Room::Little),
            (limits::ADMIT_DISK - 1, GIB, 100 * GIB, Room::Enough, Room::None),
            (limits::ADMIT_DISK, GIB, GIB, Room::Enough, Room::Enough),
            (0, 192 * MIB, GIB, Room::None, Room::None),
            (0, 192 * MIB - 1, GIB, Room::None, Room::Exhausted),
            (0, 256 * MIB - 1, GIB, Room::Exhausted, Room::Exhausted),
            (0, 256 * MIB, GIB, Room::Exhausted, Room::None),
            (0, 0, 0, Room::Enough, Room::Exhausted),
        ] {
            let space = Space { free, unused, total };
            assert_eq!(space.room(last), expected, "{space:?} after {last:?}");
        }
    }

    #[test]
    fn the_less_room_the_sooner_the_next_look() {
        for (unused_mb, expected_ms) in [(0, 250), (192 + 250, 250), (192 + 2_000, 2_000), (100_000, 5_000)] {
            let space = Space { free: 0, unused: unused_mb << 20, total: 0 };
            assert_eq!(space.look_again(), Duration::from_millis(expected_ms), "{unused_mb} MiB");
        }
    }
}
