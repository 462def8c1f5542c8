//! What everybody may see of a capsule without asking its actor.
//!
//! Data-plane calls take a [`Lease`]: they read the state, keep the guest's clients while they last and end when the VM
//! does. They never wait in the actor's mailbox.

use crate::failure::Failure;
use crate::laps::Laps;
use crate::metrics::Gauges;
use crate::record::Record;
use guestlink::Envd;
use model::CapsuleStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A running guest.
#[derive(Clone)]
pub struct Guest {
    /// Clients of its daemon.
    pub envd: Envd,
    /// Opens connections to its ports.
    pub dialler: network::Dialler,
    /// Which life of the capsule this is; grows with every start of a VM.
    pub life: u64,
    /// What its VM uses.
    pub gauges: Arc<Gauges>,
    /// Cancelled when this life ends.
    pub gone: CancellationToken,
}

/// A capsule as it is now.
#[derive(Clone)]
pub struct View<G = Guest> {
    /// Its last stable record.
    pub record: Arc<Record>,
    /// Where it is.
    pub status: CapsuleStatus,
    /// Its guest, while it runs.
    pub guest: Option<G>,
    /// How long the steps of its start took, while it runs.
    pub laps: Option<Arc<Laps>>,
}

/// The part of a capsule that is shared between its actor and everybody else.
pub struct Shared<G = Guest> {
    view: watch::Sender<View<G>>,
    /// Tells the Unix time in milliseconds.
    clock: fn() -> u64,
    last_active_ms: AtomicU64,
    leases: AtomicUsize,
}

impl<G: Clone> Shared<G> {
    /// Of a capsule just created or found.
    pub fn new(view: View<G>, clock: fn() -> u64) -> Arc<Self> {
        Arc::new(Self {
            view: watch::Sender::new(view),
            clock,
            last_active_ms: AtomicU64::new(clock()),
            leases: AtomicUsize::new(0),
        })
    }

    /// The capsule now.
    pub fn view(&self) -> View<G> {
        self.view.borrow().clone()
    }

    /// Replaces the view. For the actor only.
    pub fn publish(&self, view: View<G>) {
        self.view.send_replace(view);
    }

    /// Something happened in it that counts as activity.
    pub fn touch(&self) {
        self.last_active_ms.fetch_max((self.clock)(), Ordering::Relaxed);
    }

    /// Last activity in Unix milliseconds. A capsule somebody holds a lease on is active now.
    pub fn last_active_ms(&self) -> u64 {
        if self.leases.load(Ordering::Relaxed) > 0 {
            self.touch();
        }
        self.last_active_ms.load(Ordering::Relaxed)
    }

    /// The guest, for one call. Waits up to `hold` while the capsule is starting or resuming.
    pub async fn lease(self: &Arc<Self>, hold: Duration) -> Result<Lease<G>, Failure> {
        let mut views = self.view.subscribe();
        let settled = views.wait_for(|view| !matches!(view.status, CapsuleStatus::Starting | CapsuleStatus::Resuming));
        if let Ok(Err(_)) = tokio::time::timeout(hold, settled).await {
            return Err(Failure::Unknown);
        }
        let view = self.view();
        match view.guest {
            Some(guest) if view.status == CapsuleStatus::Running => {
                self.leases.fetch_add(1, Ordering::Relaxed);
                self.touch();
                Ok(Lease { guest, shared: self.clone() })
            }
            _ => Err(Failure::State(view.status)),
        }
    }
}

/// A call into a running guest. While it is held the capsule counts as active.
pub struct Lease<G: Clone = Guest> {
    /// The guest.
    pub guest: G,
    shared: Arc<Shared<G>>,
}

impl<G: Clone> Drop for Lease<G> {
    fn drop(&mut self) {
        self.shared.touch();
        self.shared.leases.fetch_sub(1, Ordering::Relaxed);
    }
}
