//! A policy in the kernel: four sets of addresses that the [rules of a namespace](crate::rules::inside) ask.
//!
//! A namespace's rules are made by `nft`, once. What changes afterwards is what is in these sets, and that takes one
//! message to the kernel and no process. Numbers are those of `<linux/netfilter/nf_tables.h>`.

use std::io;
use std::net::Ipv4Addr;

use rtnetlink::packet_core::DefaultNla;

use crate::address::Cidr;
use crate::netfilter::{self, Asked, NFNL_SUBSYS_NFTABLES, Request, nested, number, string};
use crate::policy::{Policy, is_private, outermost};
use crate::rules::INSIDE;

const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_DELSETELEM: u8 = 14;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
/// `<linux/netfilter.h>`
const NFPROTO_INET: u8 = 1;

const ALL: Cidr = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);

/// Name and content of one. The blocks ascend and do not overlap.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) blocks: Vec<Cidr>,
}

/// The sets in the order in which they are asked.
pub(crate) fn of(policy: &Policy) -> [Set; 4] {
    let (private, public): (Vec<_>, Vec<_>) = policy.allow.iter().copied().partition(|block| is_private(*block));
    let internet = if policy.allow_internet { vec![ALL] } else { Vec::new() };
    [
        Set { name: "private", blocks: outermost(&private) },
        Set { name: "allow", blocks: outermost(&public) },
        Set { name: "deny", blocks: outermost(&policy.deny) },
        Set { name: "internet", blocks: internet },
    ]
}

/// Puts a policy in force in the calling thread's namespace. On an error the former one stays.
pub(crate) fn fill(policy: &Policy) -> io::Result<Asked> {
    let sets = of(policy);
    let emptied = sets.iter().map(|set| request(NFT_MSG_DELSETELEM, set.name, None));
    let filled = sets.iter().filter(|set| !set.blocks.is_empty());
    let filled = filled.map(|set| request(NFT_MSG_NEWSETELEM, set.name, Some(&bounds(&set.blocks))));
    netfilter::transaction(NFNL_SUBSYS_NFTABLES, emptied.chain(filled).collect())
}

/// About these elements of a set, or about all it has.
fn request(message: u8, set: &str, elements: Option<&[DefaultNla]>) -> Request {
    let mut attributes = vec![string(NFTA_SET_ELEM_LIST_TABLE, INSIDE), string(NFTA_SET_ELEM_LIST_SET, set)];
    attributes.extend(elements.map(|elements| nested(NFTA_SET_ELEM_LIST_ELEMENTS, elements)));
    Request::new(NFNL_SUBSYS_NFTABLES, message, NFPROTO_INET, attributes)
}

/// The elements of an interval set: each block's first address, and the one behind its last unless that is the very last.
fn bounds(blocks: &[Cidr]) -> Vec<DefaultNla> {
    let bounds = |block: &Cidr| {
        let first = block.network().to_bits();
        let behind = u32::try_from(u64::from(first) + (1 << (32 - block.prefix())));
        [Some(element(first, 0)), behind.ok().map(|behind| element(behind, NFT_SET_ELEM_INTERVAL_END))]
    };
    blocks.iter().flat_map(bounds).flatten().collect()
}

fn element(address: u32, flags: u32) -> DefaultNla {
    let key = nested(NFTA_SET_ELEM_KEY, &[number(NFTA_DATA_VALUE, address)]);
    nested(NFTA_LIST_ELEM, &[key, number(NFTA_SET_ELEM_FLAGS, flags)])
}
