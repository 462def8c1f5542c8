//! The relay delivers everything, in order, and again what was not settled.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers are not `#[test]`s, so clippy.toml does not cover them.

use bus::{Bus, Heard, LISTENER_QUEUE, Message, Outbox, relay};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// An outbox in memory whose first `settle` fails.
#[derive(Clone, Default)]
struct Memory {
    waiting: Arc<Mutex<VecDeque<Message>>>,
    failed: Arc<Mutex<bool>>,
    written: Arc<Notify>,
}

impl Outbox for Memory {
    type Error = String;

    async fn written(&self) {
        self.written.notified().await;
    }

    async fn lease(&self, most: u64) -> Result<Vec<Message>, String> {
        let most = usize::try_from(most).unwrap();
        Ok(self.waiting.lock().unwrap().iter().take(most).cloned().collect())
    }

    async fn settle(&self, ids: &[Uuid]) -> Result<(), String> {
        if !std::mem::replace(&mut *self.failed.lock().unwrap(), true) {
            return Err("lost".to_owned());
        }
        self.waiting.lock().unwrap().retain(|message| !ids.contains(&message.id));
        Ok(())
    }
}

fn message(at_us: i64) -> Message {
    Message {
        id: Uuid::from_u128(at_us.unsigned_abs().into()),
        team: Uuid::nil(),
        subject: Uuid::nil(),
        name: "test".to_owned(),
        body: serde_json::Value::Null,
        at_us,
    }
}

#[tokio::test]
async fn delivers_in_order_and_again_after_a_failure() {
    let outbox = Memory::default();
    outbox.waiting.lock().unwrap().extend((1..=250).map(message));
    let bus = Bus::default();
    let mut heard = bus.subscribe();
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(relay(outbox.clone(), bus, stop.clone()));
    let mut order = Vec::new();
    while order.last() != Some(&250) {
        match heard.next().await {
            Some(Heard::Message(message)) => order.push(message.at_us),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order[..100], order[100..200], "the batch that was not settled came again");
    assert_eq!(order[100..], (1..=250).collect::<Vec<_>>()[..]);
    stop.cancel();
    relaying.await.unwrap();
}

#[tokio::test]
async fn a_slow_listener_is_told_and_goes_on() {
    let bus = Bus::default();
    let mut heard = bus.subscribe();
    let many = i64::try_from(LISTENER_QUEUE).unwrap() + 5;
    for at_us in 1..=many {
        bus.publish(message(at_us));
    }
    assert_eq!(heard.next().await, Some(Heard::Missed));
    let Some(Heard::Message(first)) = heard.next().await else { panic!("nothing") };
    assert_eq!(first.at_us, 6);
}
