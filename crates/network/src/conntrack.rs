//! Forgetting the flows of a namespace, so that a slot's next guest gets no packets of the former one's peers.

use std::io;

use crate::netfilter::{Asked, NFNL_SUBSYS_CTNETLINK, Request, ask};

// <linux/netfilter/nfnetlink_conntrack.h>, <linux/netfilter.h>
const IPCTNL_MSG_CT_DELETE: u8 = 2;
const NFPROTO_UNSPEC: u8 = 0;

/// Deletes every entry of the calling thread's namespace: a deletion that names none means all.
pub(crate) fn flush() -> io::Result<Asked> {
    ask(vec![Request::new(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE, NFPROTO_UNSPEC, Vec::new())])
}
