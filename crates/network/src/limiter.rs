//! How fast a guest may send: a token bucket, tc-tbf(8), where packets leave the namespace.
//!
//! It stands on the namespace's end of the veth pair, not on the TAP device. What a guest sends *arrives* at the TAP
//! device, and what arrives can only be dropped beyond the rate; what leaves can be queued, so that a sender above the
//! rate is slowed down before it loses anything. What passes there is what the host's uplink and the other guests have
//! to be protected from. What the agent reads from a guest ends at sockets inside the namespace and is not counted: it
//! is slowed down by who reads it.
//!
//! Every tier has it, also one whose VMM could limit by itself: a VMM that was broken out of limits nothing.

use futures_util::StreamExt as _;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::{Error, Handle};

use crate::limits;

// <linux/pkt_sched.h>
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Puts the limiter on an interface of the namespace `netlink` belongs to, in place of what was there.
pub(crate) async fn install(netlink: &Handle, interface: u32) -> Result<(), Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(token_bucket(interface)));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut answers = netlink.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(Error::NetlinkError(error));
        }
    }
    Ok(())
}

fn token_bucket(interface: u32) -> TcMessage {
    let mut message = TcMessage::with_index(interface.cast_signed());
    message.header.parent = TcHandle::ROOT;
    let options = [(TCA_TBF_PARMS, parameters()), (TCA_TBF_BURST, limits::SENT_BURST.to_ne_bytes().to_vec())];
    let options = options.map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
    message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options.into())];
    message
}

/// `tc_tbf_qopt`: a rate, a peak rate (none), the queue's length, and two times that `TCA_TBF_BURST` makes unnecessary.
/// A rate is a `tc_ratespec`, which with a link layer needs no table of transmission times.
fn parameters() -> Vec<u8> {
    let rate = |link_layer: u8, rate: u32| [[0, link_layer, 0, 0, 0, 0, 0, 0].as_slice(), &rate.to_ne_bytes()].concat();
    let no_times = [0; 8];
    [
        rate(TC_LINKLAYER_ETHERNET, limits::SENT_RATE),
        rate(0, 0),
        limits::SENT_QUEUE.to_ne_bytes().into(),
        no_times.into(),
    ]
    .concat()
}
