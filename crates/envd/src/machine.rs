//! The machine's clock and names. Only for a machine that is ours.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec};

use crate::limits;

/// `EXT4_SUPER_MAGIC` of statfs(2).
const EXT4: rustix::fs::FsWord = 0xEF53;

/// What the kernel counts devices in, whatever their own sectors are.
const SECTOR_BYTES: u64 = 512;

/// Longest host name Linux takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;

/// Sets the clock to `host_time` when it is off by more than the slack.
pub fn set_clock(host_time: SystemTime) -> io::Result<()> {
    let (behind, ahead) = limits::CLOCK_SLACK;
    let now = SystemTime::now();
    if now + behind >= host_time && now <= host_time + ahead {
        return Ok(());
    }
    let since = host_time.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let seconds = i64::try_from(since.as_secs()).map_err(io::Error::other)?;
    let time = Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() };
    Ok(rustix::time::clock_settime(ClockId::Realtime, time)?)
}

/// Lets the root file system take all of its device, as soon as that is this long: the kernel learns it by an interrupt.
pub fn grow_root(bytes: u64) -> io::Result<()> {
    let root = File::open("/")?;
    let file_system = rustix::fs::fstatfs(&root)?;
    if file_system.f_type != EXT4 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is not ext4"));
    }
    let device = rustix::fs::fstat(&root)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let size = format!("/sys/dev/block/{major}:{minor}/size");
    let deadline = Instant::now() + limits::DISK_GROWTH;
    while sectors(&size)? * SECTOR_BYTES < bytes {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its device is not longer"));
        }
        std::thread::sleep(limits::DISK_LOOK);
    }
    let block_bytes = u64::try_from(file_system.f_bsize).ok().filter(|bytes| *bytes > 0);
    sys::ext4::grow(root.as_fd(), bytes / block_bytes.unwrap_or(SECTOR_BYTES * 8))
}

fn sectors(size: &str) -> io::Result<u64> {
    fs::read_to_string(size)?.trim().parse().map_err(io::Error::other)
}

/// Names the machine, and makes the name resolve to itself (sudo asks).
pub fn set_hostname(name: &str) -> io::Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > HOSTNAME_MAX || !name.bytes().all(allowed) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a host name"));
    }
    rustix::system::sethostname(name.as_bytes())?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    match with_host(&hosts, name) {
        Some(hosts) => fs::write("/etc/hosts", hosts),
        None => Ok(()),
    }
}

/// Marks the line that is ours, so that a new name replaces the old one.
const MARK: &str = "# this machine";

/// The file with our line for `name`; none when nothing needs to change.
fn with_host(hosts: &str, name: &str) -> Option<String> {
    let ours = format!("127.0.1.1\t{name}\t{MARK}");
    if hosts.lines().any(|line| line == ours) {
        return None;
    }
    let mut lines: Vec<&str> = hosts.lines().filter(|line| !line.ends_with(MARK)).collect();
    let has_localhost = lines
        .iter()
        .any(|line| line.starts_with("127.0.0.1") && line.split_whitespace().any(|word| word == "localhost"));
    if !has_localhost {
        lines.insert(0, "127.0.0.1\tlocalhost");
    }
    lines.push(&ours);
    Some(lines.join("\n") + "\n")
}

/// Gives the machine a new id (machine-id(5)), if it has one at all.
pub fn renew_machine_id() -> io::Result<()> {
    let path = Path::new("/etc/machine-id");
    if !path.exists() {
        return Ok(());
    }
    // The kernel's own, made from its random numbers: 32 hex digits and four dashes.
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(path, uuid.replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_replaces_the_old_one() {
        let first = with_host("::1 localhost\n", "a").unwrap_or_default();
        assert_eq!(first, "127.0.0.1\tlocalhost\n::1 localhost\n127.0.1.1\ta\t# this machine\n");
        let second = with_host(&first, "b").unwrap_or_default();
        assert_eq!(second, first.replace("\ta\t", "\tb\t"));
        assert_eq!(with_host(&second, "b"), None);
    }
}
