//! The fleet on a real database with an agent that fails on demand.

mod agent;
mod guest;
mod lifecycle;
mod world;
