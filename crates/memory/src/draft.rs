//! Making a generation: draft → filled → committed.
//!
//! A draft lives in a directory whose name begins with a dot, so that a crash at any point leaves either nothing
//! a reader sees or a whole generation. Dropping a draft removes it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use crate::copy::{Copier, CopyError};
use crate::dirty::{self, Run};
use crate::generation::{DISK, Generation, MEMORY, STATE, describe_state};
use crate::manifest::{Extent, FORMAT, Manifest, ManifestError};
use crate::mapping::{Mapping, MappingError};
use crate::staging::Staging;
use crate::{PAGE_BYTES, limits, rewrite};

/// Why a generation was not made. The VM is unharmed, and nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A file cannot be made, written or made durable: most often the pool is full.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The base's memory cannot be cloned.
    #[error(transparent)]
    Clone(#[from] disk::CloneError),
    /// The process does not map the base as it must.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The process's memory cannot be read: it ended meanwhile.
    #[error("cannot read the memory of process {pid}: {source}")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The manifest cannot be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Pages were placed ahead, and the VMM would not have written those again that it calls clean.
    #[error("pages were placed ahead of a save that the VMM writes itself")]
    Placed,
    /// Not a size of guest memory.
    #[error("{0} bytes is not a whole number of pages up to 1 TiB")]
    MemorySize(u64),
}

impl SaveError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// The immutable file a VM maps as its memory.
#[derive(Debug, Clone)]
pub enum Base {
    /// All zero: the machine was booted, not restored.
    Zero {
        /// A sparse file without data.
        memory: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The machine was restored from this.
    Generation(Arc<Generation>),
}

impl Base {
    /// Makes the sparse memory file for a machine about to boot. Replaces an existing file.
    pub fn create_zero(memory: &Path, bytes: u64) -> Result<Self, SaveError> {
        if bytes == 0 || bytes > limits::MEMORY_BYTES || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(SaveError::MemorySize(bytes));
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(memory)
            .and_then(|file| file.set_len(bytes))
            .map_err(SaveError::write(memory))?;
        Ok(Self::Zero { memory: memory.to_owned(), bytes })
    }

    /// The file to map.
    pub fn memory_path(&self) -> PathBuf {
        match self {
            Self::Zero { memory, .. } => memory.clone(),
            Self::Generation(generation) => generation.memory_path(),
        }
    }

    /// Its length.
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Self::Zero { bytes, .. } => *bytes,
            Self::Generation(generation) => generation.manifest().memory_bytes,
        }
    }

    fn fragments(&self) -> u64 {
        match self {
            Self::Zero { .. } => 0,
            Self::Generation(generation) => generation.manifest().fragments,
        }
    }

    fn id(&self) -> Option<Uuid> {
        match self {
            Self::Zero { .. } => None,
            Self::Generation(generation) => Some(generation.id()),
        }
    }
}

/// What making a generation did and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveReport {
    /// Pages that differ from the base.
    pub dirty_pages: u64,
    /// Pages written: those, and clean ones between them.
    pub written_pages: u64,
    /// Stretches they form.
    pub extents: u64,
    /// Finding them.
    pub scan: Duration,
    /// Copying them to the memory file.
    pub copy: Duration,
    /// Making everything durable, the rename included.
    pub sync: Duration,
}

/// What the owner adds to a generation.
#[derive(Debug, Clone, Default)]
pub struct Seal {
    /// See [`Manifest::compatibility`].
    pub compatibility: String,
    /// See [`Manifest::labels`].
    pub labels: BTreeMap<String, String>,
}

/// A generation that has its base's memory and nothing else yet.
#[derive(Debug)]
pub struct Draft {
    staging: Staging,
    base: Base,
    memory: File,
    /// Extents the memory has from its ancestors.
    fragments: u64,
    /// What has places of its own in the memory already, with contents of no meaning; ascending.
    placed: Vec<Run>,
}

impl Draft {
    /// Begins a generation in `parent_dir`. Clones the base's memory, so it is best done before the VM is stopped.
    pub fn begin(parent_dir: &Path, base: &Base) -> Result<Self, SaveError> {
        let staging = Staging::begin(parent_dir)?;
        let (memory, fragments) = clone_memory(base, &staging.path(MEMORY))?;
        Ok(Self { staging, base: base.clone(), memory, fragments, placed: Vec::new() })
    }

    /// Writes the pages that differ now, while the VM runs, and flushes them, if they are few. Their contents will
    /// have changed until the save, which writes them again; but only the first write of a page takes it out of the
    /// extent it shares with the base, and that is what the flush of a small save spends its time on.
    pub fn place_dirty(&mut self, pid: u32) -> Result<(), SaveError> {
        let Base::Generation(_) = self.base else { return Ok(()) };
        let mapping = Mapping::find(pid, &self.base.memory_path(), self.base.memory_bytes())?;
        let runs = dirty::join(&dirty::scan(pid, &mapping).map_err(process(pid))?);
        if pages(&runs) > limits::PLACED_PAGES {
            return Ok(());
        }
        // Noted first: what an error leaves in the file has to be written again as well.
        self.placed.clone_from(&runs);
        self.copy(pid, &mapping, &runs)?;
        self.memory.sync_all().map_err(SaveError::write(&self.memory_path()))
    }

