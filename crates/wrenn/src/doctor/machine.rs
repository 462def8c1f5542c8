//! Rights, processor, memory.

use super::{Check, tool};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

/// capabilities(7): bits of `CapEff`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// Below this a second capsule of the default size finds no memory.
const MEMORY_MB_LOW: u64 = 2_048;

/// Namespaces, taps, mounts and pagemap need an administrator's rights.
pub fn privileges() -> Check {
    let name = "privileges";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| bits >> bit & 1 == 1;
    match (has(CAP_SYS_ADMIN), has(CAP_NET_ADMIN)) {
        (true, true) => Check::ok(name, "CAP_SYS_ADMIN and CAP_NET_ADMIN"),
        (true, false) => Check::fail(name, "no CAP_NET_ADMIN", "run it with sudo"),
        _ => Check::fail(name, "no CAP_SYS_ADMIN", "run it with sudo"),
    }
}

/// The VMM of two of the three tiers.
pub fn qemu() -> Check {
    let name = "qemu";
    match tool("qemu-system-x86_64", &["--version"]) {
        Ok(text) => Check::ok(name, text.lines().next().unwrap_or("present").to_owned()),
        Err(error) => Check::fail(name, format!("qemu-system-x86_64: {error}"), "apt-get install qemu-system-x86"),
    }
}

/// Which tier capsules would run on. A device node promises nothing: some clouds offer one on which no kernel boots,
/// so only a guest that has booted makes this certain.
pub fn isolation() -> Check {
    let name = "isolation";
    let emulated = |why: String| {
        Check::warn(
            name,
            format!("qemu-tcg: {why}"),
            "capsules are emulated: same features, slower, weaker isolation; a machine with KVM does better",
        )
    };
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {
            Check::warn(name, "/dev/kvm can be opened", "`wrenn up` boots a guest on it and says which tier it chose")
        }
        Err(error) if error.kind() == ErrorKind::NotFound => emulated("no /dev/kvm".to_owned()),
        Err(error) => emulated(format!("/dev/kvm: {error}")),
    }
}

/// Memory that capsules can have.
pub fn memory() -> Check {
    let name = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available_kb = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    match available_kb.map(|kb| kb / 1024) {
        Some(mb) if mb >= MEMORY_MB_LOW => Check::ok(name, format!("{mb} MiB available")),
        Some(mb) => Check::warn(
            name,
            format!("{mb} MiB available"),
            "a capsule takes 512 MiB unless `--memory-mb` says otherwise",
        ),
        None => Check::warn(name, "/proc/meminfo is not readable", "mount /proc"),
    }
}

/// What can limit and freeze a capsule from outside.
pub fn cgroups() -> Check {
    let name = "cgroups";
    let controllers = |path: &str| fs::read_to_string(path).ok().filter(|text| text.contains("memory"));
    if controllers("/sys/fs/cgroup/cgroup.controllers").is_some() {
        return Check::ok(name, "v2");
    }
    if Path::new("/sys/fs/cgroup/memory").is_dir() {
        return Check::warn(
            name,
            "v1",
            "boot with systemd.unified_cgroup_hierarchy=1 for limits on memory and I/O together",
        );
    }
    Check::warn(
        name,
        "no memory controller",
        "capsules are limited by their VM's size only; mount cgroup2 at /sys/fs/cgroup",
    )
}
