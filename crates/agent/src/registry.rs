//! The capsules of this host by id.

use crate::failure::Failure;
use crate::handle::Handle;
use crate::limits;
use crate::shared::Guest;
use model::CapsuleId;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// All capsules. Clones share the map.
#[derive(Clone)]
pub struct Registry<G = Guest>(Arc<Mutex<Rows<G>>>);

struct Rows<G> {
    handles: HashMap<CapsuleId, Handle<G>>,
    /// Those whose record cannot be read: they are there, and nobody knows how.
    damaged: BTreeSet<CapsuleId>,
}

impl<G> Default for Registry<G> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Rows { handles: HashMap::new(), damaged: BTreeSet::new() })))
    }
}

impl<G: Clone> Registry<G> {
    /// Adds capsules of which nothing but the id is known.
    pub fn add_damaged(&self, ids: impl IntoIterator<Item = CapsuleId>) {
        self.lock().damaged.extend(ids);
    }

    /// The capsule with this id.
    pub fn get(&self, id: CapsuleId) -> Result<Handle<G>, Failure> {
        let rows = self.lock();
        if rows.damaged.contains(&id) {
            return Err(Failure::Damaged(id));
        }
        rows.handles.get(&id).cloned().ok_or(Failure::Unknown)
    }

    /// Every capsule.
    pub fn all(&self) -> Vec<Handle<G>> {
        self.lock().handles.values().cloned().collect()
    }

    /// Those whose record is damaged.
    pub fn damaged(&self) -> Vec<CapsuleId> {
        self.lock().damaged.iter().copied().collect()
    }

    /// Adds a capsule made by `make`, or returns the one that is there.
    pub fn get_or_insert(&self, id: CapsuleId, make: impl FnOnce() -> Handle<G>) -> Result<(Handle<G>, bool), Failure> {
        let mut rows = self.lock();
        if rows.damaged.contains(&id) {
            return Err(Failure::Damaged(id));
        }
        if let Some(handle) = rows.handles.get(&id) {
            return Ok((handle.clone(), false));
        }
        if rows.handles.len() >= limits::CAPSULES {
            return Err(Failure::Full);
        }
        let handle = make();
        rows.handles.insert(id, handle.clone());
        Ok((handle, true))
    }

    /// Forgets a capsule that is gone. Called last, so that nobody can use its id while parts of it remain.
    pub fn forget(&self, id: CapsuleId) {
        let mut rows = self.lock();
        rows.handles.remove(&id);
        rows.damaged.remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rows<G>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
