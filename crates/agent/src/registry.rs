//! The capsules of this host by id.

use crate::actor::Handle;
use crate::failure::Failure;
use crate::limits;
use model::CapsuleId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// All capsules. Clones share the map.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<HashMap<CapsuleId, Handle>>>);

impl Registry {
    /// The capsule with this id.
    pub fn get(&self, id: CapsuleId) -> Result<Handle, Failure> {
        self.lock().get(&id).cloned().ok_or(Failure::Unknown)
    }

    /// Every capsule.
    pub fn all(&self) -> Vec<Handle> {
        self.lock().values().cloned().collect()
    }

    /// Adds a capsule made by `make`, or returns the one that is there.
    pub fn get_or_insert(&self, id: CapsuleId, make: impl FnOnce() -> Handle) -> Result<(Handle, bool), Failure> {
        let mut map = self.lock();
        if let Some(handle) = map.get(&id) {
            return Ok((handle.clone(), false));
        }
        if map.len() >= limits::CAPSULES {
            return Err(Failure::Full);
        }
        let handle = make();
        map.insert(id, handle.clone());
        Ok((handle, true))
    }

    /// Forgets a capsule that is gone. Called last, so that nobody can use its id while parts of it remain.
    pub fn forget(&self, id: CapsuleId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CapsuleId, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
