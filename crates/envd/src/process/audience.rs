//! Who is attached to a process.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::end::End;
use super::ring::Ring;
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
pub(super) struct Audience(Mutex<State>);

#[derive(Debug)]
struct State {
    members: Members,
    /// What a terminal said last.
    ring: Option<Ring>,
}

#[derive(Debug)]
enum Members {
    Attached(Vec<mpsc::Sender<News>>),
    /// The end is remembered, so that a late subscriber hears of it.
    Over(End),
}

/// Whether a new subscriber hears what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// From now on only.
    Unheard,
    /// What the ring of a terminal holds comes first.
    Replayed,
}

impl Audience {
    /// Of a process without a terminal.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { members: Members::Attached(Vec::new()), ring: None }))
    }

    /// Of a process with one.
    pub(super) fn of_terminal() -> Self {
        let ring = Some(Ring::new(limits::REPLAY));
        Self(Mutex::new(State { members: Members::Attached(Vec::new()), ring }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears everything from now on, the end last.
    pub(super) fn join(&self, past: Past) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(limits::SUBSCRIBER_QUEUE);
        let state = &mut *self.state();
        // A fresh queue has room for the past and the end.
        if past == Past::Replayed
            && let Some(missed) = state.ring.as_ref().map(Ring::content).filter(|missed| !missed.is_empty())
        {
            let _ = sender.try_send(News::Pty(missed));
        }
        match &mut state.members {
            Members::Attached(members) => members.push(sender),
            Members::Over(end) => {
                let _ = sender.try_send(News::End(*end));
            }
        }
        receiver
    }

    /// Returns when every subscriber has taken it, or left.
    pub(super) async fn tell(&self, news: News) {
        let Some(senders) = self.record(&news) else { return };
        let mut somebody_left = false;
        for sender in senders {
            somebody_left |= sender.send(news.clone()).await.is_err();
        }
        if somebody_left && let Members::Attached(members) = &mut self.state().members {
            members.retain(|member| !member.is_closed());
        }
    }

    /// Whom to tell. In one step with the ring: whoever joins meanwhile hears it once, from there or from here.
    fn record(&self, news: &News) -> Option<Vec<mpsc::Sender<News>>> {
        let state = &mut *self.state();
        if let (Some(ring), News::Pty(bytes)) = (&mut state.ring, news) {
            ring.push(bytes);
        }
        match &state.members {
            Members::Attached(members) => Some(members.clone()),
            Members::Over(_) => None,
        }
    }

    /// Tells the end; subscribers that join later are told at once.
    pub(super) async fn end(&self, end: End) {
        let last = {
            let state = &mut *self.state();
            if let Some(ring) = &mut state.ring {
                ring.shrink(limits::REPLAY_ENDED);
            }
            std::mem::replace(&mut state.members, Members::Over(end))
        };
        if let Members::Attached(members) = last {
            for member in members {
                let _ = member.send(News::End(end)).await;
            }
        }
    }
}
