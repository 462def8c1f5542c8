//! What the kernel holds of a policy, read back with another tool. Needs root and `nft`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::cell::RefCell;
use std::net::Ipv4Addr;

use lab::{on_a_host, within};
use network::{Cidr, Policy, Slot};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// First and last address.
type Interval = (u32, u32);

fn interval(address: Ipv4Addr, prefix: u64) -> Interval {
    let rest = u32::MAX.checked_shr(u32::try_from(prefix).unwrap()).unwrap_or(0);
    (address.to_bits() & !rest, address.to_bits() | rest)
}

/// The same addresses in as few intervals as possible.
fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for (first, last) in intervals {
        match merged.last_mut() {
            Some((_, end)) if u64::from(first) <= u64::from(*end) + 1 => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn of(blocks: &[Cidr]) -> Vec<Interval> {
    merged(blocks.iter().map(|block| interval(block.network(), block.prefix().into())).collect())
}

/// What `nft` says of sets of a slot's table.
fn held(slot: &Slot, names: &[&str]) -> Vec<Interval> {
    let table = within(&slot.namespace_fd().unwrap(), || lab::sh("nft -j list table inet wrenn"));
    let table: Value = serde_json::from_str(&table).unwrap();
    let address = |value: &Value| value.as_str().unwrap().parse::<Ipv4Addr>().unwrap();
    let sets = table["nftables"].as_array().unwrap().iter().map(|object| &object["set"]);
    let sets = sets.filter(|set| set["name"].as_str().is_some_and(|name| names.contains(&name)));
    let elements = sets.flat_map(|set| set["elem"].as_array().into_iter().flatten());
    merged(
        elements
            .map(|element| match (&element["prefix"], &element["range"]) {
                (Value::Null, Value::Null) => interval(address(element), 32),
                (Value::Null, range) => (address(&range[0]).to_bits(), address(&range[1]).to_bits()),
                (prefix, _) => interval(address(&prefix["addr"]), prefix["len"].as_u64().unwrap()),
            })
            .collect(),
    )
}

fn block(address: Ipv4Addr, prefix: u8) -> Cidr {
    let (network, _) = interval(address, prefix.into());
    format!("{}/{prefix}", Ipv4Addr::from(network)).parse().unwrap()
}

/// Anywhere, and so close together that blocks touch and contain each other.
fn blocks() -> impl Strategy<Value = Vec<Cidr>> {
    let anywhere = (any::<u32>(), 0_u8..=32);
    let close = (0_u32..64, 26_u8..=32).prop_map(|(low, prefix)| (0x0A00_0000 | low, prefix));
    let edges = prop_oneof![Just((0, 32)), Just((u32::MAX, 32)), Just((0, 0)), Just((u32::MAX, 1))];
    let one = prop_oneof![4 => anywhere, 8 => close, 1 => edges];
    proptest::collection::vec(one.prop_map(|(bits, prefix)| block(bits.into(), prefix)), 0..=256)
}

#[test]
fn the_kernel_holds_what_the_policy_says_whatever_it_held_before() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = RefCell::new(network.acquire().await.unwrap());
        let policies = (any::<bool>(), blocks(), blocks());
        let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() });
        let checked = runner.run(&policies, |(allow_internet, allow, deny)| {
            let mut slot = slot.borrow_mut();
            let policy = Policy { allow_internet, allow, deny };
            block_in_place(|| Handle::current().block_on(slot.set_policy(policy.clone()))).unwrap();
            prop_assert_eq!(held(&slot, &["private", "allow"]), of(&policy.allow));
            prop_assert_eq!(held(&slot, &["deny"]), of(&policy.deny));
            prop_assert_eq!(held(&slot, &["internet"]), if allow_internet { vec![(0, u32::MAX)] } else { Vec::new() });
            Ok(())
        });
        checked.unwrap();
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_policy_the_kernel_refuses_is_not_in_force_not_even_in_part() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let mut slot = network.acquire().await.unwrap();
        let denied = |address| Policy { deny: vec![block(address, 32)], ..Policy::default() };
        slot.set_policy(denied(lab::FAR)).await.unwrap();
        // The last of the sets that are written is gone.
        within(&slot.namespace_fd().unwrap(), || {
            lab::sh(
                "nft 'flush chain inet wrenn egress; flush chain inet wrenn answers; delete set inet wrenn internet'",
            );
        });
        slot.set_policy(denied(lab::INTERNET)).await.unwrap_err();
        assert_eq!(*slot.policy(), denied(lab::FAR));
        assert_eq!(held(&slot, &["deny"]), of(&[block(lab::FAR, 32)]));
        network.destroy_all().await.unwrap();
    });
}
