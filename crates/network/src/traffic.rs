//! How much a guest sent and received: the counters of its TAP device, less what they showed when its slot was taken.
//!
//! The kernel never sets them back, and a slot has one guest after the other. What they showed between two guests is
//! therefore kept, also beside the device itself ([`crate::links::remember`]): the slot's owner may change.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::TAP;
use crate::entrance::Entrance;

/// Counters of the namespace of whoever opens it, without a lock that setting up other slots would hold.
const COUNTERS: &str = "/proc/thread-self/net/dev";

/// What passed a guest's network card, from the guest's point of view.
///
/// Everything counts: the Internet, names and metadata, and what the platform itself exchanges with the guest. Bytes
/// are those of Ethernet frames. Packets may be larger than the network's, up to 64 KiB, where the guest leaves their
/// segmentation to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes the guest sent, those included that its policy did not let through.
    pub sent_bytes: u64,
    /// Bytes the guest was given.
    pub received_bytes: u64,
    /// Packets the guest sent.
    pub sent_packets: u64,
    /// Packets the guest was given.
    pub received_packets: u64,
}

impl Traffic {
    fn since(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_sub(earlier.sent_bytes),
            received_bytes: self.received_bytes.saturating_sub(earlier.received_bytes),
            sent_packets: self.sent_packets.saturating_sub(earlier.sent_packets),
            received_packets: self.received_packets.saturating_sub(earlier.received_packets),
        }
    }
}

/// Reads the counters of one slot. Cheap to clone; means nothing once the slot is given back.
#[derive(Clone)]
pub struct Meter {
    entrance: Entrance,
    namespace: Arc<OwnedFd>,
    start: Traffic,
}

impl Meter {
    /// A meter that shows nothing at `start`.
    pub(crate) fn new(entrance: Entrance, namespace: Arc<OwnedFd>, start: Traffic) -> Self {
        Self { entrance, namespace, start }
    }

    /// What the guest sent and received since its slot was taken. One small file is read, no process started.
    pub async fn read(&self) -> io::Result<Traffic> {
        let counters = self.entrance.run(&self.namespace, || std::fs::read_to_string(COUNTERS)).await?;
        let total = parse(&counters).ok_or_else(|| io::Error::other("the slot's TAP device is not counted"))?;
        Ok(total.since(self.start))
    }
}

/// `/proc/net/dev`: after an interface's name eight numbers about what arrived, then eight about what left. Bytes and
/// packets come first. What arrives from a guest is what it sent.
fn parse(counters: &str) -> Option<Traffic> {
    let tap = counters.lines().find_map(|line| line.trim_start().strip_prefix(TAP)?.strip_prefix(':'))?;
    let mut numbers = tap.split_ascii_whitespace().map(|number| number.parse().ok());
    let mut next = |skipped| numbers.nth(skipped).flatten();
    let (sent_bytes, sent_packets) = (next(0)?, next(0)?);
    let (received_bytes, received_packets) = (next(6)?, next(0)?);
    Some(Traffic { sent_bytes, received_bytes, sent_packets, received_packets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_tap_device() {
        let table = "Inter-|   Receive      |  Transmit\n face |bytes    packets errs drop fifo frame compressed \
            multicast|bytes    packets errs drop fifo colls carrier compressed\n  tap01: 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7\n  \
            tap0:    1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n";
        let read = Traffic { sent_bytes: 1, sent_packets: 2, received_bytes: 3, received_packets: 4 };
        assert_eq!(parse(table), Some(read));
        let cases = ["", "lo: 1 2 0 0 0 0 0 0 3 4", "tap0: 1 2 3", "tap0:1 x 0 0 0 0 0 0 3 4"];
        assert!(cases.iter().all(|table| parse(table).is_none()));
    }
}
