//! What guests send is limited and counted, by real interfaces of a real kernel. Needs root, `nft`, `ip` and `tc`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lab::{Guest, INTERNET, PORT, on_a_host, within};
use network::{Orphans, Policy, Slot, Traffic};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

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

/// Reads until the counters show enough: packets that were sent are still on the lab's wire.
async fn counted(slot: &Slot, enough: impl Fn(&Traffic) -> bool) -> Traffic {
    let began = Instant::now();
    loop {
        let traffic = slot.traffic().await.unwrap();
        if enough(&traffic) {
            return traffic;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "{traffic:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn counters_are_the_guests_own() {
    const DATAGRAMS: u64 = 50;
    const BYTES: u64 = 1000;
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let index = slot.index();
        assert_eq!(slot.traffic().await.unwrap(), Traffic::default());
        let guest = Guest::boot(&slot);
        send(&guest, DATAGRAMS, BYTES);
        let sent = counted(&slot, |traffic| traffic.sent_packets >= DATAGRAMS).await;
        assert!(sent.sent_bytes >= DATAGRAMS * BYTES && sent.received_bytes < sent.sent_bytes, "{sent:?}");
        let mut answer = String::new();
        slot.dial(PORT).await.unwrap().read_to_string(&mut answer).await.unwrap();
        // A handshake, at the least: two frames to the guest, one back.
        let dialled = counted(&slot, |traffic| traffic.received_packets >= sent.received_packets + 2).await;
        assert!(dialled.sent_packets > sent.sent_packets && dialled.received_bytes > sent.received_bytes);

        drop(guest);
        network.release(slot);
        lab::recycled(&network).await;
        let slot = network.acquire().await.unwrap();
        assert_eq!((slot.index(), slot.traffic().await.unwrap()), (index, Traffic::default()));
        let guest = Guest::boot(&slot);
        send(&guest, DATAGRAMS, BYTES);
        let sent = counted(&slot, |traffic| traffic.sent_packets >= DATAGRAMS).await;
        drop((guest, slot));
        network.close().await;

        let adoption = lab.adoption().await;
        let slot = adoption.adopt(index, Policy::default()).await.unwrap();
        let adopted = slot.traffic().await.unwrap();
        assert!(adopted.sent_bytes >= sent.sent_bytes && adopted.sent_packets < 2 * DATAGRAMS, "{adopted:?}");
        adoption.finish(Orphans::Remove).await.destroy_all().await.unwrap();
    });
}
