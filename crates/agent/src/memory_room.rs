//! Memory is asked for before a VM is started: the kernel would end others for its sake.
//!
//! Clones share most of theirs with each other, so nobody knows what a VM will take. Each start finds at least a part of its own
//! size available; what capsules may have in all is for whoever places them to decide.

use crate::failure::Failure;
use crate::limits;
use crate::record::Class;

/// Refuses a VM that would leave its host without memory.
pub fn admit(class: &Class) -> Result<(), Failure> {
    // A kernel that does not say has room.
    std::fs::read_to_string("/proc/meminfo").map_or(Ok(()), |meminfo| fits(class, &meminfo))
}

/// `MemAvailable` is what can be had without swapping (`proc_meminfo(5)`).
fn fits(class: &Class, meminfo: &str) -> Result<(), Failure> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let Some(available_kib) = line.and_then(|kib| kib.parse::<u64>().ok()) else { return Ok(()) };
    let needed_mb = limits::MEMORY_LEFT_MB + u64::from(class.memory_mb) / limits::MEMORY_TOUCHED_SHARE;
    let available_mb = available_kib >> 10;
    if available_mb < needed_mb { Err(Failure::Memory { needed_mb, available_mb }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_its_size_must_be_available() {
        let class = |memory_mb| Class { template: uuid::Uuid::nil(), vcpus: 1, memory_mb };
        let meminfo = |mb: u64| format!("MemTotal:  9 kB\nMemAvailable: {:>8} kB\nBuffers: 1 kB\n", mb << 10);
        for (memory_mb, available_mb, fit) in
            [(512, 384, true), (512, 383, false), (8_192, 2_304, true), (8_192, 2_303, false), (128, 0, false)]
        {
            assert_eq!(fits(&class(memory_mb), &meminfo(available_mb)).is_ok(), fit, "{memory_mb} of {available_mb}");
        }
        assert!(fits(&class(512), "MemTotal: 9 kB\n").is_ok());
    }
}
