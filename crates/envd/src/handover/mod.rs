//! What outlives a daemon: descriptors and ends of processes, and the listener, kept by its supervisor.
//!
//! The supervisor (init, or `envd --supervised`) holds a duplicate of every pipe and terminal, so that no process
//! notices when the daemon dies or is replaced: what it writes stays in the pipe until the next daemon reads it. Both
//! sides speak the same few [`Message`]s over a pair of sockets, one message per packet, descriptors attached.
//!
//! Knows: processes as numbers, descriptors and ends. What a daemon wants to remember of one is text to this room.
//! Must never know: HTTP, or what the text means.

mod keeping;
mod supervisor;
mod wire;

pub use keeping::Keeping;
pub use supervisor::{Estate, Inherited, Supervisor};
pub use wire::{Held, Inbox, Message, send};
