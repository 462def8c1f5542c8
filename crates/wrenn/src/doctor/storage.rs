//! Where capsules' disks and memory lie.

use super::{Check, tool};
use std::fs::File;
use std::io;
use std::path::Path;

const GIB: u64 = 1 << 30;
/// One template and a capsule or two.
const SPACE_LOW: u64 = 10 * GIB;
/// Not enough for the first template.
const SPACE_NONE: u64 = 4 * GIB;

/// Whether disks can be cloned without copying: the file system can, or a pool of our own can be made.
pub fn clones(dir: &Path) -> Check {
    let name = "clones";
    let pool = dir.join("pool");
    let place = existing(&pool);
    if clones_at(place).is_ok() {
        return Check::ok(name, format!("{} clones files", place.display()));
    }
    let loop_devices = Path::new("/dev/loop-control").exists();
    match (tool("mkfs.xfs", &["-V"]), loop_devices) {
        (Ok(_), true) => Check::ok(name, "an XFS pool file, mounted over a loop device"),
        (Err(_), _) => Check::warn(name, "disks are copied: no mkfs.xfs", "apt-get install xfsprogs"),
        (_, false) => Check::warn(
            name,
            "disks are copied: no loop devices",
            "modprobe loop, or put the data directory on XFS or btrfs",
        ),
    }
}

/// FICLONE on two unnamed files tells more than the file system's name: XFS made before 2018 cannot.
fn clones_at(dir: &Path) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let temporary = || rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    let source = File::from(temporary()?);
    source.set_len(4096)?;
    Ok(rustix::fs::ioctl_ficlone(temporary()?, &source)?)
}

/// Free space under the data directory.
pub fn space(dir: &Path) -> Check {
    let name = "space";
    let place = existing(dir);
    let free = match rustix::fs::statvfs(place) {
        Ok(facts) => facts.f_bavail * facts.f_frsize,
        Err(error) => {
            return Check::fail(name, format!("{}: {error}", place.display()), "choose another directory with --dir");
        }
    };
    let found = format!("{} GiB free at {}", free / GIB, place.display());
    let remedy = "free some, or choose another directory with --dir";
    match free {
        0..SPACE_NONE => Check::fail(name, found, remedy),
        SPACE_NONE..SPACE_LOW => Check::warn(name, found, remedy),
        _ => Check::ok(name, found),
    }
}

/// The nearest directory above that exists already.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."))
}
