//! Snapshots: generations of capsules that went on, kept until somebody says otherwise. New capsules begin as their clones.
//!
//! A snapshot is there exactly as long as its file `DIR/ID.json`: written once its generation is durable, removed before
//! that. Clones that run keep the generation itself as long as they need it.

use crate::record::{Class, replace};
use model::CapsuleId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A snapshot of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id, given by the control plane.
    pub id: Uuid,
    /// The capsule it was made of.
    pub capsule: CapsuleId,
    /// Its memory, state and disk.
    pub generation: Uuid,
    /// Template and size of the capsule it was made of.
    pub class: Class,
}

/// The snapshots of this host.
#[derive(Default)]
pub struct Snapshots(Mutex<HashMap<Uuid, Snapshot>>);

impl Snapshots {
    /// Those that were kept.
    pub fn new(kept: impl IntoIterator<Item = Snapshot>) -> Self {
        Self(Mutex::new(kept.into_iter().map(|snapshot| (snapshot.id, snapshot)).collect()))
    }

    /// One of them.
    pub fn get(&self, id: Uuid) -> Option<Snapshot> {
        self.lock().get(&id).cloned()
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    /// The generations they need.
    pub fn generations(&self) -> Vec<Uuid> {
        self.lock().values().map(|snapshot| snapshot.generation).collect()
    }

    /// Whether a generation belongs to one of them.
    pub fn owns(&self, generation: Uuid) -> bool {
        self.lock().values().any(|snapshot| snapshot.generation == generation)
    }

    /// Adds one whose file is written.
    pub fn add(&self, snapshot: Snapshot) {
        self.lock().insert(snapshot.id, snapshot);
    }

    /// Takes one out whose file is removed.
    pub fn remove(&self, id: Uuid) -> Option<Snapshot> {
        self.lock().remove(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Snapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where snapshots are kept: `DIR/ID.json`.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Opens the directory, which is made if missing.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Every snapshot. A file that cannot be read is put aside: a snapshot lives for minutes, and clones that run know
    /// their generation by themselves.
    pub fn list(&self) -> io::Result<Vec<Snapshot>> {
        let mut snapshots = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a snapshot's record is damaged");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(snapshots)
    }

    /// Keeps one, durably. Blocks.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let name = file_name(snapshot.id);
        replace(&self.dir, &name, &serde_json::to_vec_pretty(snapshot)?).inspect_err(|_| {
            // It may be there and not durable.
            let _ = fs::remove_file(self.dir.join(name));
        })
    }

    /// Gives one up, durably. Giving up an unknown one succeeds. Blocks.
    pub fn remove(&self, id: Uuid) -> io::Result<()> {
        match fs::remove_file(self.dir.join(file_name(id))).and_then(|()| File::open(&self.dir)?.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn file_name(id: Uuid) -> String {
    format!("{id}.json")
}
