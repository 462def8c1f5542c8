//! Pools and open requests of each capsule, and the switch that ends them.

use crate::backend::Admission;
use crate::{Refusal, Target, limits};
use axum::body::Body;
use dial::{BoxIo, Client, Dialler};
use model::CapsuleId;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Everything of one capsule.
struct Tenant {
    pools: HashMap<(u16, u64), Client<Body>>,
    room: Arc<Semaphore>,
    reset: CancellationToken,
}

impl Tenant {
    fn new() -> Self {
        Self {
            pools: HashMap::new(),
            room: Arc::new(Semaphore::new(limits::OPEN_PER_CAPSULE)),
            reset: CancellationToken::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.room.available_permits() == limits::OPEN_PER_CAPSULE
    }

    fn pool(&mut self, port: u16, generation: u64, dialler: &Dialler) -> Client<Body> {
        // Connections of an earlier life are dead.
        self.pools.retain(|(_, of), _| *of == generation);
        if self.pools.len() >= limits::POOLS_PER_CAPSULE {
            self.pools.clear();
        }
        let new = || dial::client(patient(dialler.clone()), limits::POOL);
        self.pools.entry((port, generation)).or_insert_with(new).clone()
    }
}

/// One request's place.
pub(crate) struct Place {
    pub(crate) client: Client<Body>,
    /// Fires when the capsule is reset.
    pub(crate) reset: CancellationToken,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The tenants of one proxy.
#[derive(Default)]
pub(crate) struct Pools(Mutex<HashMap<CapsuleId, Tenant>>);

impl Pools {
    fn tenants(&self) -> MutexGuard<'_, HashMap<CapsuleId, Tenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, target: Target, admission: &Admission) -> Result<Place, Refusal> {
        let mut tenants = self.tenants();
        if tenants.len() >= limits::CAPSULES && !tenants.contains_key(&target.capsule) {
            tenants.retain(|_, tenant| !tenant.is_idle());
        }
        let tenant = tenants.entry(target.capsule).or_insert_with(Tenant::new);
        let permit = Arc::clone(&tenant.room).try_acquire_owned().map_err(|_| Refusal::TooMany)?;
        let client = tenant.pool(target.port, admission.generation, &admission.dialler);
        Ok(Place { client, reset: tenant.reset.clone(), permit })
    }

    /// Idle connections close; open requests go on.
    pub(crate) fn evict(&self, capsule: CapsuleId) {
        if let Some(tenant) = self.tenants().get_mut(&capsule) {
            tenant.pools.clear();
        }
    }

    /// Everything closes.
    pub(crate) fn reset(&self, capsule: CapsuleId) {
        let tenant = self.tenants().remove(&capsule);
        if let Some(tenant) = tenant {
            tenant.reset.cancel();
        }
    }
}

/// A dialler that tries again: nothing of the request has been sent, so any request may be repeated.
fn patient(dialler: Dialler) -> Dialler {
    Dialler::new(move || dial_patiently(dialler.clone()))
}

async fn dial_patiently(dialler: Dialler) -> io::Result<BoxIo> {
    let mut waited = Duration::ZERO;
    for attempt in 1.. {
        let error = match dialler.dial().await {
            Ok(io) => return Ok(io),
            Err(error) => error,
        };
        let pause = limits::DIAL_STEP * attempt;
        let again = match error.kind() {
            io::ErrorKind::ConnectionRefused => waited + pause <= limits::DIAL_REFUSED,
            io::ErrorKind::TimedOut => false,
            _ => attempt < limits::DIAL_ATTEMPTS,
        };
        if !again {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        waited += pause;
    }
    Err(io::ErrorKind::ConnectionRefused.into())
}
