//! Reverse proxy to the ports of capsules: the control plane forwards to an agent, the agent into the guest.
//!
//! Knows: how a request names a port ([`Target`]), how one HTTP/1.1 request, event stream or upgraded
//! connection travels one [`Hop`] further, how redirects survive it, and how everything that belongs to a
//! capsule is cut off at once ([`Proxy::reset`]).
//! Must never know: who may access what. It asks its [`Backend`] before every request.
//!
//! Each capsule, port and generation has connections of its own, so a slow guest slows nobody else and
//! a connection of an earlier life is never used again.

mod backend;
mod body;
mod headers;
mod hop;
mod limits;
mod location;
mod pools;
mod proxy;
mod target;
mod tunnel;

pub use backend::{Admission, Backend, Refusal};
pub use hop::Hop;
pub use proxy::Proxy;
pub use target::{GUEST_DAEMON_PORT, Target, is_guest_control};
