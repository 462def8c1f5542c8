//! The pool: one directory in which files are cloned without copying, where the host allows it at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::admission::{AdmitError, Ledger, Reservation, available_bytes};
use crate::busy::outlast;
use crate::cloning::{self, CloneError, Cloned};
use crate::{mounts, usage, xfs};

/// What an operator may decide about the pool.
#[derive(Debug, Clone, Default)]
pub struct PoolOptions {
    /// Upper bound of the pool file, in bytes; 80 % of the free space when it is made otherwise. Has no effect on a
    /// host file system that shares extents itself.
    pub size_limit_bytes: Option<u64>,
}

/// How the pool shares extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The host's own file system does it.
    Reflink,
    /// An XFS file system in a file does it.
    Loop {
        /// `/dev/loopN`.
        device: PathBuf,
        /// Whether the host's page cache is left out, so that nothing is cached twice.
        direct_io: bool,
    },
    /// Nothing does: every clone is a sparse copy. Worth a warning.
    Plain {
        /// Why.
        why: PlainReason,
    },
}

/// Why a pool does not share extents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlainReason {
    /// The pool file could not be made.
    #[error("disks are copied instead of shared: {0}")]
    NoPoolFile(String),
    /// The pool file could not be mounted although it had just been made: no loop devices or no XFS in this kernel.
    #[error("disks are copied instead of shared: the pool file cannot be mounted: {0}")]
    NoMount(String),
    /// The directory already holds files, which a mount would hide.
    #[error("disks are copied instead of shared: the pool was begun without sharing; empty it to change that")]
    HoldsFiles,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, locked or read.
    #[error("cannot use {path} for the pool")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The pool file of an earlier start is there, with everybody's disks in it, and cannot be mounted.
    #[error("cannot mount the pool file {image}")]
    Mount {
        /// The pool file.
        image: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Why a pool was not closed or purged.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// A process still uses a file of the pool.
    #[error("{path} is still in use")]
    Busy {
        /// The pool.
        path: PathBuf,
    },
    /// Unmounting or removing failed.
    #[error("cannot remove {path}")]
    Io {
        /// What was to be unmounted or removed.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A directory for disks and memory files. Clones of this handle share their reservations.
#[derive(Debug, Clone)]
pub struct Pool {
    path: PathBuf,
    kind: Kind,
    ledger: Arc<Ledger>,
    /// Of what is taken for a moment: it may come out of what others were promised, and gives theirs back soon.
    short: Arc<Ledger>,
    /// What others had on the file system when the pool was opened.
    others_bytes: u64,
    /// The file it is in.
    image: Option<PathBuf>,
}

/// Used bytes of a file system.
fn used_bytes(path: &Path) -> io::Result<u64> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize))
}

/// What lies on the file system beside the pool; less than that where the pool's files share extents, which count in each.
fn others_bytes(pool: &Path) -> io::Result<u64> {
    Ok(used_bytes(pool)?.saturating_sub(usage::allocated_bytes(pool)?))
}

/// The files of a pool.
struct Layout {
    pool: PathBuf,
    image: PathBuf,
    lock: PathBuf,
}

impl Pool {
    /// Opens the pool under `wrenn_dir`, mounting or making what is needed. Repeating it changes nothing.
    pub fn open(wrenn_dir: &Path, options: &PoolOptions) -> Result<Self, OpenError> {
        let layout = Layout::new(wrenn_dir);
        let directory = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        std::fs::create_dir_all(&layout.pool).map_err(directory(&layout.pool))?;
        let _lock = layout.lock().map_err(directory(&layout.lock))?;
        let kind = match layout.mounted_image().map_err(directory(&layout.pool))? {
            Some(device) => looped(device),
            None if layout.image.exists() => {
                let mounted = xfs::mount(&layout.image, &layout.pool);
                looped(mounted.map_err(|source| OpenError::Mount { image: layout.image.clone(), source })?)
            }
            None if cloning::shares_extents(&layout.pool).map_err(directory(&layout.pool))? => Kind::Reflink,
            None => layout.first_start(options).map_err(directory(&layout.pool))?,
        };
        // Guests' disks and memory: nobody else's business on this host.
        restrict(&layout.pool, 0o700).map_err(directory(&layout.pool))?;
        if layout.image.exists() {
            restrict(&layout.image, 0o600).map_err(directory(&layout.image))?;
        }
        let image = matches!(kind, Kind::Loop { .. }).then_some(layout.image);
        let mut places = vec![layout.pool.clone()];
        if image.is_some() {
            places.push(wrenn_dir.to_owned());
        }
        let others_bytes = match kind {
            Kind::Loop { .. } => 0,
            Kind::Reflink | Kind::Plain { .. } => others_bytes(&layout.pool).unwrap_or_else(|error| {
                tracing::warn!(%error, "what others have on the pool's disk is not known");
                0
            }),
        };
        let (ledger, short) = (Ledger::new(places.clone()), Ledger::new(places));
        Ok(Self { path: layout.pool, kind, ledger, short, others_bytes, image })
    }

