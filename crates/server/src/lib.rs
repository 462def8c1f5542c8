//! The control plane, put together: address, database, accounts, fleet, API.
//!
//! Knows: in which order these start and stop, and what a person can do when one of them cannot.
//! Must never know: the insides of a route, or how anything is done.
//!
//! [`run`] is the whole life of a server; [`Server`] is the same in two steps, for a program that does something in
//! between. The server needs no agent to start: it finds its host as soon as that answers.

mod credentials;
mod error;
mod file;
mod host;
mod start;

pub use error::StartError;
pub use host::HostCredentials;
pub use start::{Options, Server, run};
