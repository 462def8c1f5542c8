//! Accepted connections: how long they may take, who they are, and how they end.
//!
//! Knows: an accept loop over TCP or Unix sockets that serves an axum `Router` by HTTP/1.1 (and, if asked,
//! HTTP/2 by prior knowledge); a limit from the first byte of a request head to its end; a limit for idle
//! keep-alive connections; a registry in which every connection has a generation, so that those of an
//! earlier life can be closed by reset.
//! Must never know: routes, what a request means, who is asking.
//!
//! hyper's own `header_read_timeout` is not used: it also runs while a keep-alive connection is idle and
//! would cut it after 10 s. [`meter`] counts from the first byte instead.

mod accept;
mod connection;
mod meter;
mod registry;
mod remainder;
mod socket;

pub use accept::{Accepted, Endpoint, Handle, Handshake, Listener, Stream};
pub use registry::{Generation, Reset};
pub use socket::Socket;

use std::time::Duration;

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a request head to its end.
    pub head: Duration,
    /// Between the end of an answer and the first byte of the next head.
    pub idle: Duration,
    /// Connections served at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Whether a client may speak HTTP/2 with prior knowledge.
    pub http2: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), idle: Duration::from_secs(620), connections: 8192, http2: false }
    }
}
