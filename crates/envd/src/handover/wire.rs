//! Messages between a daemon and its supervisor.
//!
//! A supervisor may be older or younger than its daemon, so fields are only ever added at the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use sys::spawn::Exit;

use crate::limits;

/// Most descriptors of one process: its input and two outputs.
const DESCRIPTORS: usize = 3;
/// Kind, number, pid, flags, how it ended, and the code or signal.
const HEAD_BYTES: usize = 1 + 8 + 4 + 1 + 1 + 4;
const WITH_INPUT: u8 = 1;
const DRAINED: u8 = 2;

/// A process as the supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Given by the daemon, never twice.
    pub id: u64,
    /// Its process id.
    pub pid: u32,
    /// Whether the first of its descriptors is its input.
    pub has_input: bool,
    /// What the daemon wants to know of it again.
    pub record: String,
}

/// One packet. The same messages go both ways: from the daemon they are orders, from the supervisor, to a daemon that
/// begins, they are what it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A process, with its descriptors attached: input if it has one, then its outputs.
    Hold(Held),
    /// Its input is closed.
    CloseInput(u64),
    /// It has ended; drained, when all it said has been read.
    Ended {
        /// Which.
        id: u64,
        /// How.
        exit: Exit,
        /// Whether its descriptors are of no use any more.
        drained: bool,
    },
    /// The socket the daemon listens on, attached.
    Listener,
    /// From the daemon: it serves. From the supervisor: that was everything.
    Ready,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let (kind, id, pid, flags, exit, record) = match self {
            Self::Hold(held) => (1, held.id, held.pid, u8::from(held.has_input), None, held.record.as_str()),
            Self::CloseInput(id) => (2, *id, 0, 0, None, ""),
            Self::Ended { id, exit, drained } => (3, *id, 0, u8::from(*drained) * DRAINED, Some(*exit), ""),
            Self::Listener => (4, 0, 0, 0, None, ""),
            Self::Ready => (5, 0, 0, 0, None, ""),
        };
        let (how, code) = match exit {
            None => (0, 0),
            Some(Exit::Code(code)) => (1, code),
            Some(Exit::Signal(signal)) => (2, signal),
        };
        let mut packet = Vec::with_capacity(HEAD_BYTES + record.len());
        packet.push(kind);
        packet.extend(id.to_le_bytes());
        packet.extend(pid.to_le_bytes());
        packet.extend([flags, how]);
        packet.extend(code.to_le_bytes());
        packet.extend(record.as_bytes());
        packet
    }

    /// None for a packet of a kind that is not known here.
    fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let ([flags, how], rest) = rest.split_first_chunk()?;
        let (code, record) = rest.split_first_chunk()?;
        let (id, pid, code) = (u64::from_le_bytes(*id), u32::from_le_bytes(*pid), i32::from_le_bytes(*code));
        Some(match kind {
            1 => {
                let record = String::from_utf8(record.to_vec()).ok()?;
                Self::Hold(Held { id, pid, has_input: flags & WITH_INPUT != 0, record })
            }
            2 => Self::CloseInput(id),
            3 => {
                let exit = if *how == 2 { Exit::Signal(code) } else { Exit::Code(code) };
                Self::Ended { id, exit, drained: flags & DRAINED != 0 }
            }
            4 => Self::Listener,
            5 => Self::Ready,
            _ => return None,
        })
    }
}

/// Sends one message; waits for room unless `flags` say otherwise.
pub fn send(socket: impl AsFd, message: &Message, descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let packet = message.encode();
    let flags = flags | SendFlags::NOSIGNAL;
    retry(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&packet)], &mut ancillary, flags)).map(drop)
}

/// Receives messages into one buffer.
#[derive(Debug)]
pub struct Inbox(Vec<u8>);

impl Default for Inbox {
    fn default() -> Self {
        Self(vec![0; HEAD_BYTES + limits::RECORD_BYTES])
    }
}

impl Inbox {
    /// The next message with its descriptors; none when the other side is gone. One of an unknown kind is skipped.
    pub fn receive(&mut self, socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let packet = &mut [IoSliceMut::new(&mut self.0)];
            let received = retry(|| rustix::net::recvmsg(&socket, packet, &mut ancillary, flags))?;
            if received.bytes == 0 {
                return Ok(None);
            }
            let descriptors = ancillary.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            });
            let descriptors: Vec<OwnedFd> = descriptors.collect();
            if let Some(message) = Message::decode(self.0.get(..received.bytes).unwrap_or_default()) {
                return Ok(Some((message, descriptors)));
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> impl Strategy<Value = Message> {
        let exit = prop_oneof![any::<i32>().prop_map(Exit::Code), any::<i32>().prop_map(Exit::Signal)];
        prop_oneof![
            (any::<u64>(), any::<u32>(), any::<bool>(), ".*")
                .prop_map(|(id, pid, has_input, record)| Message::Hold(Held { id, pid, has_input, record })),
            any::<u64>().prop_map(Message::CloseInput),
            (any::<u64>(), exit, any::<bool>()).prop_map(|(id, exit, drained)| Message::Ended { id, exit, drained }),
            Just(Message::Listener),
            Just(Message::Ready),
        ]
    }

    proptest! {
        #[test]
        fn what_was_sent_is_received(message in message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::decode(&packet);
        }
    }
}
