//! The agent of one host: it runs capsules.
//!
//! Knows: one actor per capsule ([`actor`]), the four operations and their undoing ([`operations`]), snapshots of capsules
//! that go on ([`snapshots`]), what is written down so that a restart finds every VM again ([`record`], [`adopt`]), what
//! capsules use ([`metrics`]), emptying the host ([`drain`]), the RPC surface ([`rpc`]), and what a host would offer an agent ([`survey`]). Capsules touch
//! their host through [`environment`] alone, so that a simulator can take its place.
//! Must never know: which VMM runs a machine, how a page becomes durable, SQL, or who may do what: the control plane
//! decides, the agent does.
//!
//! A start is [`prepare`] (what guests boot from) and then [`Agent::start`]; [`Agent::stop`] either saves every running
//! capsule or leaves it running for the next agent.

pub mod actor;
pub mod adopt;
mod classes;
pub mod drain;
mod durable;
pub mod environment;
mod events;
pub mod failure;
pub mod handle;
mod host;
pub mod laps;
mod limits;
mod memory_room;
mod metrics;
pub mod operations;
mod options;
mod points;
mod proxy;
mod ready;
mod real;
pub mod record;
pub mod registry;
mod rpc;
pub mod shared;
pub mod snapshots;
mod space;
mod start;
pub mod survey;
mod teardown;
mod tier;
pub mod told;
mod vm;
mod vm_dirs;

pub use options::{Options, VmmChoice, VmmOptions};
pub use start::{Agent, Prepared, StartError, Stop, prepare};
pub use teardown::{TeardownError, teardown};
pub use vm::Standstill;
