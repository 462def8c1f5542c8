//! Standing still for a memory snapshot, and moving again afterwards exactly once.
//!
//! The same memory goes on twice: in the machine that was paused, and in every clone of its snapshot. To the daemon
//! both look alike: time has passed, and the other side of every connection is gone.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use listen::{Generation, Handle};

use crate::cgroups::Cgroups;
use crate::limits;

/// Whether the daemon stands still.
pub struct Quiesce {
    state: Mutex<State>,
    cgroups: Arc<Cgroups>,
    listener: OnceLock<Handle>,
}

#[derive(Debug, Default)]
struct State {
    /// Set by `prepare`, taken by the first recovery: connections older than this belong to the former life.
    pending: Option<Generation>,
    frozen: bool,
    /// Counts freezes, so that an old watchdog does not end a new one.
    freezes: u64,
}

impl Quiesce {
    /// Moving.
    pub fn new(cgroups: Arc<Cgroups>) -> Self {
        Self { state: Mutex::default(), cgroups, listener: OnceLock::new() }
    }

    /// Connections of this listener are governed from now on.
    pub fn govern(&self, listener: Handle) {
        // There is one listener per daemon.
        let _ = self.listener.set(listener);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has user processes freeze, closes idle connections, and has every answer close its connection. Should nobody
    /// thaw, a watchdog does after 10 s.
    pub fn prepare(self: &Arc<Self>) {
        let freeze = self.begin();
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(limits::FREEZE).await;
            this.thaw_if(|state| state.freezes == freeze);
        });
    }

    /// Returns when they stand still, or after half a second.
    pub async fn prepared(&self) {
        self.cgroups.frozen().await;
    }

    /// Begins a standstill and answers its number.
    fn begin(&self) -> u64 {
        let mut state = self.state();
        state.frozen = true;
        state.freezes += 1;
        self.cgroups.freeze();
        if let Some(listener) = self.listener.get() {
            listener.disable_keep_alive();
            listener.close_idle();
            // The first prepare counts when a snapshot was prepared twice.
            let generation = listener.mark_generation();
            state.pending.get_or_insert(generation);
        }
        state.freezes
    }

    /// After a restore: resets the connections of the former life. False when none was prepared for, or another call
    /// was first.
    pub fn recover(&self) -> bool {
        let Some(generation) = self.state().pending.take() else { return false };
        if let Some(listener) = self.listener.get() {
            listener.enable_keep_alive();
            let count = listener.reset_before(generation);
            tracing::info!(count, "restored; connections of the former life reset");
        }
        true
    }

    /// Lets user processes run again.
    pub fn thaw(&self) {
        self.thaw_if(|_| true);
    }

    fn thaw_if(&self, wanted: impl FnOnce(&State) -> bool) {
        let mut state = self.state();
        if state.frozen && wanted(&state) {
            state.frozen = false;
            self.cgroups.thaw();
        }
    }
}
