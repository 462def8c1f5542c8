//! State machines as pure functions: the capsule as its host's agent sees it ([`agent`]) and as the control
//! plane sees it ([`server`]).
//!
//! Knows: which event leads from which status to which, and what has to be done then.
//! Must never know: how anything is done. No I/O, no clock, no randomness, nothing asynchronous: time comes in
//! as an argument, work goes out as a value, and a shell elsewhere performs it. So the same machines run in the
//! product and in the property tests.

pub mod agent;
pub mod server;
