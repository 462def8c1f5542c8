//! Rights, kernel, processor, memory, clock.

use super::check::Finding;
use super::fix::Fix;
use super::host::{Machines, NoFirecracker, Tier};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// capabilities(7): bits of `CapEff`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// Below this a second capsule of the default size finds no memory.
const MEMORY_MB_LOW: u64 = 2_048;
/// The oldest kernel it has been tested on: Debian 12's.
const KERNEL_TESTED: (u32, u32) = (6, 1);
/// 2025-01-01. A clock before that was never set; certificates are not yet valid then.
const CLOCK_UNSET_BEFORE_S: u64 = 1_735_689_600;
/// Clocks that each reading pays an exit or a slow bus for.
const SLOW_CLOCKS: [&str; 4] = ["acpi_pm", "hpet", "jiffies", "refined-jiffies"];

/// `CapEff` of this process.
pub fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Namespaces, taps, mounts and pagemap need an administrator's rights.
pub fn privileges(capabilities: u64) -> Finding {
    let has = |bit: u32| capabilities >> bit & 1 == 1;
    match (has(CAP_SYS_ADMIN), has(CAP_NET_ADMIN)) {
        (true, true) => Finding::ok("CAP_SYS_ADMIN and CAP_NET_ADMIN"),
        (true, false) => Finding::fail("no CAP_NET_ADMIN", "run it with sudo"),
        _ => Finding::fail("no CAP_SYS_ADMIN", "run it with sudo"),
    }
}

/// What the kernel says of itself.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// It shows which pages of a process differ from a file (`proc_pid_pagemap(5)`).
    pub pagemap: bool,
    /// Why it does not let another process bring pages (userfaultfd(2)).
    pub userfaultfd: io::Result<()>,
}

impl Kernel {
    /// The running one.
    pub fn running() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            release: release.trim().to_owned(),
            pagemap: File::open("/proc/self/pagemap").is_ok(),
            userfaultfd: sys::uffd::Area::new(4096).map(drop),
        }
    }
}

/// What pausing and starting rest on.
pub fn kernel(kernel: &Kernel) -> Finding {
    let Kernel { release, .. } = kernel;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    if !kernel.pagemap {
        return Finding::fail(
            format!("{release} has no /proc/self/pagemap: no capsule can be paused"),
            "use a kernel with CONFIG_PROC_PAGE_MONITOR",
        );
    }
    if version.is_none_or(|version| version < KERNEL_TESTED) {
        let (major, minor) = KERNEL_TESTED;
        return Finding::warn(
            format!("{release} is older than what is tested"),
            format!("use {major}.{minor} or later"),
        );
    }
    match &kernel.userfaultfd {
        Ok(()) => Finding::ok(release),
        Err(error) => Finding::warn(
            format!("{release} without userfaultfd ({error}): memory cannot be brought page by page"),
            "run it with sudo, on a kernel with CONFIG_USERFAULTFD",
        ),
    }
}

/// The VMM of the strongest tier.
pub fn firecracker(found: &Result<String, NoFirecracker>, demanded: bool) -> Finding {
    match found {
        Ok(version) => Finding::ok(version),
        Err(error) if demanded => Finding::fail(
            error.to_string(),
            "install a release of it as `firecracker` in PATH, or leave WRENN_VMM and WRENN_FIRECRACKER out",
        ),
        Err(NoFirecracker::Missing) => Finding::ok("none; QEMU is used"),
        Err(NoFirecracker::Unusable(error)) => Finding::warn(error, "install a newer release of it, or none"),
    }
}

/// The VMM of the other two.
pub fn qemu(machines: &Machines) -> Finding {
    match &machines.qemu {
        Ok(version) => Finding::ok(version),
        Err(error) if machines.tier == Some(Tier::Firecracker) => Finding::ok(format!("{error}; Firecracker is used")),
        Err(error) => Finding::fail(error, super::programs::installation(&["qemu-system-x86"])),
    }
}

