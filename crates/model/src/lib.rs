//! The words everybody uses: typed ids, statuses, lifetimes, limits, the error catalogue, REST types.
//!
//! Knows: how each of these is spelled on the wire and which values are valid.
//! Must never know: everything else. No I/O, no clock, no database, no HTTP library; a type of another
//! crate in here is a mistake.

pub mod capsule;
pub mod check;
pub mod egress;
pub mod error;
pub mod host;
pub mod ids;
pub mod lifetime;
pub mod limits;
pub mod metrics;
pub mod rest;
pub mod secret;
pub mod status;

pub use capsule::{Capsule, Size, Surroundings, Template};
pub use egress::Egress;
pub use error::{Code, Error};
pub use host::{Capacity, Host, HostStatus};
pub use ids::{CapsuleId, HostId, KeyId, TeamId, TemplateId, UserId};
pub use lifetime::Lifetime;
pub use secret::Secret;
pub use status::{CapsuleStatus, EndReason};
