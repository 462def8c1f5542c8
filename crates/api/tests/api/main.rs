//! The API over sockets: real fleet, real database, the fleet's test agent as its host.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code)]
#[path = "../../../fleet/tests/fleet/agent.rs"]
mod agent;
mod capsules;
mod e2b;
mod mistakes;
mod support;
