//! Every open connection of a listener, by generation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::meter::Meter;

/// Connections accepted between two calls of [`crate::Handle::mark_generation`] share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// One open connection as the registry sees it.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    generation: Generation,
    pub(crate) meter: Arc<Meter>,
    /// End at once, by reset.
    pub(crate) reset: CancellationToken,
    /// End after the answer being given, if any.
    pub(crate) finish: CancellationToken,
    registry: Arc<Registry>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.open().remove(&self.id);
    }
}

/// Ends the connection a request came by; found in the request's extensions. It does not keep the connection open.
#[derive(Debug, Clone)]
pub struct Reset(CancellationToken);

impl Reset {
    pub(crate) fn new(entry: &Entry) -> Self {
        Self(entry.reset.clone())
    }

    /// Closes it at once with RST, so that no client takes a cut answer for a whole one.
    pub fn reset(&self) {
        self.0.cancel();
    }
}

#[derive(Debug, Clone)]
struct Controls {
    generation: Generation,
    meter: Arc<Meter>,
    reset: CancellationToken,
    finish: CancellationToken,
}

/// The open connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: Mutex<HashMap<u64, Controls>>,
    next_id: AtomicU64,
    generation: AtomicU64,
    no_keep_alive: AtomicBool,
}

impl Registry {
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Controls>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Arc<Entry> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let controls = Controls {
            generation: self.generation(),
            meter: Arc::new(Meter::new()),
            reset: CancellationToken::new(),
            finish: CancellationToken::new(),
        };
        self.open().insert(id, controls.clone());
        let Controls { generation, meter, reset, finish } = controls;
        Arc::new(Entry { id, generation, meter, reset, finish, registry: Arc::clone(self) })
    }

    pub(crate) fn len(&self) -> usize {
        self.open().len()
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(crate) fn mark_generation(&self) -> Generation {
        Generation(self.generation.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(crate) fn set_keep_alive(&self, on: bool) {
        self.no_keep_alive.store(!on, Ordering::Release);
    }

    pub(crate) fn keep_alive(&self) -> bool {
        !self.no_keep_alive.load(Ordering::Acquire)
    }

    pub(crate) fn close_idle(&self) -> usize {
        self.each(|c| c.meter.is_idle(), |c| c.finish.cancel())
    }

    pub(crate) fn finish_all(&self) {
        self.each(|_| true, |c| c.finish.cancel());
    }

    pub(crate) fn reset_before(&self, generation: Generation) -> usize {
        self.each(|c| c.generation < generation, |c| c.reset.cancel())
    }

    pub(crate) fn reset_all(&self) {
        self.each(|_| true, |c| c.reset.cancel());
    }

    /// Acts outside the lock: a cancelled connection may end at once and leave the registry.
    fn each(&self, which: impl Fn(&Controls) -> bool, act: impl Fn(&Controls)) -> usize {
        let chosen: Vec<_> = self.open().values().filter(|c| which(c)).cloned().collect();
        chosen.iter().for_each(act);
        chosen.len()
    }
}

impl Entry {
    /// Whether answers on this connection may be followed by another request.
    pub(crate) fn keep_alive(&self) -> bool {
        self.registry.keep_alive()
    }

    /// The life of the listener in which it was accepted.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}
