//! Parts: immutable directories `<kind>-<key>` with a `part.json`, present only when whole.
//!
//! A part is written in `.tmp-<kind>-<key>`, synced, then renamed. Its *key* says what was asked for and is known
//! beforehand; its *identity* says what came out (a mirror may serve newer packages next month).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Outcome, Progress, Step, files};

const MANIFEST: &str = "part.json";

/// A complete part.
#[derive(Debug, Clone)]
pub struct Part {
    dir: PathBuf,
    /// Digest of what the part holds.
    pub identity: String,
    /// Facts found while building, such as the kernel release.
    pub facts: BTreeMap<String, String>,
}

impl Part {
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }
}

/// What a builder found out about the part it made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub identity: String,
    pub facts: BTreeMap<String, String>,
}

/// The directory of parts, locked against other processes for as long as this value lives.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the directory if needed, waits for the lock, and clears what interrupted runs left behind.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock_path = dir.join(".lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        lock.lock().map_err(Error::io("lock", &lock_path))?;
        for entry in files::list(dir)? {
            if files::name(&entry).starts_with(".tmp-") {
                files::remove_tree(&entry)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Returns the part, calling `build` with an empty directory when it does not exist yet.
    pub fn part(
        &self,
        step: Step,
        (kind, key): (&str, &str),
        progress: &dyn Progress,
        build: impl FnOnce(&Path) -> Result<Manifest, Error>,
    ) -> Result<Part, Error> {
        if let Some(part) = find(&self.dir, (kind, key))? {
            progress.finished(step, Outcome::Cached);
            return Ok(part);
        }
        let dir = self.dir.join(format!("{kind}-{key}"));
        progress.started(step);
        let temporary = self.dir.join(format!(".tmp-{kind}-{key}"));
        fs::create_dir(&temporary).map_err(Error::io("create", &temporary))?;
        let manifest = build(&temporary)?;
        write_manifest(&temporary, &manifest)?;
        files::sync_dir(&temporary)?;
        fs::rename(&temporary, &dir).map_err(Error::io("rename", &temporary))?;
        files::sync(&self.dir)?;
        progress.finished(step, Outcome::Built);
        Ok(Part { dir, identity: manifest.identity, facts: manifest.facts })
    }
}

/// The part in the directory of parts, if it is whole. Needs no lock: a part is there at once and never changes.
pub fn find(dir: &Path, (kind, key): (&str, &str)) -> Result<Option<Part>, Error> {
    let dir = dir.join(format!("{kind}-{key}"));
    let manifest = read_manifest(&dir)?;
    Ok(manifest.map(|manifest| Part { dir, identity: manifest.identity, facts: manifest.facts }))
}

/// First 16 hex digits of the SHA-256 over the items, each with its length, so that no two lists collide.
pub fn digest<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for item in items {
        hash.update((item.as_ref().len() as u64).to_le_bytes());
        hash.update(item.as_ref());
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(16);
    text
}

fn read_manifest(dir: &Path) -> Result<Option<Manifest>, Error> {
    let path = dir.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::io("parse", &path)(error.into()))
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), Error> {
    let path = dir.join(MANIFEST);
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| Error::io("encode", &path)(error.into()))?;
    fs::write(&path, bytes).map_err(Error::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;

    fn manifest() -> Manifest {
        Manifest { identity: "i".into(), facts: BTreeMap::new() }
    }

    #[test]
    fn a_part_is_built_once_and_never_half() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let failed = store.part(Step::Kernel, ("kernel", "1"), &NoProgress, |tmp| {
            fs::write(tmp.join("half"), "x").unwrap();
            Err(Error::NotRoot)
        });
        assert!(matches!(failed, Err(Error::NotRoot)));
        assert!(find(dir.path(), ("kernel", "1")).unwrap().is_none());
        drop(store);

        let store = Store::open(dir.path()).unwrap();
        let built = store.part(Step::Kernel, ("kernel", "1"), &NoProgress, |tmp| {
            assert!(!tmp.join("half").exists(), "the interrupted attempt must be gone");
            Ok(manifest())
        });
        assert_eq!(built.unwrap().identity, "i");
        let again = store.part(Step::Kernel, ("kernel", "1"), &NoProgress, |_| panic!("must be cached"));
        assert_eq!(again.unwrap().identity, "i");
        assert_eq!(find(dir.path(), ("kernel", "1")).unwrap().map(|part| part.identity).as_deref(), Some("i"));
    }

    #[test]
    fn digest_separates_items() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest(["a"]).len(), 16);
    }
}
