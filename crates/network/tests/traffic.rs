//! What guests send is limited and counted, by real interfaces of a real kernel. Needs root, `nft`, `ip` and `tc`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lab::{Guest, INTERNET, on_a_host, within};
use network::{Orphans, Policy};
use serde_json::Value;

/// What the limiter is set to, in bytes and bytes per second.
const RATE: u64 = 200 << 20;
const BURST: u64 = 100 << 20;
const QUEUE: u64 = 10 << 20;

/// The outermost queueing discipline of the namespace's way out, as `tc` sees it.
fn limiter(namespace: &OwnedFd) -> Value {
    let text = within(namespace, || lab::sh("tc -s -j qdisc show dev eth0"));
    let mut all: Vec<Value> = serde_json::from_str(&text).unwrap();
    all.retain(|one| one["root"] == true);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn assert_is_limited(namespace: &OwnedFd) {
    let found = limiter(namespace);
    let options = serde_json::json!({ "rate": RATE, "burst": BURST, "limit": QUEUE });
    assert_eq!((&found["kind"], &found["options"]), (&"tbf".into(), &options));
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap()
}

/// Sends datagrams that nobody has to answer.
fn send(guest: &Guest, datagrams: u64, bytes: u64) {
    guest.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let datagram = vec![0; usize::try_from(bytes).unwrap()];
        socket.connect((INTERNET, 9)).unwrap();
        for _ in 0..datagrams {
            // An ICMP error about the one before is reported here; the datagram goes out with the next attempt.
            while socket.send(&datagram).is_err() {}
        }
    });
}

#[test]
fn a_guest_sends_no_more_than_burst_and_rate_allow() {
    const DATAGRAM: u64 = 60_000;
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let namespace = slot.namespace_fd().unwrap();
        assert_is_limited(&namespace);
        // Large frames, so that the lab's wire is not what limits.
        within(&namespace, || {
            lab::ip("link set tap0 mtu 65000");
            lab::ip("link set eth0 mtu 65000");
        });
        guest.run(|| lab::ip("link set eth0 mtu 65000"));

        let (began, before) = (Instant::now(), number(&limiter(&namespace), "bytes"));
        send(&guest, 4 * BURST / DATAGRAM, DATAGRAM);
        let mut passed = 0;
        while passed < BURST - DATAGRAM {
            assert!(began.elapsed() < Duration::from_mins(1), "{passed} bytes passed the limiter");
            let now = limiter(&namespace);
            passed = number(&now, "bytes") - before;
            let allowed = BURST + RATE * u64::try_from(began.elapsed().as_millis()).unwrap() / 1000;
            assert!(passed <= allowed, "{passed} bytes passed where {allowed} may: {now}");
        }
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_slot_of_an_earlier_version_is_limited_when_it_is_adopted() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let (index, namespace) = (slot.index(), slot.namespace_fd().unwrap());
        drop(slot);
        network.close().await;
        within(&namespace, || lab::sh("tc qdisc del dev eth0 root"));

        for _ in 0..2 {
            let adoption = lab.adoption().await;
            adoption.adopt(index, Policy::default()).await.unwrap();
            assert_is_limited(&namespace);
            adoption.finish(Orphans::Keep).await.close().await;
        }
        network::destroy_all(&lab.instance, lab.home.path()).await.unwrap();
    });
}
