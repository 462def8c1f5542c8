//! Addresses: the fixed ones of every guest, and address blocks as policies write them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of the TAP device inside every namespace.
pub const TAP: &str = "tap0";
/// Name of the interface to the host inside every namespace.
pub(crate) const UPLINK: &str = "eth0";
/// Address of every guest.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
/// The guest's gateway and name server: the host's side of the TAP device.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
/// Where a guest asks about itself: beside the gateway, on the same device.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Prefix length of the guest and its gateway.
pub const GUEST_PREFIX: u8 = 30;
/// Hardware address of every guest.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x05];
/// Hardware address of every gateway: a restored guest's neighbour entry stays right in any slot.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x06];

/// A block of IPv4 addresses. Written `10.0.0.0/8`; a single address may go without its `/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// A text that is no block of IPv4 addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no IPv4 network such as 203.0.113.0/24: it needs a prefix length of at most 32 and no address bits beyond it"
)]
pub struct BadCidr(String);

impl Cidr {
    /// A block known at compile time; the bits beyond the prefix are cut off.
    pub(crate) const fn new(network: Ipv4Addr, prefix: u8) -> Self {
        let network = Ipv4Addr::from_bits(network.to_bits() & mask(prefix));
        Self { network, prefix }
    }

    /// First address.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Prefix length, 0 to 32.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `other` lies inside. Two blocks either nest or are apart.
    pub fn contains(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && other.network.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

const fn mask(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.chars().take(64).collect());
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let network: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 32 || network.to_bits() & !mask(prefix) != 0 {
            return Err(bad());
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;

    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_that_are_no_blocks() {
        for text in [
            "",
            "/",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "10.0.0.1/8",
            "::1/128",
            "1.2.3/24",
            "01.2.3.4",
            "1.2.3.4/0x8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_back(bits: u32, prefix in 0_u8..=32) {
            let cidr = Cidr::new(Ipv4Addr::from_bits(bits), prefix);
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
            prop_assert!(cidr.contains(&Cidr::new(Ipv4Addr::from_bits(bits), 32)));
        }

        #[test]
        fn nesting_is_about_addresses(a: u32, b: u32, p in 0_u8..=32, q in 0_u8..=32) {
            let (x, y) = (Cidr::new(a.into(), p), Cidr::new(b.into(), q));
            let last = |c: Cidr| u64::from(c.network.to_bits()) + (1_u64 << (32 - c.prefix)) - 1;
            let inside = x.network <= y.network && last(y) <= last(x);
            prop_assert_eq!(x.contains(&y), inside);
        }
    }
}
