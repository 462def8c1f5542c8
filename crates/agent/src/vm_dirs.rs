//! Where the files of one VM are.

use crate::host::Host;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Paths of one VM. The id is unique, so nothing of an earlier VM is ever found there.
pub struct Dirs {
    /// Its disk and, after a boot, its memory; in the pool.
    pub files: PathBuf,
    /// The keeper's files and sockets; in memory.
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

    /// The VMM's own: its sockets, and what it writes that is copied out of there. Nothing in it is trusted.
    pub fn vmm(&self) -> PathBuf {
        self.files.join("vmm")
    }

    /// Makes them.
    pub fn create(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(self.vmm())?;
        std::fs::create_dir_all(&self.runtime)
    }

    /// Removes them; what cannot be removed is left to the next start.
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
