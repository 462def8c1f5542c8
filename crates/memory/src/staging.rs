//! A generation's directory before anybody may see it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::draft::SaveError;
use crate::generation::{DISK, Generation, MANIFEST, MEMORY, STATE};
use crate::manifest::Manifest;

/// Beginning of such a directory's name: what a crash leaves of it is swept by its name.
pub(crate) const PREFIX: &str = ".draft-";

/// A directory that becomes a generation, or is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) id: Uuid,
    parent_dir: PathBuf,
    dir: PathBuf,
    committed: bool,
}

impl Staging {
    pub(crate) fn begin(parent_dir: &Path) -> Result<Self, SaveError> {
        let id = Uuid::now_v7();
        let dir = parent_dir.join(format!("{PREFIX}{id}"));
        DirBuilder::new().mode(0o700).create(&dir).map_err(SaveError::write(&dir))?;
        Ok(Self { id, parent_dir: parent_dir.to_owned(), dir, committed: false })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes it durable and visible as `parent_dir/ID`.
    pub(crate) fn commit(mut self, manifest: Manifest) -> Result<Generation, SaveError> {
        let path = self.path(MANIFEST);
        write_new(&path, &manifest.encode()?).map_err(SaveError::write(&path))?;
        self.let_vmms_read()?;
        self.sync_contents()?;
        let target = self.parent_dir.join(self.id.to_string());
        fs::rename(&self.dir, &target).map_err(SaveError::write(&target))?;
        self.dir.clone_from(&target);
        sync_directory(&self.parent_dir).map_err(SaveError::write(&self.parent_dir))?;
        self.committed = true;
        Ok(Generation::committed(target, manifest))
    }

    /// VMMs that are nobody map the memory; whoever does not get it shown is kept out by the directory.
    fn let_vmms_read(&self) -> Result<(), SaveError> {
        let memory = self.path(MEMORY);
        match fs::set_permissions(&memory, Permissions::from_mode(0o644)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SaveError::write(&memory)(error)),
            _ => Ok(()),
        }
    }

    /// Flushes everything side by side, for each waits for the device. What they contain is read by nobody before the
    /// rename, so their order does not matter.
    fn sync_contents(&self) -> Result<(), SaveError> {
        let files = [MEMORY, STATE, DISK, MANIFEST].map(|name| self.path(name));
        std::thread::scope(|scope| {
            let others = files.each_ref().map(|path| scope.spawn(move || sync_file(path)));
            sync_file(&self.dir)?;
            for handle in others {
                handle.join().unwrap_or_else(|_| Err(SaveError::write(&self.dir)(io::ErrorKind::Other.into())))?;
            }
            Ok(())
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a draft could not be removed; the next start sweeps it");
        }
    }
}

/// Flushes a file or directory that need not exist.
fn sync_file(path: &Path) -> Result<(), SaveError> {
    match File::open(path) {
        Ok(file) => file.sync_all().map_err(SaveError::write(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SaveError::write(path)(error)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
