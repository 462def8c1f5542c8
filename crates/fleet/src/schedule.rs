//! Which host takes a capsule: the one with the most room left where it is tightest.

use model::{HostId, HostStatus, Size};
use store::HostLoad;

/// Memory kept for the host itself: an eighth, at most 8 GiB.
const MEMORY_KEPT_SHARE: u64 = 8;
const MEMORY_KEPT_MB_MAX: u64 = 8_192;
/// Disk kept for the host itself: a tenth, at most 30 GiB.
const DISK_KEPT_SHARE: u64 = 10;
const DISK_KEPT_MB_MAX: u64 = 30_720;
/// Disks are copy-on-write: an ordinary one fills less than a sixteenth of what it was promised. The agent refuses what does
/// not fit in fact.
const DISK_FILLED_SHARE: u64 = 16;
/// vCPUs promised per core, in halves; they wait for each other most of the time.
const VCPUS_PER_CORE_HALVES: u64 = 3;
/// Scores are in these parts of a whole.
const WHOLE: u64 = 1_000_000;

/// A quantity of a host: what may be promised of it, and what is.
struct Room {
    total: u64,
    used: u64,
}

impl Room {
    fn left(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    fn left_share(&self) -> u64 {
        (self.left() * WHOLE).checked_div(self.total).unwrap_or(0)
    }
}

/// The best host for a capsule of this size, out of those that hold its template, or all where none is named; of equals the
/// oldest. `loads` come oldest first.
pub(crate) fn choose(loads: &[HostLoad], holders: &[HostId], size: Size) -> Option<HostId> {
    let holds = |load: &&HostLoad| holders.is_empty() || holders.contains(&load.host.id);
    let able = loads.iter().rev().filter(holds).filter(|load| fits(load, size));
    // Of several greatest the last one counts: the oldest.
    able.max_by_key(|load| score(load)).map(|load| load.host.id)
}

/// Whether a host can take a capsule of this size. CPU never decides: it is shared.
pub(crate) fn fits(load: &HostLoad, size: Size) -> bool {
    load.host.status == HostStatus::Online
        && memory(load).left() >= u64::from(size.memory_mb)
        && disk(load).left() >= u64::from(size.disk_mb) / DISK_FILLED_SHARE
}

/// The share that is left of what is tightest.
fn score(load: &HostLoad) -> u64 {
    [memory(load), disk(load), cpu(load)].iter().map(Room::left_share).min().unwrap_or(0)
}

fn memory(load: &HostLoad) -> Room {
    let has = load.host.capacity.memory_mb;
    // A paused capsule holds none.
    Room { total: has - (has / MEMORY_KEPT_SHARE).min(MEMORY_KEPT_MB_MAX), used: load.active.memory_mb }
}

fn disk(load: &HostLoad) -> Room {
    let has = load.host.capacity.disk_mb;
    let promised = load.active.disk_mb + load.paused.disk_mb;
    // What was saved of a paused capsule's memory lies on the disk too.
    let saved = load.paused.memory_mb;
    Room { total: has - (has / DISK_KEPT_SHARE).min(DISK_KEPT_MB_MAX), used: promised / DISK_FILLED_SHARE + saved }
}

fn cpu(load: &HostLoad) -> Room {
    Room { total: u64::from(load.host.capacity.cpu_cores) * VCPUS_PER_CORE_HALVES / 2, used: load.active.vcpus }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use model::{Capacity, Host};
    use store::Usage;

    const SIZE: Size = Size { vcpus: 1, memory_mb: 512, disk_mb: 5_120 };

    fn load(status: HostStatus, memory_mb: u64, used_mb: u64) -> HostLoad {
        let host = Host {
            id: HostId::random(),
            status,
            capacity: Capacity { cpu_cores: 4, memory_mb, disk_mb: 100_000 },
            isolation: String::new(),
            arch: String::new(),
            last_seen_at: None,
            created_at: DateTime::<Utc>::MIN_UTC,
        };
        HostLoad { host, active: Usage { memory_mb: used_mb, ..Usage::default() }, paused: Usage::default() }
    }

    #[test]
    fn takes_the_emptiest_that_fits() {
        use HostStatus::{Draining, Online, Pending, Unreachable};
        type Row<'a> = (&'a [(HostStatus, u64, u64)], Option<usize>);
        let rows: [Row; 7] = [
            (&[], None),
            (&[(Pending, 8_192, 0), (Unreachable, 8_192, 0), (Draining, 8_192, 0)], None),
            (&[(Online, 0, 0)], None),
            (&[(Online, 8_192, 7_000), (Online, 8_192, 6_656)], Some(1)),
            (&[(Online, 8_192, 4_000), (Online, 8_192, 1_000), (Online, 8_192, 2_000)], Some(1)),
            (&[(Online, 8_192, 0), (Online, 8_192, 0)], Some(0)),
            (&[(Online, 512, 0)], None),
        ];
        for (hosts, want) in rows {
            let loads: Vec<_> = hosts.iter().map(|&(status, has, used)| load(status, has, used)).collect();
            let chosen = choose(&loads, &[], SIZE);
            assert_eq!(chosen, want.map(|index| loads[index].host.id), "{hosts:?}");
            for load in loads.iter().filter(|load| fits(load, SIZE)) {
                assert_eq!(choose(&loads, &[load.host.id], SIZE), Some(load.host.id));
            }
        }
    }
}
