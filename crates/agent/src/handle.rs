//! What can be asked of a capsule, and the way to ask it.

use crate::failure::Failure;
use crate::record::Egress;
use crate::shared::{Guest, Shared, View};
use crate::snapshots::{SnapshotWish, Taken};
use lifecycle::agent::Command;
use model::{CapsuleStatus, Lifetime};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Answer to a caller: the capsule as it is then.
pub type Reply<G = Guest> = oneshot::Sender<Result<View<G>, Failure>>;

/// What can be asked of a capsule.
pub enum Message<G = Guest> {
    /// A change of state.
    Ask {
        /// Which.
        command: Command,
        /// How.
        how: How,
        /// Who wants to know.
        reply: Reply<G>,
    },
    /// A new lifetime.
    SetLifetime(Lifetime, Reply<G>),
    /// What it may reach.
    SetEgress(Egress, Reply<G>),
    /// Wait until it has been created.
    Join(Reply<G>),
    /// Keep a snapshot of it; it stays what it is.
    Snapshot(SnapshotWish, oneshot::Sender<Result<Taken, Failure>>),
    /// Leave the VM running and end: the agent is shutting down.
    Release(oneshot::Sender<()>),
}

/// How a capsule goes or comes back.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// A new lifetime; absent = as before.
    pub lifetime: Option<Lifetime>,
    /// What it may reach; absent = as before.
    pub egress: Option<Egress>,
    /// Of a pause: keep the disk only. Of a resume: boot from it.
    pub discard_memory: bool,
}

/// Where messages for a capsule go.
#[derive(Clone)]
pub struct Handle<G = Guest> {
    mailbox: mpsc::Sender<Message<G>>,
    /// What can be seen without asking.
    pub shared: Arc<Shared<G>>,
}

impl<G: Clone> Handle<G> {
    /// Of the actor that reads these messages.
    pub(crate) fn new(mailbox: mpsc::Sender<Message<G>>, shared: Arc<Shared<G>>) -> Self {
        Self { mailbox, shared }
    }

    /// Asks for a change and waits for its end. The work goes on when the caller leaves.
    pub async fn ask(&self, command: Command, how: How) -> Result<View<G>, Failure> {
        self.send(|reply| Message::Ask { command, how, reply }).await
    }

    /// Sets the lifetime.
    pub async fn set_lifetime(&self, lifetime: Lifetime) -> Result<View<G>, Failure> {
        self.send(|reply| Message::SetLifetime(lifetime, reply)).await
    }

    /// Sets what it may reach; in force on return.
    pub async fn set_egress(&self, egress: Egress) -> Result<View<G>, Failure> {
        self.send(|reply| Message::SetEgress(egress, reply)).await
    }

    /// Waits until it has been created; it may have moved on since.
    pub async fn join(&self) -> Result<View<G>, Failure> {
        self.send(Message::Join).await
    }

    /// Keeps a snapshot of it; an id that is taken is left as it is. When the caller leaves, it is given up.
    pub async fn snapshot(&self, wish: SnapshotWish) -> Result<Taken, Failure> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Snapshot(wish, reply)).await.map_err(|_| self.ended())?;
        answer.await.map_err(|_| self.ended())?
    }

    /// Why nobody answers: it is gone, or the agent ends.
    fn ended(&self) -> Failure {
        if self.shared.view().status == CapsuleStatus::Stopped { Failure::Unknown } else { Failure::Stopping }
    }

    /// Lets go of the VM without ending it.
    pub async fn release(&self) {
        let (reply, released) = oneshot::channel();
        if self.mailbox.send(Message::Release(reply)).await.is_ok() {
            let _ = released.await;
        }
    }

    async fn send(&self, message: impl FnOnce(Reply<G>) -> Message<G>) -> Result<View<G>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(message(reply)).await.map_err(|_| self.ended())?;
        answer.await.map_err(|_| self.ended())?
    }
}
