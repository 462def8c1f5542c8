//! What keeps `wrenn up` from starting is said at once, with what to do, and leaves nothing behind.

use crate::Verdict;
use crate::platform::Platform;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::spawn::{Exit, Spawn};

struct Row<'a> {
    name: &'static str,
    dir: &'a Path,
    listen: &'a str,
    path: &'a str,
    exit: i32,
    says: &'static str,
    advises: &'static str,
}

/// Each ends with its exit code, what is wrong and a hint.
pub async fn refuses_what_cannot_work(platform: &mut Platform) -> Verdict {
    let empty = tempfile::tempdir()?;
    let small = SmallDisk::mount()?;
    let path = std::env::var("PATH")?;
    // A machine with a package manager and nothing else.
    let bare = tempfile::tempdir()?;
    std::os::unix::fs::symlink("/usr/bin/apt-get", bare.path().join("apt-get"))?;
    let bare_path = bare.path().display().to_string();
    let taken = platform.base_url.trim_start_matches("http://").to_owned();
    let free = "127.0.0.1:0";
    let row = |name, dir, listen, path, exit, says, advises| Row { name, dir, listen, path, exit, says, advises };
    let rows = [
        row("port in use", empty.path(), &taken, &path, 1, "in use", "--listen"),
        row("missing QEMU", empty.path(), free, &bare_path, 1, "qemu-system-x86", "apt-get install"),
        row("no disk space", small.dir.path(), free, &path, 1, "0 GiB free", "--dir"),
        row("directory in use", &platform.dir, free, &path, 4, "already running", "wrenn down"),
    ];
    let mut wrong = Vec::new();
    for row in rows {
        let output = Spawn::new(env!("CARGO_BIN_EXE_wrenn"))
            .args(["up", "--listen", row.listen, "--dir"])
            .arg(row.dir)
            .env("PATH", row.path)
            .env("WRENN_ENVD", std::env::var_os("WRENN_ENVD").unwrap_or_default())
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.exit != Exit::Code(row.exit) || !text.contains(row.says) || !text.contains(row.advises) {
            wrong.push(format!("{}: {:?}\n{text}", row.name, output.exit));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ").into()) }
}

/// A capsule that does not fit on the disk ends in `error` with the reason; the platform goes on.
pub async fn full_disk_refuses_capsules(platform: &mut Platform) -> Verdict {
    let filler = fill_disk(platform, 100 << 20)?;
    let refused = platform.capsule().await.err().map(|error| error.to_string()).unwrap_or_default();
    drop(filler);
    if !refused.contains("not enough disk space") {
        return Err(format!("instead of a full disk: {refused:?}").into());
    }
    let id = platform.capsule().await?.id;
    platform.destroy(id).await
}

/// A guest that writes to a full disk waits, and goes on once there is room.
pub async fn full_disk_stops_no_capsule_for_good(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let write = "dd if=/dev/zero of=/root/big bs=1M count=160 conv=fsync; echo $? > /root/end";
    let when_told = format!("while ! test -e /dev/shm/go; do sleep 0.1; done; {write}");
    platform.sh(id, &format!("nohup sh -c '{when_told}' >/dev/null 2>&1 &")).await?;
    let filler = fill_disk(platform, 64 << 20)?;
    // Nobody writes that much at once: it may take until the next look to be noticed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let answers = async |script| tokio::time::timeout(Duration::from_secs(3), platform.sh(id, script)).await.is_ok();
    let deadline = Instant::now() + Duration::from_mins(1);
    while answers("touch /dev/shm/go").await {
        assert!(Instant::now() < deadline, "it never met the full disk");
    }
    drop(filler);
    let end = "touch /dev/shm/go; while ! test -s /root/end; do sleep 0.1; done; cat /root/end; stat -c %s /root/big";
    assert_eq!(platform.sh(id, end).await?, "0\n167772160\n");
    platform.destroy(id).await
}

/// A file in the pool that leaves so many bytes free, while it is kept.
fn fill_disk(platform: &Platform, free_bytes: u64) -> Result<tempfile::NamedTempFile, Box<dyn std::error::Error>> {
    let pool = platform.dir.join("pool");
    let free = rustix::fs::statvfs(&pool)?;
    let filler = tempfile::NamedTempFile::new_in(&pool)?;
    // Allocated, not written: costs the host's disk nothing.
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(free_bytes);
    rustix::fs::fallocate(filler.as_file(), rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    Ok(filler)
}

/// A mounted file system of 64 MiB.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64m"))?;
        Ok(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
