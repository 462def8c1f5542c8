//! From the outbox to the bus.

use crate::{Bus, Message};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Messages taken at once.
const BATCH: u64 = 100;
/// How often the outbox is looked at without being told to: for leases that ran out.
const PERIOD: Duration = Duration::from_secs(5);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Where messages wait that were written together with what they tell of.
pub trait Outbox: Send + Sync + 'static {
    /// Why it cannot be read.
    type Error: std::fmt::Display + Send;

    /// Waits until something may have been written.
    fn written(&self) -> impl Future<Output = ()> + Send;

    /// Takes the oldest messages nobody else has taken, in order. They come again when they are not settled before
    /// the lease ends.
    fn lease(&self, most: u64) -> impl Future<Output = Result<Vec<Message>, Self::Error>> + Send;

    /// Marks messages as delivered.
    fn settle(&self, ids: &[Uuid]) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Publishes what is written to the outbox, until `stop`.
pub async fn relay(outbox: impl Outbox, bus: Bus, stop: CancellationToken) {
    loop {
        let more = match drain(&outbox, &bus).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "cannot relay events");
                tokio::time::sleep(PAUSE).await;
                true
            }
        };
        if stop.is_cancelled() {
            return;
        }
        if !more {
            tokio::select! {
                () = outbox.written() => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// One batch; true when there may be more.
async fn drain<O: Outbox>(outbox: &O, bus: &Bus) -> Result<bool, O::Error> {
    let messages = outbox.lease(BATCH).await?;
    if messages.is_empty() {
        return Ok(false);
    }
    let ids: Vec<Uuid> = messages.iter().map(|message| message.id).collect();
    for message in messages {
        bus.publish(message);
    }
    outbox.settle(&ids).await?;
    Ok(true)
}