    /// Where the device state is to be written.
    pub fn state_path(&self) -> PathBuf {
        self.staging.path(STATE)
    }

    /// The base's memory; a VMM that writes what differs by itself writes it here.
    pub fn memory_path(&self) -> PathBuf {
        self.staging.path(MEMORY)
    }

    /// Where the disk's clone is to be put, if the generation shall have one.
    pub fn disk_path(&self) -> PathBuf {
        self.staging.path(DISK)
    }

    /// Copies the pages that differ from process `pid`, whose virtual CPUs are stopped. Once this returned, the VM may
    /// run on.
    pub fn copy_dirty(self, pid: u32) -> Result<Filled, SaveError> {
        let started = Instant::now();
        let mapping = Mapping::find(pid, &self.base.memory_path(), self.base.memory_bytes())?;
        let mut runs = dirty::scan(pid, &mapping).map_err(process(pid))?;
        let scan = started.elapsed();
        let dirty_pages = pages(&runs);
        // A page may be the base's again since it was placed: a balloon gives pages back.
        runs.extend(&self.placed);
        runs.sort_unstable();
        let extents = self.copy(pid, &mapping, &dirty::join(&runs))?;
        let report = SaveReport {
            dirty_pages,
            written_pages: extents.iter().map(|extent| extent.pages).sum(),
            extents: extents.len() as u64,
            scan,
            copy: started.elapsed().saturating_sub(scan),
            sync: Duration::ZERO,
        };
        Ok(Filled { draft: self, extents, report })
    }

    fn copy(&self, pid: u32, mapping: &Mapping, runs: &[Run]) -> Result<Vec<Extent>, SaveError> {
        // A page of zeros needs no writing where the base has none but zeros.
        let skip_zeros = matches!(self.base, Base::Zero { .. });
        Copier { pid, mapping, memory: &self.memory, skip_zeros }.copy(runs).map_err(|error| match error {
            CopyError::Read(source) => process(pid)(source),
            CopyError::Write(source) => SaveError::Write { path: self.memory_path(), source },
        })
    }

    /// For a VMM that wrote what differs into [`Self::memory_path`] by itself; nothing may have been placed.
    pub fn written_by_vmm(mut self) -> Result<Filled, SaveError> {
        self.fragments += limits::WRITTEN_FRAGMENTS;
        if self.placed.is_empty() {
            Ok(Filled { draft: self, extents: Vec::new(), report: SaveReport::default() })
        } else {
            Err(SaveError::Placed)
        }
    }
}

/// A draft with all its memory.
#[derive(Debug)]
pub struct Filled {
    draft: Draft,
    extents: Vec<Extent>,
    report: SaveReport,
}

impl Filled {
    /// Makes it durable and visible as `parent_dir/ID`. The device state must be in its place.
    pub fn commit(self, seal: Seal) -> Result<(Generation, SaveReport), SaveError> {
        let Self { draft, extents, mut report } = self;
        let started = Instant::now();
        let manifest = draft.manifest(extents, seal)?;
        let generation = draft.staging.commit(manifest)?;
        report.sync = started.elapsed();
        Ok((generation, report))
    }
}

impl Draft {
    fn manifest(&self, extents: Vec<Extent>, seal: Seal) -> Result<Manifest, SaveError> {
        let state = self.state_path();
        Ok(Manifest {
            format: FORMAT,
            id: self.staging.id,
            parent: self.base.id(),
            created_unix_ms: now_unix_ms(),
            memory_bytes: self.base.memory_bytes(),
            compatibility: seal.compatibility,
            labels: seal.labels,
            state: Some(describe_state(&state).map_err(SaveError::write(&state))?),
            disk_bytes: self.disk_path().metadata().ok().map(|metadata| metadata.len()),
            fragments: self.fragments + extents.len() as u64,
            extents,
        })
    }
}

fn process(pid: u32) -> impl FnOnce(io::Error) -> SaveError {
    move |source| SaveError::Process { pid, source }
}

fn pages(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.pages).sum()
}

/// The base's memory as a new file, and the fragments it consists of.
fn clone_memory(base: &Base, target: &Path) -> Result<(File, u64), SaveError> {
    let source = base.memory_path();
    if base.fragments() > limits::FRAGMENTS {
        let copy = rewrite::copy_file(&source, target).map_err(SaveError::write(target))?;
        return Ok((copy, 0));
    }
    disk::clone_file(&source, target)?;
    let clone = OpenOptions::new().read(true).write(true).open(target).map_err(SaveError::write(target))?;
    Ok((clone, base.fragments()))
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
