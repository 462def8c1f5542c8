//! The block of addresses of an instance's veth pairs.
//!
//! It lies in 240.0.0.0/4, which Linux routes since 2.6.25 and nobody assigns: the private ranges belong to the
//! operator's networks, to Docker, to VPNs. These addresses never leave the host; the host translates them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::instance::InstanceId;
use crate::slot::SlotIndex;

/// 2^15 addresses: a pair for each of [`crate::MAX_SLOTS`].
const PREFIX: u8 = 17;

/// Blocks of that size between 240.0.0.0 and 255.0.0.0; the last /8 holds the broadcast address.
const CANDIDATES: u32 = 15 << 9;

/// Where the blocks of all instances lie.
pub(crate) const ANY: Cidr = Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 4);

/// What `network.json` keeps: an adopted slot must find its addresses again.
#[derive(Serialize, Deserialize)]
struct Stored {
    range: Cidr,
}

/// The addresses of one slot: the host's and the namespace's end of its veth pair, a /31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) host: Ipv4Addr,
    pub(crate) inside: Ipv4Addr,
}

pub(crate) fn pair(range: Cidr, index: SlotIndex) -> Pair {
    let host = range.network().to_bits() + 2 * u32::from(index);
    Pair { host: host.into(), inside: (host + 1).into() }
}

/// A number below 2^27 that no other slot of this host has, of whichever instance.
pub(crate) fn number(pair: Pair) -> u32 {
    (pair.host.to_bits() & 0x0FFF_FFFF) >> 1
}

/// The instance's range, kept from now on.
pub(crate) fn choose(instance: &InstanceId, wrenn_dir: &Path) -> io::Result<Cidr> {
    let range = find(instance, wrenn_dir)?;
    let file = file(wrenn_dir);
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, serde_json::to_vec(&Stored { range })?)?;
    std::fs::rename(unfinished, file)?;
    Ok(range)
}

/// The range the instance has or would get: the first that no route of this host touches, beginning at a place
/// derived from its id.
pub(crate) fn find(instance: &InstanceId, wrenn_dir: &Path) -> io::Result<Cidr> {
    match std::fs::read(file(wrenn_dir)) {
        Ok(text) => return serde_json::from_slice(&text).map(|stored: Stored| stored.range).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let routes = routes(&std::fs::read_to_string("/proc/thread-self/net/route")?);
    let free = candidates(instance).find(|range| !routes.iter().any(|(_, route)| route.overlaps(range)));
    free.ok_or_else(|| io::Error::other("every block of 240.0.0.0/4 is routed on this host"))
}

/// Routes of others that overlap the instance's range, as `DESTINATION dev INTERFACE`: packets to its guests go there, if
/// they are more specific. One that came after the range was chosen is not avoided any longer. Of the calling thread's
/// namespace.
pub fn collisions(instance: &InstanceId, wrenn_dir: &Path) -> io::Result<Vec<String>> {
    let range = find(instance, wrenn_dir)?;
    let routes = routes(&std::fs::read_to_string("/proc/thread-self/net/route")?);
    let others = routes.iter().filter(|(interface, _)| instance.slot_of(interface).is_none());
    Ok(others
        .filter(|(_, route)| route.overlaps(&range))
        .map(|(interface, route)| format!("{route} dev {interface}"))
        .collect())
}

/// Where the range is kept.
pub(crate) fn file(wrenn_dir: &Path) -> PathBuf {
    wrenn_dir.join("network.json")
}

fn candidates(instance: &InstanceId) -> impl Iterator<Item = Cidr> {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    let first = u32::try_from(hasher.finish() % u64::from(CANDIDATES)).unwrap_or_default();
    (0..CANDIDATES).map(move |step| {
        let number = (first + step) % CANDIDATES;
        Cidr::new(Ipv4Addr::from_bits((240 << 24) + (number << (32 - PREFIX))), PREFIX)
    })
}

/// Interfaces and destinations of `/proc/net/route` except the default: addresses and masks are hexadecimal in host byte
/// order.
fn routes(table: &str) -> Vec<(String, Cidr)> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?.to_owned();
        let destination = u32::from_str_radix(fields.next()?, 16).ok()?.swap_bytes();
        let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?.swap_bytes();
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        (prefix > 0).then(|| (interface, Cidr::new(destination.into(), prefix)))
    };
    table.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_all_slots_lie_in_the_range_and_apart() {
        let range: Cidr = "240.1.128.0/17".parse().unwrap();
        assert_eq!(pair(range, 1), Pair { host: [240, 1, 128, 2].into(), inside: [240, 1, 128, 3].into() });
        let last = pair(range, crate::MAX_SLOTS);
        assert_eq!(last.inside, Ipv4Addr::new(240, 1, 255, 255));
        assert!(range.contains(&Cidr::new(last.inside, 32)));
        assert_eq!((number(pair(range, 1)), number(last)), (0xC001, 0xFFFF));
    }

    #[test]
    fn a_range_in_use_is_passed_over() {
        let instance: InstanceId = "abc".parse().unwrap();
        let ranges: Vec<_> = candidates(&instance).collect();
        assert_eq!(ranges.len(), CANDIDATES as usize);
        let all: Cidr = "240.0.0.0/4".parse().unwrap();
        assert!(ranges.iter().all(|range| all.contains(range) && range.network().octets()[0] < 255));
        let table = "Iface\nwv1\t028001F0\t00000000\t0001\t0\t0\t0\tFEFFFFFF\t0\t0\t0\n";
        assert_eq!(routes(table), [("wv1".to_owned(), "240.1.128.2/31".parse().unwrap())]);
    }
}
