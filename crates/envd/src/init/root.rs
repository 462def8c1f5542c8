//! From the initramfs to the root disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_move};

use super::DAEMON;
use super::console::Console;

const ROOT_DISK: &str = "/dev/vda";
/// Kernel modules that did not fit the initramfs, as a read-only file system.
const MODULES_DISK: &str = "/dev/vdb";
const NEW_ROOT: &str = "/newroot";
/// Devices appear a few milliseconds after their module, later on a loaded host.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
const DISK_POLL: Duration = Duration::from_millis(1);

/// Without a root there is nothing to run.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(super) struct NoRoot {
    what: String,
    error: io::Error,
}

trait During<T> {
    fn during(self, what: impl Into<String>) -> Result<T, NoRoot>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl Into<String>) -> Result<T, NoRoot> {
        self.map_err(|error| NoRoot { what: what.into(), error: error.into() })
    }
}

/// Loads drivers, mounts the disk, installs the daemon, and makes the disk `/`.
pub(super) fn switch(console: &mut Console) -> Result<(), NoRoot> {
    load_modules(console);
    console.phase_ended("modules");
    let kind = wait_for(Path::new(ROOT_DISK)).and_then(|()| file_system(ROOT_DISK)).during("root disk")?;
    fs::create_dir_all(NEW_ROOT).during(NEW_ROOT)?;
    // The file behind the disk reads as zeros: to write those into the tables of a disk that grows would only cost space.
    let options = if kind == "ext4" { c"noinit_itable" } else { c"" };
    mount(ROOT_DISK, NEW_ROOT, kind, MountFlags::NOATIME, options).during("mounting the root disk")?;
    console.phase_ended("root disk");
    let modules = mount_modules();
    if Path::new(MODULES_DISK).exists() {
        console.step("kernel modules", modules);
    }
    install_daemon().during("installing the daemon")?;
    remove_initramfs(console);
    move_root().during("switching the root")?;
    console.phase_ended("root");
    Ok(())
}

/// In the order of their names, which is the order of their dependencies.
fn load_modules(console: &mut Console) {
    let mut files: Vec<PathBuf> =
        fs::read_dir("/modules").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "ko")) {
        let loaded = File::open(path).and_then(|file| match rustix::system::finit_module(&file, c"", 0) {
            // Loaded already, or for a machine other than this one.
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => Ok(()),
            loaded => Ok(loaded?),
        });
        console.step(path.display(), loaded);
    }
}

fn wait_for(device: &Path) -> io::Result<()> {
    let deadline = Instant::now() + DISK_PATIENCE;
    while !device.exists() {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} did not appear", device.display())));
        }
        std::thread::sleep(DISK_POLL);
    }
    Ok(())
}

/// Told by the superblock: ext4, or one of the read-only formats a modules disk may have.
fn file_system(device: &str) -> io::Result<&'static str> {
    use std::os::unix::fs::FileExt as _;
    let mut block = [0; 2048];
    File::open(device)?.read_exact_at(&mut block, 0)?;
    let has = |offset: usize, magic: &[u8]| block.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    Ok(match () {
        () if has(0, b"hsqs") => "squashfs",
        () if has(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) => "erofs",
        () if has(0, b"XFSB") => "xfs",
        () => "ext4",
    })
}

fn mount_modules() -> io::Result<()> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let target = format!("{NEW_ROOT}/lib/modules/{release}");
    let kind = file_system(MODULES_DISK)?;
    fs::create_dir_all(&target)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount(MODULES_DISK, target.as_str(), kind, flags, c"")?)
}

/// Onto a tmpfs that becomes `/run`.
fn install_daemon() -> io::Result<()> {
    let run = format!("{NEW_ROOT}/run");
    fs::create_dir_all(&run)?;
    mount("tmpfs", run.as_str(), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=25%")?;
    let binary = format!("{NEW_ROOT}{DAEMON}");
    if let Some(directory) = Path::new(&binary).parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy("/proc/self/exe", &binary)?;
    fs::set_permissions(binary, fs::Permissions::from_mode(0o755))
}

/// Its memory is given back, all but the running binary's.
fn remove_initramfs(console: &mut Console) {
    for path in ["/modules", "/init"] {
        let path = Path::new(path);
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        if path.exists() {
            console.step(path.display(), removed);
        }
    }
}

/// As `switch_root(8)`: a root made of an initramfs cannot be pivoted away, so the new one is moved over it.
fn move_root() -> io::Result<()> {
    for mounted in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{mounted}");
        fs::create_dir_all(&target)?;
        mount_move(mounted, target.as_str())?;
    }
    std::env::set_current_dir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}