    /// `<wrenn_dir>/pool`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How extents are shared.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// See [`crate::clone_file`].
    pub fn clone_file(&self, source: &Path, target: &Path) -> Result<Cloned, CloneError> {
        cloning::clone_file(source, target)
    }

    /// Bytes that can still be admitted.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.ledger.free_bytes()
    }

    /// Bytes nobody uses, promised or not. What is written in a pool file takes space from the file system below only later: it
    /// counts as taken.
    pub fn unused_bytes(&self) -> io::Result<u64> {
        let unused = self.ledger.unused_bytes()?;
        let Some(image) = &self.image else { return Ok(unused) };
        let owed = used_bytes(&self.path)?.saturating_sub(usage::allocated_bytes(image)?);
        Ok(unused.min(available_bytes(image)?.saturating_sub(owed)))
    }

    /// Bytes there are for the pool, used and unused. A pool file has what it holds and what it can still get from the file system it
    /// is in.
    pub fn size_bytes(&self) -> io::Result<u64> {
        let used = used_bytes(&self.path)?.saturating_sub(self.others_bytes);
        Ok(self.ledger.unused_bytes()?.saturating_add(used))
    }

    /// As [`Self::admit`], for a work that must be possible also where all is promised, because it gives space back, and ends soon: only
    /// others of its kind count.
    pub fn admit_short(&self, bytes: u64) -> Result<Reservation, AdmitError> {
        self.short.admit(bytes)
    }

    /// Promises `bytes` to the caller, or says how much there is.
    pub fn admit(&self, bytes: u64) -> Result<Reservation, AdmitError> {
        self.ledger.admit(bytes)
    }

    /// Allocated bytes of a file, or of a directory with all it holds. A shared extent counts in each of its files.
    pub fn usage_bytes(path: &Path) -> io::Result<u64> {
        usage::allocated_bytes(path)
    }

    /// Unmounts what [`Self::open`] mounted. All files stay.
    pub fn close(self) -> Result<(), CloseError> {
        match self.kind {
            Kind::Loop { .. } => unmount(&self.path),
            Kind::Reflink | Kind::Plain { .. } => Ok(()),
        }
    }

    /// Removes the pool of `wrenn_dir` with every disk in it. What does not exist is fine.
    pub fn purge(wrenn_dir: &Path) -> Result<(), CloseError> {
        let layout = Layout::new(wrenn_dir);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CloseError::Io { path, source }
        };
        if layout.mounted_image().map_err(failed(&layout.pool))?.is_some() {
            unmount(&layout.pool)?;
        }
        remove(std::fs::remove_dir_all(&layout.pool)).map_err(failed(&layout.pool))?;
        for file in [&layout.image, &xfs::unfinished(&layout.image), &layout.lock] {
            remove(std::fs::remove_file(file)).map_err(failed(file))?;
        }
        Ok(())
    }
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

impl Layout {
    fn new(wrenn_dir: &Path) -> Self {
        Self { pool: wrenn_dir.join("pool"), image: wrenn_dir.join("pool.xfs"), lock: wrenn_dir.join("pool.lock") }
    }

    /// Held until dropped: two starts at once must not make two file systems.
    fn lock(&self) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(&self.lock)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// The device our pool file is mounted on. A volume the operator mounted there is not ours.
    fn mounted_image(&self) -> io::Result<Option<PathBuf>> {
        let Some(device) = mounts::source_at(&self.pool)? else { return Ok(None) };
        let Some(backing) = mounts::backing_file(&device) else { return Ok(None) };
        let ours = self.image.canonicalize().is_ok_and(|image| image == backing);
        Ok(ours.then_some(device))
    }

    fn first_start(&self, options: &PoolOptions) -> io::Result<Kind> {
        if std::fs::read_dir(&self.pool)?.next().is_some() {
            return Ok(Kind::Plain { why: PlainReason::HoldsFiles });
        }
        if let Err(error) = xfs::format(&self.image, options.size_limit_bytes) {
            return Ok(Kind::Plain { why: PlainReason::NoPoolFile(error.to_string()) });
        }
        match xfs::mount(&self.image, &self.pool) {
            Ok(device) => Ok(looped(device)),
            Err(error) => {
                std::fs::remove_file(&self.image)?;
                Ok(Kind::Plain { why: PlainReason::NoMount(error.to_string()) })
            }
        }
    }
}

fn looped(device: PathBuf) -> Kind {
    let direct_io = mounts::direct_io(&device);
    Kind::Loop { device, direct_io }
}

/// A process being started holds every descriptor of its parent until its `execve`, so what is busy may be free at
/// once; what a process really uses stays busy.
fn unmount(path: &Path) -> Result<(), CloseError> {
    match outlast(Errno::BUSY, || rustix::mount::unmount(path, UnmountFlags::empty())) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(CloseError::Busy { path: path.into() }),
        Err(error) => Err(CloseError::Io { path: path.into(), source: error.into() }),
    }
}

fn remove(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
