//! What a capsule may reach.

use crate::error::Error;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A block of IPv4 addresses. Its text is `203.0.113.0/24`; that of a single address may lack the prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    address: Ipv4Addr,
    prefix: u8,
}

/// A text that is no block of IPv4 addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 address or block such as 203.0.113.0/24; names and IPv6 are not supported")]
pub struct ParseBlockError(String);

impl Block {
    /// Every address.
    pub const ALL: Self = Self { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
}

impl FromStr for Block {
    type Err = ParseBlockError;

    /// Bits of the address beyond the prefix are cut off, as everybody's tools do.
    fn from_str(text: &str) -> Result<Self, ParseBlockError> {
        let bad = || ParseBlockError(text.chars().take(64).collect());
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        // A sign is no digit.
        let prefix = prefix.bytes().all(|byte| byte.is_ascii_digit()).then(|| prefix.parse::<u8>().ok()).flatten();
        let prefix = prefix.filter(|prefix| *prefix <= 32).ok_or_else(bad)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ok(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), prefix })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Block {
    type Error = ParseBlockError;

    fn try_from(text: String) -> Result<Self, ParseBlockError> {
        text.parse()
    }
}

impl From<Block> for String {
    fn from(block: Block) -> Self {
        block.to_string()
    }
}

/// What a capsule may reach. `allow_out` goes before `deny_out`, both before `allow_internet`. Private ranges need an entry in
/// `allow_out` that lies within one. The host, other capsules and link-local addresses are never reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Whether addresses in neither list are reached, private ones apart.
    #[serde(default = "yes")]
    pub allow_internet: bool,
    /// Blocks that are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<Block>,
    /// Blocks that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<Block>,
}

const fn yes() -> bool {
    true
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow_internet: true, allow_out: Vec::new(), deny_out: Vec::new() }
    }
}

impl Egress {
    /// Whether it is the one of a capsule whose request names none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// From lists as users write them, called by these names in errors. Who denies every address means names, too, which
    /// are resolved as long as there is something to reach.
    pub fn parse(allow_internet: bool, allow: (&str, &[String]), deny: (&str, &[String])) -> Result<Self, Error> {
        let (allow_out, deny_out) = (blocks(allow)?, blocks(deny)?);
        Ok(Self { allow_internet: allow_internet && !deny_out.contains(&Block::ALL), allow_out, deny_out })
    }
}

fn blocks((field, list): (&str, &[String])) -> Result<Vec<Block>, Error> {
    if list.len() > limits::EGRESS_BLOCKS_MAX {
        return Err(Error::invalid(format!("{field}: at most {} entries", limits::EGRESS_BLOCKS_MAX)));
    }
    let parsed = list.iter().map(|text| text.parse::<Block>());
    parsed.collect::<Result<_, _>>().map_err(|error| Error::invalid(format!("{field}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_are_written() {
        for (text, want) in [
            ("1.2.3.4", "1.2.3.4/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/32", "255.255.255.255/32"),
        ] {
            let block: Block = text.parse().unwrap();
            assert_eq!(block.to_string(), want);
            assert_eq!(want.parse(), Ok(block));
            assert_eq!(serde_json::from_value::<Block>(serde_json::to_value(block).unwrap()).unwrap(), block);
        }
        for bad in
            ["", "/", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/+8", "1.2.3.4/-1", "1.2.3/8", "::1", "example.com", "*.x"]
        {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
        assert_eq!("0.0.0.0/0".parse(), Ok(Block::ALL));
    }

    #[test]
    fn mistakes_name_their_field() {
        let (none, many) = (Vec::new(), vec!["1.1.1.1".to_owned(); limits::EGRESS_BLOCKS_MAX + 1]);
        let message = |allow: &[String], deny: &[String]| {
            Egress::parse(true, ("allow_out", allow), ("denyOut", deny)).map_err(|error| error.message)
        };
        assert_eq!(message(&none, &none), Ok(Egress::default()));
        assert_eq!(message(&many, &none), Err("allow_out: at most 256 entries".to_owned()));
        assert!(message(&none, &["0.0.0.0/0".to_owned()]).is_ok_and(|egress| !egress.allow_internet));
        assert!(
            message(&none, &["example.com".to_owned()]).is_err_and(|text| text.starts_with("denyOut: \"example.com\""))
        );
    }

    #[test]
    fn what_is_not_said_is_open() {
        assert_eq!(serde_json::from_str::<Egress>("{}").unwrap(), Egress::default());
        assert_eq!(serde_json::to_string(&Egress::default()).unwrap(), r#"{"allow_internet":true}"#);
    }
}
