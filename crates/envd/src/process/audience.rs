//! Who is attached to a process.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::end::End;
use crate::limits;

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub(super) enum News {
    Stdout(Bytes),
    Stderr(Bytes),
    Pty(Bytes),
    End(End),
}

/// The subscribers of one process. Each has a short queue; telling waits for room in it, which is what slows a
/// process down whose reader is slow. One that is gone is forgotten.
#[derive(Debug)]
pub(super) struct Audience(Mutex<Members>);

#[derive(Debug)]
enum Members {
    Attached(Vec<mpsc::Sender<News>>),
    /// The end is remembered, so that a late subscriber hears of it.
    Over(End),
}

impl Audience {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Members::Attached(Vec::new())))
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears everything from now on, the end last.
    pub(super) fn join(&self) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(limits::SUBSCRIBER_QUEUE);
        match &mut *self.members() {
            Members::Attached(members) => members.push(sender),
            Members::Over(end) => {
                // A fresh queue has room.
                let _ = sender.try_send(News::End(*end));
            }
        }
        receiver
    }

    /// Returns when every subscriber has taken it, or left.
    pub(super) async fn tell(&self, news: News) {
        let senders = match &*self.members() {
            Members::Attached(members) => members.clone(),
            Members::Over(_) => return,
        };
        let mut somebody_left = false;
        for sender in senders {
            somebody_left |= sender.send(news.clone()).await.is_err();
        }
        if somebody_left && let Members::Attached(members) = &mut *self.members() {
            members.retain(|member| !member.is_closed());
        }
    }

    /// Tells the end; subscribers that join later are told at once.
    pub(super) async fn end(&self, end: End) {
        let last = std::mem::replace(&mut *self.members(), Members::Over(end));
        if let Members::Attached(members) = last {
            for member in members {
                let _ = member.send(News::End(end)).await;
            }
        }
    }
}
