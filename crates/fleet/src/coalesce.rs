//! Notes of activity, at most one in ten seconds per capsule.

use model::CapsuleId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How exactly activity is noted.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Most capsules remembered; beyond them activity is noted more often, never less.
const REMEMBERED_MAX: usize = 10_000;

/// When each capsule's activity was noted last.
#[derive(Default)]
pub(crate) struct Coalesce(Mutex<HashMap<CapsuleId, Instant>>);

impl Coalesce {
    /// Whether activity now is to be noted; then the next ten seconds are not.
    pub(crate) fn due(&self, id: CapsuleId) -> bool {
        // Nothing panics with the lock held.
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&id).is_some_and(|at| at.elapsed() < EVERY) {
            return false;
        }
        if noted.len() >= REMEMBERED_MAX {
            noted.retain(|_, at| at.elapsed() < EVERY);
        }
        if noted.len() < REMEMBERED_MAX {
            noted.insert(id, Instant::now());
        }
        true
    }
}
