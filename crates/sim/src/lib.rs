//! A host that is not there, under the agent that is: seeded histories of capsules, and the checker that judges them.
//!
//! Knows: what a host can do and how it fails (`host`, `vm`), what of it outlives an agent (`world`), what must
//! hold at every durable write and whenever all is quiet, and how to drive the production actors, operations and adoption
//! with crashes, failures, and messages that are lost, doubled or late ([`run`]).
//! Must never know: how a real VM, disk or network works. For tests only: no other room may use it.
//!
//! One seed is one history: one thread, a clock that stands still while there is work, and every chance from one
//! generator. A history that ends badly says its seed.

mod agent;
mod calls;
mod check;
mod clock;
mod contents;
mod driver;
mod history;
mod host;
mod rules;
mod tally;
mod vm;
mod world;

pub use history::{Plan, Report, Wrong, run};
pub use tally::Tally;
pub use world::Defect;
