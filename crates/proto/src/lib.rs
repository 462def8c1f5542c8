//! Connect contracts of the guest daemon (`process`, `filesystem`) and of the host agent (`hostagent.v1`).
//!
//! Knows: messages, service traits and clients, all generated from `proto/*.proto`.
//! Must never know: what any of them means. No hand-written code lives here.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

connectrpc::include_generated!();
