//! Standing still for a memory snapshot, and moving again afterwards exactly once.
//!
//! The same memory goes on twice: in the machine that was paused, and in every clone of its snapshot. To the daemon
//! both look alike: time has passed, and the other side of every connection is gone. A machine that outlives its
//! snapshot is only held for a moment: once released, it goes on with everything it had.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

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
    pending: Option<Pending>,
    frozen: bool,
    /// Counts freezes, so that an old watchdog does not end a new one.
    freezes: u64,
}

/// By what the daemon learns that it was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Anybody's question how it is.
    Health,
    /// The host's word who it is.
    Init,
}

/// A recovery that has to come after a restore.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Connections of this one and older ones belong to the former life.
    generation: Generation,
    /// The machine was only held: unless it is told who it is now, it is still the one that was.
    held: bool,
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
        self.thaw_later(self.begin(false));
    }

    /// The same for a machine that outlives its snapshot: its connections stay as they are.
    pub fn hold(self: &Arc<Self>) {
        self.thaw_later(self.begin(true));
    }

    /// Ends what [`Self::hold`] began, in the machine that was held.
    pub fn release(&self) {
        self.state().pending.take_if(|pending| pending.held);
        self.thaw();
    }

    fn thaw_later(self: &Arc<Self>, freeze: u64) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(limits::FREEZE).await;
            this.thaw_if(|state| state.freezes == freeze);
        });
    }

    /// Returns when they stand still, or after `patience`; false then.
    pub async fn stand_still(&self, patience: Duration) -> bool {
        self.cgroups.frozen(patience).await
    }

    /// Whether user processes have run on since a standstill whose recovery has not come: in a clone they then ran as those of
    /// the machine it was made of. Those of a hold may have ended since.
    pub fn ran_on(&self) -> bool {
        let state = self.state();
        !state.frozen && state.pending.is_some_and(|pending| pending.held || self.cgroups.populated())
    }

    /// Begins a standstill and answers its number.
    fn begin(&self, held: bool) -> u64 {
        let mut state = self.state();
        state.frozen = true;
        state.freezes += 1;
        self.cgroups.freeze();
        if let Some(listener) = self.listener.get() {
            if !held {
                listener.disable_keep_alive();
                listener.close_idle();
            }
            // The first prepare counts when a snapshot was prepared twice. A hold that was never released counts no more: the
            // machine has gone on.
            let generation = listener.mark_generation();
            state.pending.take_if(|pending| pending.held);
            state.pending.get_or_insert(Pending { generation, held });
        }
        state.freezes
    }

    /// After a restore: resets the connections of the former life. False when none was prepared for, or another call
    /// was first.
    pub fn recover(&self, sign: Sign) -> bool {
        let pending = self.state().pending.take_if(|pending| !pending.held || sign == Sign::Init);
        let Some(Pending { generation, .. }) = pending else { return false };
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
