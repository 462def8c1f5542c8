//! What a supervisor keeps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::spawn::Exit;

use super::wire::{Held, Message};
use crate::limits;

/// Processes and the listener of the daemons so far.
#[derive(Debug, Default)]
pub struct Keeping {
    listener: Option<OwnedFd>,
    kept: BTreeMap<u64, Kept>,
    /// How many have ended.
    ends: u64,
}

#[derive(Debug)]
struct Kept {
    held: Held,
    descriptors: Vec<OwnedFd>,
    exit: Option<Exit>,
    /// The how-manieth end it was.
    ended: u64,
}

impl Keeping {
    /// Does what the daemon orders; what makes no sense changes nothing.
    pub fn apply(&mut self, message: Message, mut descriptors: Vec<OwnedFd>) {
        match message {
            Message::Hold(mut held) if self.running() < limits::PROCESSES => {
                // Descriptors are cut off when this process has no room for more.
                held.has_input &= !descriptors.is_empty();
                self.kept.insert(held.id, Kept { held, descriptors, exit: None, ended: 0 });
            }
            Message::CloseInput(id) => {
                if let Some(kept) = self.kept.get_mut(&id).filter(|kept| kept.held.has_input) {
                    kept.held.has_input = false;
                    kept.descriptors.drain(..kept.descriptors.len().min(1));
                }
            }
            Message::Ended { id, exit, drained } => {
                if let Some(kept) = self.kept.get_mut(&id) {
                    self.ends += u64::from(kept.exit.is_none());
                    kept.ended = self.ends;
                    kept.exit = Some(exit);
                    if drained {
                        kept.held.has_input = false;
                        kept.descriptors.clear();
                    }
                }
                self.forget_oldest();
            }
            Message::Listener => self.listener = descriptors.pop(),
            Message::Hold(_) | Message::Ready => {}
        }
    }

    /// Whose parent the supervisor is, because their daemon died: tells which of the processes it was.
    pub fn orphan_ended(&mut self, pid: u32, exit: Exit) -> Option<Message> {
        let kept = self.kept.values_mut().find(|kept| kept.held.pid == pid && kept.exit.is_none())?;
        self.ends += 1;
        (kept.exit, kept.ended) = (Some(exit), self.ends);
        Some(Message::Ended { id: kept.held.id, exit, drained: false })
    }

    /// All a new daemon has to know, in order.
    pub fn replay(&self) -> Vec<Message> {
        let listener = self.listener.as_ref().map(|_| Message::Listener);
        let kept = self.kept.values().flat_map(|kept| {
            let ended = |exit| Message::Ended { id: kept.held.id, exit, drained: kept.descriptors.is_empty() };
            [Some(Message::Hold(kept.held.clone())), kept.exit.map(ended)]
        });
        listener.into_iter().chain(kept.flatten()).chain([Message::Ready]).collect()
    }

    /// What goes with a message.
    pub fn descriptors(&self, message: &Message) -> Vec<BorrowedFd<'_>> {
        match message {
            Message::Hold(held) => {
                let kept = self.kept.get(&held.id);
                kept.into_iter().flat_map(|kept| &kept.descriptors).map(AsFd::as_fd).collect()
            }
            Message::Listener => self.listener.iter().map(AsFd::as_fd).collect(),
            Message::CloseInput(_) | Message::Ended { .. } | Message::Ready => Vec::new(),
        }
    }

    fn running(&self) -> usize {
        self.kept.values().filter(|kept| kept.exit.is_none()).count()
    }

    fn forget_oldest(&mut self) {
        let ended = self.kept.values().filter(|kept| kept.exit.is_some());
        let mut ended: Vec<(u64, u64)> = ended.map(|kept| (kept.ended, kept.held.id)).collect();
        let surplus = ended.len().saturating_sub(limits::RETAINED_EXITS);
        if surplus == 0 {
            return;
        }
        ended.sort_unstable();
        for (_, id) in ended.drain(..surplus) {
            self.kept.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(id: u64, has_input: bool) -> Message {
        Message::Hold(Held { id, pid: 100 + u32::try_from(id).unwrap_or(0), has_input, record: String::new() })
    }

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        (0..count).filter_map(|_| std::fs::File::open("/dev/null").ok().map(OwnedFd::from)).collect()
    }

    #[test]
    fn a_new_daemon_is_told_what_is_left() {
        let mut keeping = Keeping::default();
        let ended = |id, code, drained| Message::Ended { id, exit: Exit::Code(code), drained };
        keeping.apply(Message::Listener, descriptors(1));
        for (id, has_input) in [(1, true), (2, false), (3, true)] {
            keeping.apply(hold(id, has_input), descriptors(2 + usize::from(has_input)));
        }
        keeping.apply(Message::CloseInput(1), Vec::new());
        keeping.apply(Message::CloseInput(2), Vec::new());
        keeping.apply(ended(2, 7, true), Vec::new());
        keeping.apply(ended(9, 7, true), Vec::new());
        assert_eq!(
            keeping.orphan_ended(103, Exit::Signal(9)),
            Some(Message::Ended { id: 3, exit: Exit::Signal(9), drained: false })
        );
        assert_eq!(keeping.orphan_ended(103, Exit::Code(0)), None);
        assert_eq!(keeping.orphan_ended(102, Exit::Code(0)), None, "its end is known");
        let replay = keeping.replay();
        let expected = [
            Message::Listener,
            hold(1, false),
            hold(2, false),
            ended(2, 7, true),
            hold(3, true),
            Message::Ended { id: 3, exit: Exit::Signal(9), drained: false },
            Message::Ready,
        ];
        assert_eq!(replay, expected);
        let counts: Vec<usize> = replay.iter().map(|message| keeping.descriptors(message).len()).collect();
        assert_eq!(counts, [1, 2, 0, 0, 3, 0, 0]);
    }

    #[test]
    fn only_the_latest_ends_are_kept() {
        let mut keeping = Keeping::default();
        let total = limits::RETAINED_EXITS as u64 + 5;
        for id in 0..total {
            keeping.apply(hold(id, false), Vec::new());
            keeping.apply(Message::Ended { id, exit: Exit::Code(0), drained: true }, Vec::new());
        }
        let left: Vec<u64> = keeping.kept.keys().copied().collect();
        assert_eq!(left, (5..total).collect::<Vec<_>>());
    }
}
