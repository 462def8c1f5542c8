//! The fleet on a real database with an agent that fails on demand.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers are not `#[test]`s, so clippy.toml does not cover them.

mod agent;
mod fork;
mod guest;
mod lifecycle;
mod templates;
mod world;
