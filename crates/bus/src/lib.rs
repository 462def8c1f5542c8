//! Relay of the outbox and fan-out to whoever listens in this process.
//!
//! Knows: how a message that was written together with the change it tells of reaches every listener: at least
//! once, in order, without ever holding the writer up.
//! Must never know: what a message means, and where it is stored (an [`Outbox`] does).
//!
//! One server needs no broker. With several servers a listener would have to hear the others' messages too; then
//! the relay publishes to a stream that all of them read, and [`Bus::subscribe`] stays as it is.

mod relay;

pub use relay::{Outbox, relay};

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::broadcast;
use uuid::Uuid;

/// Messages a slow listener may fall behind by before it is told that it missed some.
pub const LISTENER_QUEUE: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The same when it is delivered again.
    pub id: Uuid,
    /// Whose it is.
    pub team: Uuid,
    /// What it is about.
    pub subject: Uuid,
    /// What happened, as in `capsule.paused`.
    pub name: String,
    /// More about it, by name.
    pub body: serde_json::Value,
    /// Unix time in microseconds.
    pub at_us: i64,
}

/// Fan-out to the listeners of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    fan: broadcast::Sender<Arc<Message>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { fan: broadcast::Sender::new(LISTENER_QUEUE) }
    }
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A message.
    Message(Arc<Message>),
    /// It was too slow and missed some: look at what you care about again.
    Missed,
}

/// A listener.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<Message>>);

impl Bus {
    /// Tells everybody who listens now.
    pub fn publish(&self, message: Message) {
        // Nobody listens: nobody misses it.
        let _ = self.fan.send(Arc::new(message));
    }

    /// Hears everything from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.fan.subscribe())
    }
}

impl Subscription {
    /// The next message; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(message) => Some(Heard::Message(message)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Heard::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