/// What is known of the processor's virtualisation.
#[derive(Debug)]
pub struct Virtualisation {
    /// Why `/dev/kvm` cannot be opened.
    pub device: io::Result<()>,
    /// The module for this processor, if it has the feature.
    pub module: Option<&'static str>,
    /// What capsules run on; none = that is open until a guest has booted.
    pub tier: Option<Tier>,
}

impl Virtualisation {
    /// Opens the device. What boots is the caller's to know.
    pub fn look(device: &Path, tier: Option<Tier>) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let module = flags.split(' ').find_map(|flag| match flag {
            "vmx" => Some("kvm_intel"),
            "svm" => Some("kvm_amd"),
            _ => None,
        });
        Self { device: File::options().read(true).write(true).open(device).map(drop), module, tier }
    }
}

/// Which tier capsules run on. A device node promises nothing: some clouds offer one on which no kernel boots, so only a
/// guest that has booted makes this certain.
pub fn isolation(facts: &Virtualisation) -> Finding {
    let emulated = "emulated (qemu-tcg)";
    match (&facts.device, facts.tier) {
        (Ok(()), Some(tier @ (Tier::Firecracker | Tier::QemuKvm))) => {
            Finding::ok(format!("{tier}: a guest boots with KVM"))
        }
        (Ok(()), Some(Tier::QemuTcg)) => Finding::warn(
            format!("KVM is there, but no guest boots: {emulated}"),
            "all works, but slower and less isolated; a machine whose KVM works does better",
        ),
        (Ok(()), None) => Finding::warn(
            "KVM is there, but no guest has tried it since this machine booted",
            "`wrenn up` tries and says which tier it chose",
        ),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => match facts.module {
            Some("kvm_intel") => Finding::warn_fixable(format!("no /dev/kvm: {emulated}"), Fix::Load(&["kvm_intel"])),
            Some(_) => Finding::warn_fixable(format!("no /dev/kvm: {emulated}"), Fix::Load(&["kvm_amd"])),
            None => Finding::warn(
                format!("no /dev/kvm, and the processor does not virtualise: {emulated}"),
                "all works, but slower and less isolated; switch virtualisation on in the firmware, or nested virtualisation for this VM",
            ),
        },
        (Err(error), _) => Finding::warn(format!("/dev/kvm: {error}: {emulated}"), "run it with sudo"),
    }
}

/// What there is of memory, and who may promise it.
#[derive(Debug)]
pub struct Memory {
    /// `MemAvailable`.
    pub available_mb: Option<u64>,
    /// `vm.overcommit_memory` is 2: the kernel promises no more than there is.
    pub strict: bool,
}

impl Memory {
    /// This machine's.
    pub fn here() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
        let strict = fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|value| value.trim() == "2");
        Self { available_mb: line.and_then(|kb| kb.parse::<u64>().ok()).map(|kb| kb / 1024), strict }
    }
}

/// Memory that capsules can have. A capsule maps all of its memory privately, though it may never touch most of it.
pub fn memory(facts: &Memory) -> Finding {
    match facts.available_mb {
        None => Finding::warn("/proc/meminfo is not readable", "mount /proc"),
        Some(mb) if mb < MEMORY_MB_LOW => Finding::warn(
            format!("{mb} MiB available"),
            "a capsule takes up to 512 MiB; `--memory-mb` of `capsule create` asks for another size",
        ),
        Some(mb) if facts.strict => Finding::warn(
            format!("{mb} MiB available, but vm.overcommit_memory is 2: each capsule takes all of its memory at once"),
            "sysctl -w vm.overcommit_memory=0",
        ),
        Some(mb) => Finding::ok(format!("{mb} MiB available")),
    }
}

/// Where control groups are.
#[derive(Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy, with these controllers.
    V2(Vec<String>),
    /// A hierarchy for each of these controllers.
    V1(Vec<String>),
}

