//! Snapshots: generations of capsules that stayed what they were, kept until somebody says otherwise, as templates or for
//! a fork. New capsules begin as their clones.
//!
//! A snapshot is there exactly as long as its file `DIR/ID.json`: written once its generation is durable, removed before
//! that. Clones that run keep the generation itself as long as they need it.

use crate::durable::replace;
use crate::record::Class;
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
#[derive(Default)]
pub struct Snapshots {
    by_id: Mutex<HashMap<Uuid, Snapshot>>,
    damaged: bool,
}

impl Snapshots {
    /// Those that were kept.
    pub fn new(kept: Listing) -> Self {
        let by_id = kept.snapshots.into_iter().map(|snapshot| (snapshot.id, snapshot)).collect();
        Self { by_id: Mutex::new(by_id), damaged: kept.damaged }
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

    /// Adds one whose file is written.
    pub fn add(&self, snapshot: Snapshot) {
        self.lock().insert(snapshot.id, snapshot);
    }

    /// Takes one out whose file is removed.
    pub fn remove(&self, id: Uuid) -> Option<Snapshot> {
        self.lock().remove(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Snapshot>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Files::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every readable one.
    pub snapshots: Vec<Snapshot>,
    /// Some could not be read.
    pub damaged: bool,
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

    /// Every snapshot. A file that cannot be read stays where it is: it may be put back, and what it names is kept for that.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                Ok(snapshot) => listing.snapshots.push(snapshot),
                Err(error) => {
                    listing.damaged = true;
                    let advice = "put it back from a backup or remove it; until then no saved memory is cleaned up";
                    tracing::error!(path = %path.display(), %error, advice, "a snapshot's record is damaged");
                }
            }
        }
        Ok(listing)
    }

    /// Keeps one, durably. Blocks.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let path = self.dir.join(file_name(snapshot.id));
        replace(path.clone(), &serde_json::to_vec_pretty(snapshot)?).inspect_err(|_| {
            // It may be there and not durable.
            let _ = fs::remove_file(path);
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
