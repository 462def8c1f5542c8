//! File systems of the kernel's own making.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};

use super::CGROUPS;
use super::console::Console;

/// One mount: what, where, with which options.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
}

const NOTHING_SPECIAL: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const DATA_ONLY: MountFlags = NOTHING_SPECIAL.union(MountFlags::NOEXEC);

/// Needed to find the disk, and moved into the new root afterwards.
const EARLY: [Mount; 3] = [
    Mount { kind: "proc", target: "/proc", flags: DATA_ONLY, options: "" },
    Mount { kind: "sysfs", target: "/sys", flags: DATA_ONLY, options: "" },
    Mount { kind: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, options: "mode=0755" },
];

/// `/run` comes with the new root already. `/tmp` stays on the disk: archives of builds go there.
const LATE: [Mount; 4] = [
    Mount { kind: "devpts", target: "/dev/pts", flags: MountFlags::NOSUID, options: "mode=0620,gid=5,ptmxmode=0666" },
    Mount { kind: "tmpfs", target: "/dev/shm", flags: NOTHING_SPECIAL, options: "mode=1777" },
    Mount { kind: "mqueue", target: "/dev/mqueue", flags: DATA_ONLY, options: "" },
    Mount { kind: "cgroup2", target: CGROUPS, flags: DATA_ONLY, options: "nsdelegate" },
];

impl Mount {
    fn perform(&self) -> io::Result<()> {
        let options = std::ffi::CString::new(self.options)?;
        fs::create_dir_all(self.target)?;
        match mount(self.kind, self.target, self.kind, self.flags, options.as_c_str()) {
            Err(Errno::BUSY) => Ok(()),
            mounted => Ok(mounted?),
        }
    }
}

/// A process that joins a group, as each one started does, otherwise waits for every processor to have been through
/// the scheduler: 10 ms and more. Kernels before 6.0 do not know the option (cgroup-v2, "Mounting") and go on waiting.
fn join_groups_quickly() {
    let _ = mount_remount(CGROUPS, DATA_ONLY, c"nsdelegate,favordynmods");
}

pub(super) fn early(console: &mut Console) {
    for mount in &EARLY {
        // Before /dev is there nobody hears of it; what needs it fails audibly later.
        console.step(mount.target, mount.perform());
    }
    console.phase_ended("early mounts");
}

pub(super) fn late(console: &mut Console) {
    for mount in &LATE {
        // Kernels without message queues are no trouble.
        let mounted = mount.perform();
        if mount.kind != "mqueue" {
            console.step(mount.target, mounted);
        }
    }
    join_groups_quickly();
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        if link == "/dev/ptmx" {
            let _ = fs::remove_file(link);
        }
        if !Path::new(link).exists() {
            console.step(link, symlink(target, link));
        }
    }
    console.phase_ended("mounts");
}