/// Controllers that limit a VM.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

impl Cgroups {
    /// What is mounted at `root`, `/sys/fs/cgroup`.
    pub fn at(root: &Path) -> Self {
        match fs::read_to_string(root.join("cgroup.controllers")) {
            Ok(text) => Self::V2(text.split_whitespace().map(ToOwned::to_owned).collect()),
            Err(_) => {
                Self::V1(CONTROLLERS.iter().filter(|name| root.join(name).is_dir()).map(ToString::to_string).collect())
            }
        }
    }
}

/// What can limit and freeze a capsule from outside.
pub fn cgroups(facts: &Cgroups) -> Finding {
    let (Cgroups::V2(present) | Cgroups::V1(present)) = facts;
    let absent: Vec<_> =
        CONTROLLERS.into_iter().filter(|name| !present.iter().any(|present| present == name)).collect();
    match (facts, absent.as_slice()) {
        (Cgroups::V2(_), []) => Finding::ok("v2: memory, cpu, pids"),
        (Cgroups::V1(_), []) => Finding::warn(
            "v1: memory, cpu, pids each by itself",
            "boot with systemd.unified_cgroup_hierarchy=1 to limit memory and I/O together",
        ),
        (_, absent) => Finding::warn(
            format!("nothing limits {} of a capsule but its VM's size", absent.join(", ")),
            "mount cgroup2 at /sys/fs/cgroup, with these controllers",
        ),
    }
}

/// What the clock is worth.
#[derive(Debug)]
pub struct Clock {
    /// Seconds since 1970.
    pub now_s: u64,
    /// Something keeps it right.
    pub synchronised: bool,
    /// What it is read from.
    pub source: String,
}

impl Clock {
    /// This machine's.
    pub fn here() -> Self {
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        Self {
            now_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            // A sandbox that does not let us ask does not mean that it is wrong.
            synchronised: sys::clock::is_synchronised().unwrap_or(true),
            source: fs::read_to_string(PathBuf::from(source)).unwrap_or_default().trim().to_owned(),
        }
    }
}

