//! Says in time that the disk fills up: a full one refuses capsules and holds up those that write.

use crate::host::Host;
use crate::limits;
use std::sync::Arc;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    /// Less than a tenth.
    Little,
    /// Less than one VM is admitted with.
    None,
}

fn room(free_bytes: u64, total_bytes: u64) -> Room {
    match free_bytes {
        free if free < limits::ADMIT_DISK => Room::None,
        free if free < total_bytes / limits::LITTLE_ROOM => Room::Little,
        _ => Room::Enough,
    }
}

/// Looks until the agent ends, and says each change once.
pub async fn watch(host: Arc<Host>) {
    let mut last = Room::Enough;
    loop {
        if let (Ok(free), Ok(total)) = (host.pool.free_bytes(), host.pool.size_bytes()) {
            let now = room(free, total);
            if now != last {
                say(now, free >> 20);
            }
            last = now;
        }
        tokio::select! {
            () = tokio::time::sleep(limits::ROOM_LOOK) => {}
            () = host.stopping.cancelled() => return,
        }
    }
}

fn say(room: Room, free_mb: u64) {
    match room {
        Room::Enough => tracing::info!(free_mb, "there is room on the disk again"),
        Room::Little => tracing::warn!(
            free_mb,
            "the disk fills up; delete capsules or templates, or make room for the data directory"
        ),
        Room::None => tracing::error!(
            free_mb,
            "the disk is full: capsules are refused; those on QEMU that write stand still until there is room, those on Firecracker get errors"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_comes_before_none() {
        const GIB: u64 = 1 << 30;
        for (free, total, expected) in [
            (50 * GIB, 100 * GIB, Room::Enough),
            (10 * GIB, 100 * GIB, Room::Enough),
            (10 * GIB - 1, 100 * GIB, Room::Little),
            (limits::ADMIT_DISK, 100 * GIB, Room::Little),
            (limits::ADMIT_DISK - 1, 100 * GIB, Room::None),
            (limits::ADMIT_DISK, GIB, Room::Enough),
            (0, 0, Room::None),
        ] {
            assert_eq!(room(free, total), expected, "{free} of {total}");
        }
    }
}
