//! A committed generation: a directory that is whole and is never written again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::dirty::PAGE_BYTES;
use crate::limits::{COPY_BYTES, MANIFEST_BYTES};
use crate::manifest::{Extent, Manifest, ManifestError, StateFile};

pub(crate) const MEMORY: &str = "memory";
pub(crate) const STATE: &str = "state";
pub(crate) const DISK: &str = "disk";
pub(crate) const MANIFEST: &str = "manifest.json";

/// A whole generation on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    dir: PathBuf,
    manifest: Manifest,
}

/// Why a generation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest does not hold.
    #[error("{path}: {source}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A file is not what the manifest says.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
}

impl Generation {
    /// Opens the generation in `dir`: manifest, device state's digest and all lengths are checked, memory and disk
    /// contents are not (see [`Self::verify`]).
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(MANIFEST);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MANIFEST_BYTES).read_to_end(&mut bytes))
            .map_err(|source| OpenError::Read { path: path.clone(), source })?;
        let manifest = Manifest::decode(&bytes).map_err(|source| OpenError::Manifest { path, source })?;
        let generation = Self { dir: dir.to_owned(), manifest };
        generation.check_lengths()?;
        generation.check_state()?;
        Ok(generation)
    }

    /// A generation just written by this process, which knows that it is whole.
    pub(crate) fn committed(dir: PathBuf, manifest: Manifest) -> Self {
        Self { dir, manifest }
    }

    /// Checks every page this generation wrote against its checksum; reads that much of the memory file.
    pub fn verify(&self) -> Result<(), OpenError> {
        if !self.has_memory() {
            return Ok(());
        }
        let path = self.memory_path();
        let read = |source| OpenError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(read)?;
        let mut buffer = vec![0; COPY_BYTES];
        for extent in &self.manifest.extents {
            if crc32_of(&file, *extent, &mut buffer).map_err(read)? != extent.crc32 {
                return Err(OpenError::Damaged { path, what: "pages do not match their checksum" });
            }
        }
        Ok(())
    }

    /// Its identity.
    pub fn id(&self) -> Uuid {
        self.manifest.id
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether a machine can be restored from it; otherwise it has a disk to boot from.
    pub fn has_memory(&self) -> bool {
        self.manifest.state.is_some()
    }

    /// Bytes its files take on the disk, those included that it shares with other generations.
    pub fn allocated_bytes(&self) -> u64 {
        let files = [MEMORY, STATE, DISK].map(|name| self.dir.join(name).metadata());
        files.into_iter().flatten().map(|file| file.blocks() * 512).sum()
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Flat guest memory, to be mapped privately, if it has any.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// Device state, if it has memory.
    pub fn state_path(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// Root disk as of the same moment, if the generation has one; to be cloned, never attached.
    pub fn disk_path(&self) -> Option<PathBuf> {
        self.manifest.disk_bytes.map(|_| self.dir.join(DISK))
    }

    fn check_lengths(&self) -> Result<(), OpenError> {
        let manifest = &self.manifest;
        let state = manifest.state.as_ref();
        let files = [
            (MEMORY, state.map(|_| manifest.memory_bytes)),
            (STATE, state.map(|state| state.bytes)),
            (DISK, manifest.disk_bytes),
        ];
        for (name, bytes) in files {
            let (Some(bytes), path) = (bytes, self.dir.join(name)) else { continue };
            match path.metadata() {
                Ok(metadata) if metadata.len() == bytes => {}
                Ok(_) => return Err(OpenError::Damaged { path, what: "length differs from the manifest's" }),
                Err(source) => return Err(OpenError::Read { path, source }),
            }
        }
        Ok(())
    }

    fn check_state(&self) -> Result<(), OpenError> {
        let Some(expected) = &self.manifest.state else { return Ok(()) };
        let path = self.state_path();
        match describe_state(&path) {
            Ok(state) if state == *expected => Ok(()),
            Ok(_) => Err(OpenError::Damaged { path, what: "digest differs from the manifest's" }),
            Err(source) => Err(OpenError::Read { path, source }),
        }
    }
}

/// Length and digest of a device state file.
pub(crate) fn describe_state(path: &Path) -> io::Result<StateFile> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        digest.update(chunk);
        bytes += chunk.len() as u64;
    }
    Ok(StateFile { bytes, sha256: hex::encode(digest.finalize()) })
}

fn crc32_of(file: &File, extent: Extent, buffer: &mut [u8]) -> io::Result<u32> {
    let bytes = usize::try_from(extent.pages * PAGE_BYTES).map_err(io::Error::other)?;
    let chunk = buffer.get_mut(..bytes).ok_or(io::ErrorKind::InvalidData)?;
    file.read_exact_at(chunk, extent.first * PAGE_BYTES)?;
    Ok(crc32fast::hash(chunk))
}