/// Capsules get their time from here, at their start and at each resume.
pub fn clock(facts: &Clock) -> Finding {
    let Clock { now_s, synchronised, source } = facts;
    if *now_s < CLOCK_UNSET_BEFORE_S {
        return Finding::fail("it was never set: no certificate is valid yet", "timedatectl set-ntp true");
    }
    if SLOW_CLOCKS.contains(&source.as_str()) {
        return Finding::warn(
            format!("read from {source}, which is slow"),
            "boot with clocksource=tsc if the processor's is reliable",
        );
    }
    if !synchronised {
        return Finding::warn(
            "nothing keeps it right; capsules take their time from it",
            "timedatectl set-ntp true, or install chrony",
        );
    }
    Finding::ok(if source.is_empty() { "synchronised".to_owned() } else { format!("synchronised, read from {source}") })
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::*;

    fn refused(kind: io::ErrorKind) -> io::Result<()> {
        Err(kind.into())
    }

    #[test]
    fn rights() {
        let both = 1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN;
        for (bits, verdict) in [(both, Fine), (u64::MAX, Fine), (1 << CAP_SYS_ADMIN, Fail), (1 << CAP_NET_ADMIN, Fail)]
        {
            assert_eq!(privileges(bits).verdict, verdict, "{bits:x}");
        }
    }

    #[test]
    fn kernels() {
        let rows = [
            ("6.1.0-28-amd64", true, true, Fine),
            ("10.0", true, true, Fine),
            ("6.1.0", true, false, Warn),
            ("5.15.0-1", true, true, Warn),
            ("odd", true, true, Warn),
            ("6.1.0", false, true, Fail),
        ];
        for (release, pagemap, uffd, verdict) in rows {
            let userfaultfd = if uffd { Ok(()) } else { refused(io::ErrorKind::PermissionDenied) };
            let facts = Kernel { release: release.to_owned(), pagemap, userfaultfd };
            assert_eq!(kernel(&facts).verdict, verdict, "{facts:?}");
        }
    }

    #[test]
    fn tiers() {
        let missing = || refused(io::ErrorKind::NotFound);
        let rows: [(_, _, _, Verdict, &str, usize); 8] = [
            (Ok(()), None, Some(Tier::Firecracker), Fine, "firecracker: a guest boots with KVM", 0),
            (Ok(()), None, Some(Tier::QemuKvm), Fine, "qemu-kvm: a guest boots with KVM", 0),
            (Ok(()), None, Some(Tier::QemuTcg), Warn, "KVM is there, but no guest boots: emulated (qemu-tcg)", 0),
            (Ok(()), None, None, Warn, "KVM is there, but no guest has tried it since this machine booted", 0),
            (missing(), Some("kvm_amd"), None, Warn, "no /dev/kvm: emulated (qemu-tcg)", 1),
            (missing(), Some("kvm_intel"), Some(Tier::QemuTcg), Warn, "no /dev/kvm: emulated (qemu-tcg)", 1),
            (missing(), None, None, Warn, "no /dev/kvm, and the processor does not virtualise: emulated (qemu-tcg)", 0),
            (
                refused(io::ErrorKind::PermissionDenied),
                Some("kvm_amd"),
                None,
                Warn,
                "/dev/kvm: permission denied: emulated (qemu-tcg)",
                0,
            ),
        ];
        for (device, module, tier, verdict, found, fixes) in rows {
            let finding = isolation(&Virtualisation { device, module, tier });
            assert_eq!((finding.verdict, &*finding.found, finding.fixes.len()), (verdict, found, fixes));
        }
    }

    #[test]
    fn a_device_that_is_none_is_not_taken_for_kvm() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Virtualisation::look(&dir.path().join("kvm"), None);
        assert_eq!(missing.device.unwrap_err().kind(), io::ErrorKind::NotFound);
        // What can be opened is still only believed once a guest has booted.
        let fake = dir.path().join("fake");
        fs::write(&fake, "").unwrap();
        assert_eq!(isolation(&Virtualisation::look(&fake, None)).verdict, Warn);
    }

    #[test]
    fn memories() {
        let rows =
            [(Some(4096), false, Fine), (Some(2047), false, Warn), (Some(4096), true, Warn), (None, false, Warn)];
        for (available_mb, strict, verdict) in rows {
            let facts = Memory { available_mb, strict };
            assert_eq!(memory(&facts).verdict, verdict, "{facts:?}");
        }
    }

    #[test]
    fn control_groups() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Cgroups::at(root.path()), Cgroups::V1(Vec::new()));
        assert_eq!(
            cgroups(&Cgroups::at(root.path())).found,
            "nothing limits memory, cpu, pids of a capsule but its VM's size"
        );
        for controller in CONTROLLERS {
            fs::create_dir(root.path().join(controller)).unwrap();
        }
        assert_eq!(cgroups(&Cgroups::at(root.path())).found, "v1: memory, cpu, pids each by itself");
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory\n").unwrap();
        assert_eq!(cgroups(&Cgroups::at(root.path())).found, "nothing limits pids of a capsule but its VM's size");
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        assert_eq!(cgroups(&Cgroups::at(root.path())).verdict, Fine);
    }

    #[test]
    fn clocks() {
        let now_s = CLOCK_UNSET_BEFORE_S;
        let rows = [
            (now_s, true, "tsc", Fine),
            (now_s, true, "", Fine),
            (now_s, false, "kvm-clock", Warn),
            (now_s, true, "hpet", Warn),
            (now_s - 1, true, "tsc", Fail),
        ];
        for (now_s, synchronised, source, verdict) in rows {
            let facts = Clock { now_s, synchronised, source: source.to_owned() };
            assert_eq!(clock(&facts).verdict, verdict, "{facts:?}");
        }
    }
}
