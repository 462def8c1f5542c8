//! Generations made of files that are there already, without a VM.

use std::path::Path;

use crate::draft::{SaveError, Seal, now_unix_ms};
use crate::generation::{DISK, Generation, MEMORY, STATE};
use crate::manifest::{FORMAT, Manifest};
use crate::staging::Staging;

/// A generation to be of a disk alone: whoever begins as it boots. Dropped, it is gone.
#[derive(Debug)]
pub struct DiskDraft {
    staging: Staging,
    bytes: u64,
}

impl DiskDraft {
    /// A clone of `disk` in `parent_dir`. Nobody writes to it meanwhile.
    pub fn begin(parent_dir: &Path, disk: &Path) -> Result<Self, SaveError> {
        let staging = Staging::begin(parent_dir)?;
        disk::clone_file(disk, &staging.path(DISK))?;
        let bytes = disk.metadata().map_err(SaveError::write(disk))?.len();
        Ok(Self { staging, bytes })
    }

    /// Makes it durable and visible.
    pub fn commit(self, seal: Seal) -> Result<Generation, SaveError> {
        let manifest = Manifest {
            format: FORMAT,
            id: self.staging.id,
            parent: None,
            created_unix_ms: now_unix_ms(),
            memory_bytes: 0,
            compatibility: seal.compatibility,
            labels: seal.labels,
            state: None,
            disk_bytes: Some(self.bytes),
            fragments: 0,
            extents: Vec::new(),
        };
        self.staging.commit(manifest)
    }
}

impl Generation {
    /// The same contents in a generation of its own in `parent_dir`: each is removed without the other.
    pub fn duplicate(&self, parent_dir: &Path, seal: Seal) -> Result<Self, SaveError> {
        let staging = Staging::begin(parent_dir)?;
        for name in [MEMORY, STATE, DISK] {
            let source = self.dir().join(name);
            if source.exists() {
                disk::clone_file(&source, &staging.path(name))?;
            }
        }
        let manifest = Manifest {
            id: staging.id,
            parent: Some(self.id()),
            created_unix_ms: now_unix_ms(),
            compatibility: seal.compatibility,
            labels: seal.labels,
            ..self.manifest().clone()
        };
        staging.commit(manifest)
    }
}
