//! Where the files of one VM are.

use crate::host::Host;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Paths of one VM. The id is unique, so nothing of an earlier VM is ever found there.
pub struct Dirs {
    /// Its disk and, after a boot, its memory; in the pool.
    pub files: PathBuf,
    /// Sockets and the keeper's files; in memory.
    pub runtime: PathBuf,
}

/// Where a VM's sockets are, among those of all VMs.
pub fn runtime_of(all: &Path, id: Uuid) -> PathBuf {
    all.join(id.simple().to_string())
}

impl Dirs {
    /// Of the VM with this id.
    pub fn of(host: &Host, id: Uuid) -> Self {
        Self { files: host.vms_dir().join(id.to_string()), runtime: runtime_of(host.runtime_dir(), id) }
    }

    /// Its root disk.
    pub fn disk(&self) -> PathBuf {
        self.files.join("disk")
    }

    /// Makes both.
    pub fn create(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.files)?;
        std::fs::create_dir_all(&self.runtime)
    }

    /// Removes both; what cannot be removed is left to the next start.
    pub fn remove(&self) {
        for dir in [&self.files, &self.runtime] {
            if let Err(error) = std::fs::remove_dir_all(dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %dir.display(), %error, "left behind; the next start removes it");
            }
        }
    }
}
