//! Snapshots: generations of capsules that stayed what they were, kept until somebody says otherwise, as templates or for
//! a fork. New capsules begin as their clones.
//!
//! A snapshot is there exactly as long as its file `DIR/ID.json`: written once its generation is durable, removed before
//! that. Clones that run keep the generation itself as long as they need it.

use crate::failure::Failure;
use crate::host::Host;
use crate::record::{Class, replace};
use crate::vm::Standstill;
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

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotWish {
    /// Its id, given by the control plane.
    pub id: Uuid,
    /// Keep the disk only.
    pub discard_memory: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// How long the capsule stood still.
    pub standstill: Standstill,
    /// What it takes on the disk, shared parts included.
    pub size_bytes: u64,
}

/// The snapshots of this host.
pub struct Snapshots {
    dir: PathBuf,
    by_id: Mutex<HashMap<Uuid, Snapshot>>,
    damaged: bool,
}

impl Snapshots {
    /// Opens the directory, which is made if missing. A file that cannot be read stays where it is: it may
    /// be put back, and what it names is kept for that.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let (mut by_id, mut damaged) = (HashMap::new(), false);
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Snapshot>(&bytes)?)) {
                Ok(snapshot) => drop(by_id.insert(snapshot.id, snapshot)),
                Err(error) => {
                    damaged = true;
                    let advice = "put it back from a backup or remove it; until then no saved memory is cleaned up";
                    tracing::error!(path = %path.display(), %error, advice, "a snapshot's record is damaged");
                }
            }
        }
        Ok(Self { dir, by_id: Mutex::new(by_id), damaged })
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

    /// Whether a record could not be read: what it names is not known then.
    pub fn are_damaged(&self) -> bool {
        self.damaged
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
