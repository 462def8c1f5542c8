//! What a guest may reach.

use std::io;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::limits;

/// Addresses no policy opens: this network, loopback, link-local with the clouds' metadata services, multicast, and
/// the reserved block that also holds the addresses of all slots. The host's own addresses and other capsules are
/// closed beside these, by where packets arrive rather than by address.
pub(crate) const NEVER: [Cidr; 5] = [
    Cidr::new(Ipv4Addr::UNSPECIFIED, 8),
    Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(169, 254, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4),
    Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Addresses a policy has to open: what is not the Internet (RFC 6890), the operator's own networks among it.
pub(crate) const PRIVATE: [Cidr; 6] = [
    Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    Cidr::new(Ipv4Addr::new(100, 64, 0, 0), 10),
    Cidr::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    Cidr::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    Cidr::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 15),
];

/// What a guest may reach. `allow` goes before `deny`, both before `allow_internet`. Private ranges need an entry in
/// `allow` that lies within one: a larger block, all addresses for instance, does not open them. The host itself, other
/// capsules, link-local and metadata addresses cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether addresses in neither list are reached, private ones apart. Without this and without an `allow` entry
    /// no names are resolved either: queries carry data out.
    pub allow_internet: bool,
    /// Blocks that are reached whatever `deny` says. At most 256.
    pub allow: Vec<Cidr>,
    /// Blocks that are not reached. At most 256.
    pub deny: Vec<Cidr>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { allow_internet: true, allow: Vec::new(), deny: Vec::new() }
    }
}

/// A policy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// A list is too long.
    #[error("a list of {entries} address blocks is too long: {} are possible", limits::POLICY_ENTRIES)]
    TooLong {
        /// Its length.
        entries: usize,
    },
}

/// Why a policy is not in force; the former one is.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be used.
    #[error(transparent)]
    Bad(#[from] BadPolicy),
    /// The kernel did not take it.
    #[error("cannot change the firewall of the slot: {0}")]
    Kernel(#[from] io::Error),
}

impl Policy {
    /// Refuses lists that are too long.
    pub fn check(&self) -> Result<(), BadPolicy> {
        match [&self.allow, &self.deny].into_iter().find(|list| list.len() > limits::POLICY_ENTRIES) {
            Some(list) => Err(BadPolicy::TooLong { entries: list.len() }),
            None => Ok(()),
        }
    }

    /// Whether the guest's name server answers.
    pub(crate) fn resolves_names(&self) -> bool {
        self.allow_internet || !self.allow.is_empty()
    }
}

/// Whether it lies within a private range.
pub(crate) fn is_private(block: Cidr) -> bool {
    PRIVATE.iter().any(|private| private.contains(&block))
}

/// The blocks that no other block of the list contains. An interval set refuses overlaps.
pub(crate) fn outermost(blocks: &[Cidr]) -> Vec<Cidr> {
    let mut sorted = blocks.to_vec();
    // By first address, larger block first: what a block contains follows it directly.
    sorted.sort_unstable_by_key(|block| (block.network(), block.prefix()));
    let mut kept: Vec<Cidr> = Vec::with_capacity(sorted.len());
    for block in sorted {
        if !kept.last().is_some_and(|last| last.contains(&block)) {
            kept.push(block);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn outermost_covers_the_same_without_overlaps(list in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..40)) {
            let blocks: Vec<_> = list.into_iter().map(|(bits, prefix)| Cidr::new(bits.into(), prefix)).collect();
            let kept = outermost(&blocks);
            prop_assert!(blocks.iter().all(|block| kept.iter().any(|outer| outer.contains(block))));
            prop_assert!(kept.iter().all(|block| blocks.contains(block)));
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(kept.iter().skip(i + 1).all(|b| !a.overlaps(b)));
            }
        }
    }
}
