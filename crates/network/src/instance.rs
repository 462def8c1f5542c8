//! The instance id and every host-wide name made from it.

use std::fmt;
use std::str::FromStr;

use crate::slot::SlotIndex;

/// Interface names end at 15 bytes (`IFNAMSIZ` with its zero): `wv`, the id, `-` and five digits.
const MAX_LENGTH: usize = 7;

/// First letters of the host's side of every slot, of all instances.
pub(crate) const ANY_VETH: &str = "wv*";

/// Short name of one installation on this host: 1 to 7 characters out of `a`–`z` and `0`–`9`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceId(String);

/// A text that is no instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no instance id: 1 to {MAX_LENGTH} characters out of a-z and 0-9 are")]
pub struct BadInstanceId(String);

impl FromStr for InstanceId {
    type Err = BadInstanceId;

    fn from_str(text: &str) -> Result<Self, BadInstanceId> {
        let fits = (1..=MAX_LENGTH).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadInstanceId(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl InstanceId {
    /// Name of a slot's namespace.
    pub(crate) fn namespace(&self, index: SlotIndex) -> String {
        format!("wr{self}-{index}")
    }

    /// Name of the host's side of a slot.
    pub(crate) fn veth(&self, index: SlotIndex) -> String {
        format!("wv{self}-{index}")
    }

    /// The host's side of all slots, as nftables and firewalls write it.
    pub(crate) fn veths(&self) -> String {
        format!("wv{self}-*")
    }

    /// Our table in the host's ruleset.
    pub(crate) fn table(&self) -> String {
        format!("wrenn_{self}")
    }

    /// The slot a namespace or veth of ours belongs to.
    pub(crate) fn slot_of(&self, name: &str) -> Option<SlotIndex> {
        let rest = name.strip_prefix("wr").or_else(|| name.strip_prefix("wv"))?;
        rest.strip_prefix(&self.0)?.strip_prefix('-')?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_lead_back() {
        let (short, long): (InstanceId, InstanceId) = ("ab".parse().unwrap(), "abc1234".parse().unwrap());
        assert_eq!(long.veth(crate::limits::MAX_SLOTS).len(), 15);
        assert_eq!(long.slot_of(&long.veth(7)), Some(7));
        assert_eq!(long.slot_of(&long.namespace(16_383)), Some(16_383));
        // One id may begin like another: the dash ends it.
        assert_eq!(short.slot_of(&long.veth(7)), None);
        for bad in ["", "abcdefgh", "a-b", "A", "ä", "a b"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }
}
