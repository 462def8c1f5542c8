//! Requests to the kernel's netfilter in the calling thread's namespace, for what must not wait until a tool has started.
//!
//! They are `nfnetlink` messages. Numbers are those of `<linux/netfilter/nfnetlink.h>`.

use std::io;

use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, ErrorBuffer, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

pub(crate) const NFNL_SUBSYS_CTNETLINK: u8 = 1;
pub(crate) const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// `nfgenmsg`.
const HEAD_BYTES: usize = 4;

/// Room for an answer: a header, an error, the header of what it is about.
const ANSWER_BYTES: usize = 64;

/// What is asked of one subsystem.
pub(crate) struct Request {
    kind: u16,
    /// An `NFPROTO_` of `<linux/netfilter.h>`.
    family: u8,
    /// For the borders of a transaction: whose it is.
    resource: u16,
    attributes: Vec<DefaultNla>,
}

impl Request {
    pub(crate) fn new(subsystem: u8, message: u8, family: u8, attributes: Vec<DefaultNla>) -> Self {
        Self { kind: u16::from_be_bytes([subsystem, message]), family, resource: 0, attributes }
    }

    fn border(kind: u16, subsystem: u8) -> Self {
        Self { kind, family: 0, resource: subsystem.into(), attributes: Vec::new() }
    }

    /// The kernel answers what is between the borders of a transaction.
    fn is_answered(&self) -> bool {
        ![NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END].contains(&self.kind)
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_CREATE | if self.is_answered() { NLM_F_ACK } else { 0 };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(self));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEAD_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, attributes) = buffer.split_at_mut(HEAD_BYTES);
        let [high, low] = self.resource.to_be_bytes();
        head.copy_from_slice(&[self.family, 0, high, low]);
        self.attributes.as_slice().emit(attributes);
    }
}

pub(crate) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().into())
}

pub(crate) fn string(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), &[0]].concat())
}

pub(crate) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// All of it is done, or nothing.
pub(crate) fn transaction(subsystem: u8, requests: Vec<Request>) -> io::Result<Asked> {
    let mut batch = vec![Request::border(NFNL_MSG_BATCH_BEGIN, subsystem)];
    batch.extend(requests);
    batch.push(Request::border(NFNL_MSG_BATCH_END, subsystem));
    ask(batch)
}

/// Something that was done. Letting go of it may take 15 ms: closing a socket of netfilter waits until what the
/// transactions before have replaced is freed (`nft_rcv_nl_event` in `net/netfilter/nf_tables_api.c` of Linux 6.18).
pub(crate) struct Asked(#[expect(dead_code, reason = "is kept for its end")] Socket);

/// Sends requests and reads the answers, the first error at most. The kernel has answered when sending returns: nothing
/// is waited for.
pub(crate) fn ask(requests: Vec<Request>) -> io::Result<Asked> {
    let answers = requests.iter().filter(|request| request.is_answered()).count();
    let datagram: Vec<u8> = requests.into_iter().flat_map(Request::into_bytes).collect();
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.set_non_blocking(true)?;
    socket.set_cap_ack(true)?;
    socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
    for _ in 0..answers {
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        socket.recv(&mut answer, 0)?;
        acknowledged(&answer)?;
    }
    Ok(Asked(socket))
}

fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "malformed netlink answer");
    let message = NetlinkBuffer::new_checked(answer).map_err(malformed)?;
    if message.message_type() != NLMSG_ERROR {
        return Err(malformed("another message".into()));
    }
    let error = ErrorBuffer::new_checked(message.payload()).map_err(malformed)?;
    // Errors are negative.
    error.code().map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code.get().saturating_neg())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_acknowledgements_or_errors() {
        let answer = |kind: u16, code: i32| {
            let header = [36_u32.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 10]].concat();
            [header.as_slice(), &code.to_ne_bytes(), &[0; 16]].concat()
        };
        acknowledged(&answer(NLMSG_ERROR, 0)).unwrap();
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, -2)).unwrap_err().kind(), io::ErrorKind::NotFound);
        for answer in [answer(3, 0), answer(NLMSG_ERROR, 0)[..18].to_vec(), Vec::new()] {
            assert_eq!(acknowledged(&answer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
