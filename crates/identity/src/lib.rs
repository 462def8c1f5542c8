//! Users, teams and keys.
//!
//! Knows: how a new installation gets its first account, how an API key is spelled, stored and recognised, and how
//! a password is checked.
//! Must never know: capsules, HTTP.
//!
//! An API key is one secret of 16 bytes in two spellings: `wrn_` + 32 hex for Wrenn clients and `e2b_` + 32 hex for
//! E2B clients, some of which check the prefix. Only the SHA-256 of the 16 bytes is stored: they are random, so
//! there is nothing a slow hash would protect.

mod account;
mod error;
mod key;
mod password;

pub use account::{FirstLogin, User};
pub use error::IdentityError;
pub use key::{KeySecret, Principal};
pub use store::ApiKey;

use key::Recent;
use std::sync::Arc;
use store::Store;
use tokio::sync::Semaphore;

/// Who may do what. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    store: Store,
    recent: Arc<Recent>,
    /// argon2 takes a core and 19 MiB for tens of milliseconds: as many at once as there are cores.
    hashing: Arc<Semaphore>,
}

impl Identity {
    /// Of what the store holds.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { store, recent: Arc::default(), hashing: Arc::new(Semaphore::new(cores)) }
    }
}
