//! Snapshots: generations of capsules that went on, kept until somebody says otherwise. New capsules begin as their clones.
//!
//! A snapshot is there exactly as long as its file `DIR/ID.json`: written once its generation is durable, removed before
//! that. Clones that run keep the generation itself as long as they need it.

use crate::failure::Failure;
use crate::host::Host;
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
pub struct Snapshots {
    dir: PathBuf,
    by_id: Mutex<HashMap<Uuid, Snapshot>>,
}

impl Snapshots {
    /// Opens the directory, which is made if missing. A file that cannot be read is put aside: a snapshot lives for
    /// minutes, and clones that run know their generation by themselves.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut by_id = HashMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Snapshot>(&bytes)?)) {
                Ok(snapshot) => drop(by_id.insert(snapshot.id, snapshot)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a snapshot's record is damaged");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(Self { dir, by_id: Mutex::new(by_id) })
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

    /// Keeps one, durably. Blocks.
    pub fn add(&self, snapshot: Snapshot) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(&snapshot).map_err(Failure::at("saving the snapshot"))?;
        let name = file_name(snapshot.id);
        if let Err(error) = replace(&self.dir, &name, &bytes) {
            // It may be there and not durable.
            let _ = fs::remove_file(self.dir.join(name));
            return Err(Failure::at("saving the snapshot")(error));
        }
        self.lock().insert(snapshot.id, snapshot);
        Ok(())
    }

    /// Gives one up; its generation goes once no clone needs it. Giving up an unknown one succeeds. Blocks.
    pub fn remove(&self, host: &Host, id: Uuid) -> Result<(), Failure> {
        let removed = fs::remove_file(self.dir.join(file_name(id))).and_then(|()| File::open(&self.dir)?.sync_all());
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::at("removing the snapshot")(error));
            }
            _ => {}
        }
        let Some(snapshot) = self.lock().remove(&id) else { return Ok(()) };
        host.shelf.remove(snapshot.generation).map_err(Failure::at("removing the snapshot"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Snapshot>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_name(id: Uuid) -> String {
    format!("{id}.json")
}
