//! The wire between the control plane and the agent of one host, both ends.
//!
//! Knows: how the server reaches an agent ([`AgentLink`]), how an agent's errors read to a client
//! ([`error`]), and how an agent tells the server what happened by itself ([`callback`]).
//! Must never know: what a capsule is going through, and SQL.
//!
//! The two ends speak Connect over HTTP/1.1 on a Unix socket.

pub mod callback;
mod errors;
mod link;

pub use callback::{Callback, CallbackError, EventsBody, SandboxEvent};
pub use errors::{INCOMPATIBLE, error};
pub use link::{AgentLink, Endpoint};

/// Path of the agent's reverse proxy: `/proxy/{capsule id}/{port}/{rest}`.
pub const PROXY_PREFIX: &str = "/proxy/";
