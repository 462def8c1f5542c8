//! Entities, migrations, queries and the outbox, on `SQLite` and on Postgres.
//!
//! Knows: how everything the control plane remembers is stored, that a status changes only on condition and only
//! together with its event, and how secrets are sealed. Speaks `model` types at its border: no type of the
//! database library leaves this crate.
//! Must never know: HTTP, agents, and why anything is done (that is decided by `lifecycle` and `fleet`).
//!
//! Every read-then-write is one transaction; on `SQLite` it begins IMMEDIATE, because a transaction that begins with
//! a read and then writes fails at once with "database is locked" when another writer came between.

mod accounts;
mod capsules;
mod entity;
mod error;
mod hosts;
mod load;
mod migration;
mod moves;
mod open;
mod operations;
mod outbox;
mod seal;
mod templates;
mod time;

pub use accounts::{ApiKey, FirstAccount, KeyOwner, NewKey, UserRecord};
pub use capsules::{After, CapsuleQuery};
pub use error::StoreError;
pub use hosts::HostReport;
pub use load::{HostLoad, Usage};
pub use moves::{Change, Facts, NewCapsule, Placement};
pub use open::{OpenError, Options, Store};
pub use operations::{Pending, Task};
pub use seal::KeyError;
pub use templates::{Added, HeldTemplate};
