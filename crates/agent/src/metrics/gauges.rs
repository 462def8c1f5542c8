//! What can be read about a VM from outside, by one process's and one file's figures.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use keeper::Keeper;
use network::{Meter, Slot};

/// Where a VM's figures are. Means nothing once the VM has ended.
pub struct Gauges {
    pid: u32,
    /// When the VMM began, in ticks after the host's boot: tells it from a later process of the same number.
    pub start: u64,
    disk: PathBuf,
    /// What its guest sent and received.
    pub traffic: Meter,
}

/// What a VMM has used and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When this was read.
    pub at: Instant,
    /// Time of all its threads on a processor since it started: the guest's and its own.
    pub cpu: Duration,
    /// Its resident memory: what the guest has touched, on QEMU also what it has freed, those pages shared with other capsules among it,
    /// and its own.
    pub memory_bytes: u64,
    /// Allocated blocks of the root disk, those shared with the template among it.
    pub disk_bytes: u64,
}

impl Gauges {
    /// Of the VM that this keeper runs in this slot with this disk.
    pub fn new(keeper: &Keeper, slot: &Slot, disk: PathBuf) -> Self {
        let running = keeper.running();
        Self { pid: running.vmm_pid, start: running.vmm_start, disk, traffic: slot.meter() }
    }

    /// Reads one file of proc(5) and asks for the status of another file.
    pub fn read(&self) -> io::Result<Reading> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let (ticks, pages) = parse(&stat, self.start).ok_or(io::ErrorKind::NotFound)?;
        let ticks_per_s = rustix::param::clock_ticks_per_second().max(1);
        Ok(Reading {
            at: Instant::now(),
            cpu: Duration::from_millis(ticks.saturating_mul(1_000) / ticks_per_s),
            memory_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
            disk_bytes: std::fs::metadata(&self.disk)?.blocks().saturating_mul(512),
        })
    }
}

/// `proc_pid_stat(5)`: `utime` + `stime` in ticks and `rss` in pages of the process that began at `start`. The second field,
/// the program's name, may itself hold blanks and parentheses.
fn parse(stat: &str, start: u64) -> Option<(u64, u64)> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first is field 3 there.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    (field(22)? == start).then_some(())?;
    Some((field(14)?.saturating_add(field(15)?), field(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_process() {
        let stat = "42 (a) b) R 1 42 42 0 -1 4194560 1 2 3 4 500 60 7 8 20 0 1 0 98765 1000 2000 30";
        assert_eq!(parse(stat, 98_765), Some((560, 2_000)));
        assert_eq!(parse(stat, 98_766), None, "another process");
        for broken in ["", "42 (a", "42 (a) R 1 2 3", &stat.replace("500", "x")] {
            assert_eq!(parse(broken, 98_765), None, "{broken}");
        }
    }
}
