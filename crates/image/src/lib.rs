//! What a guest boots from: kernel, initramfs, kernel modules disk, root file system.
//!
//! Everything is a *part*: a directory under [`Options::dir`] named by kind and key, written once, never changed
//! again. [`prepare`] makes the missing parts and returns paths. It knows Debian packages, `mmdebstrap`, `mke2fs`
//! and the shape of a bzImage, and it is the one library room that starts tools by itself.
//!
//! It must never know capsules, templates, VMMs or RPC. It is synchronous: call it from a blocking thread.

mod bootstrap;
mod bzimage;
mod debs;
mod error;
mod ext4;
mod files;
mod initramfs;
mod kernel;
mod modules;
mod part;
mod progress;
mod rootfs;
mod sources;
mod static_elf;
mod tool;

use std::path::{Path, PathBuf};
use std::thread;

pub use error::Error;
pub use initramfs::write as write_initramfs;
pub use progress::{NoProgress, Outcome, Progress, Step};
pub use rootfs::{RootTree, build_disk};

/// Size of a root disk unless the operator asks for another, in MiB.
pub const DEFAULT_ROOT_DISK_MB: u64 = 5120;

/// Where Debian packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The host's own Debian mirrors; on another distribution the bootstrap tool's default mirror.
    Apt,
    /// A directory of `.deb` files, used without any network: for instance [`Options::packages_dir`] of another host.
    Local(PathBuf),
}

impl Source {
    /// `WRENN_ARTIFACTS=<dir>` names a local directory; without it packages come from the mirrors.
    #[must_use]
    pub fn from_env() -> Self {
        std::env::var_os("WRENN_ARTIFACTS").map_or(Self::Apt, |dir| Self::Local(dir.into()))
    }
}

/// What to prepare, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of all parts, on the file system that holds the capsules' disks (so that reflinks work).
    pub dir: PathBuf,
    /// The static `envd` binary that becomes the guest's init. Only the initramfs depends on it.
    pub envd: PathBuf,
    /// Where Debian packages come from.
    pub source: Source,
    /// Virtual size of the root disk in MiB; the file is sparse.
    pub root_disk_mb: u64,
}

impl Options {
    /// Downloaded packages are kept here; copied to a machine without network it serves as [`Source::Local`].
    #[must_use]
    pub fn packages_dir(&self) -> PathBuf {
        self.dir.join("packages")
    }
}

/// Paths of complete, immutable files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    /// 16 hex digits that change when the content of any file below does.
    pub key: String,
    /// The same, for the kernel and its modules alone: part of a snapshot's compatibility class.
    pub kernel_key: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel_release: String,
    /// bzImage.
    pub kernel: PathBuf,
    /// The same kernel as an uncompressed ELF with a PVH note: Firecracker needs it, QEMU starts it faster.
    pub kernel_elf: PathBuf,
    /// Uncompressed newc archive: `/init`, `/modules/NN-name.ko`, `/dev/console`.
    pub initramfs: PathBuf,
    /// The guest daemon in it.
    pub daemon: PathBuf,
    /// 16 hex digits that change when the daemon does.
    pub daemon_key: String,
    /// Read-only ext4 with the content of `/lib/modules/<kernel_release>`.
    pub modules_disk: PathBuf,
    /// ext4 root file system of the `minimal` template, without anything of ours inside.
    pub root_disk: PathBuf,
}

/// The kernel that guests boot, once it has been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As [`Artifacts::kernel_elf`].
    pub elf: PathBuf,
    /// As [`Artifacts::kernel_key`].
    pub key: String,
}

/// The kernel that [`prepare`] would take as it is from `dir`, if there is one. Makes nothing.
pub fn find_kernel(dir: &Path, source: &Source) -> Result<Option<Kernel>, Error> {
    let part = kernel::find(dir, source)?;
    Ok(part.map(|part| Kernel { elf: part.path(kernel::ELF), key: part.identity }))
}

/// Makes the parts that are missing and returns all of them.
///
/// Idempotent: parts that exist are only looked up, so a second call needs neither network nor time. Kernel and
/// root file system are made side by side. An interrupted call leaves nothing but a `.tmp-*` directory, which the
/// next one removes. Two processes on one directory wait for each other.
pub fn prepare(options: &Options, progress: &dyn Progress) -> Result<Artifacts, Error> {
    static_elf::check(&options.envd)?;
    let store = part::Store::open(&options.dir)?;
    let (kernel, root) = thread::scope(|scope| {
        let root = scope.spawn(|| rootfs::minimal(&store, options, progress));
        let kernel = kernel::build(&store, options, progress);
        (kernel, root.join().unwrap_or(Err(Error::Panicked)))
    });
    let (kernel, root) = (kernel?, root?);
    let initramfs = initramfs::build(&store, &kernel, &options.envd, progress)?;
    Ok(Artifacts {
        key: part::digest([&kernel.identity, &root.identity, &initramfs.identity]),
        kernel_key: kernel.identity.clone(),
        kernel_release: kernel::release(&kernel)?,
        kernel: kernel.path(kernel::BZIMAGE),
        kernel_elf: kernel.path(kernel::ELF),
        initramfs: initramfs.path(initramfs::FILE),
        daemon: initramfs.path(initramfs::DAEMON),
        daemon_key: initramfs::daemon_key(&initramfs),
        modules_disk: kernel.path(kernel::MODULES_DISK),
        root_disk: root.path(rootfs::DISK),
    })
}
