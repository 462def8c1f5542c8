//! Slots come, go, outlive the process and leave nothing behind. Needs root, `nft` and `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Guest, INTERNET, Lab, PORT, namespaces, on_a_host};
use network::{AdoptError, Network, Orphans, Policy};

const AT_ONCE: usize = 500;

fn assert_nothing_left(lab: &Lab) {
    assert_eq!(namespaces(&lab.instance), [] as [String; 0]);
    let links = lab::ip("-o link");
    assert!(!links.contains(&format!("wv{}-", lab.instance)), "{links}");
    let tables = lab::sh("nft list tables");
    assert!(!tables.contains(&format!("wrenn_{}", lab.instance)), "{tables}");
    assert_eq!(std::fs::read_dir(lab.home.path()).unwrap().count(), 0);
}

#[test]
fn five_hundred_at_once_are_as_many_different_ones() {
    on_a_host(|lab| async move {
        let network = lab.network(4).await;
        let acquisitions = (0..AT_ONCE).map(|_| {
            let network = network.clone();
            tokio::spawn(async move { network.acquire().await.unwrap() })
        });
        let mut slots = Vec::new();
        for acquisition in acquisitions.collect::<Vec<_>>() {
            slots.push(acquisition.await.unwrap());
        }
        let indexes: BTreeSet<_> = slots.iter().map(network::Slot::index).collect();
        assert_eq!(indexes.len(), AT_ONCE);
        assert!(slots.iter().all(|slot| slot.namespace_path().exists()));
        network.destroy_all().await.unwrap();
        assert_nothing_left(&lab);
        // And there is nothing wrong with nothing.
        network::destroy_all(&lab.instance, lab.home.path()).await.unwrap();
    });
}

#[test]
fn a_slot_outlives_the_process_that_acquired_it() {
    on_a_host(|lab| async move {
        let network = lab.network(1).await;
        let (kept, lost) = (network.acquire().await.unwrap(), network.acquire().await.unwrap());
        let (index, lost_index) = (kept.index(), lost.index());
        let guest = Guest::boot(&kept);
        drop((kept, lost));
        network.close().await;

        // Somebody who cannot tell whose they are keeps all of them, and gives none away.
        let before = namespaces(&lab.instance);
        let network = lab.adoption().await.finish(Orphans::Keep).await;
        let another = network.acquire().await.unwrap();
        assert!(before.iter().all(|name| namespaces(&lab.instance).contains(name) && *name != another.namespace()));
        drop(another);
        network.close().await;

        let adoption = lab.adoption().await;
        let policy = Policy { deny: vec!["9.9.9.9".parse().unwrap()], ..Policy::default() };
        let slot = adoption.adopt(index, policy).await.unwrap();
        assert!(matches!(adoption.adopt(index, Policy::default()).await, Err(AdoptError::Twice(_))));
        assert!(matches!(adoption.adopt(9999, Policy::default()).await, Err(AdoptError::Gone(_))));
        let network = adoption.finish(Orphans::Remove).await;
        assert_eq!(namespaces(&lab.instance), [slot.namespace()]);
        assert_ne!(index, lost_index);
        guest.visit(INTERNET).unwrap();
        assert!(guest.visit(lab::FAR).is_err(), "the policy is not in force");
        slot.dial(PORT).await.unwrap();
        assert_ne!(network.acquire().await.unwrap().index(), index);

        // As `wrenn down` does when there is no agent.
        network.close().await;
        network::destroy_all(&lab.instance, lab.home.path()).await.unwrap();
        assert_nothing_left(&lab);
    });
}

#[test]
fn names_without_a_namespace_are_not_adopted() {
    on_a_host(|lab| async move {
        // What a reboot leaves where /run is on a disk.
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::File::create(format!("/run/netns/wr{}-3", lab.instance)).unwrap();
        let adoption = lab.adoption().await;
        assert!(matches!(adoption.adopt(3, Policy::default()).await, Err(AdoptError::Gone(3))));
        let network = adoption.finish(Orphans::Remove).await;
        assert_eq!(namespaces(&lab.instance), [] as [String; 0]);
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn instances_do_not_meet() {
    on_a_host(|lab| async move {
        let other_home = tempfile::tempdir().unwrap();
        let other_instance = lab::random_instance();
        let _names = lab::Names(other_instance.clone());
        let network = lab.network(0).await;
        let other = Network::open(lab::options(&other_instance, other_home.path(), 0))
            .await
            .unwrap()
            .finish(Orphans::Remove)
            .await;
        let (slot, other_slot) = (network.acquire().await.unwrap(), other.acquire().await.unwrap());
        let (guest, other_guest) = (Guest::boot(&slot), Guest::boot(&other_slot));
        assert_eq!(slot.index(), other_slot.index());
        let inside = lab::within(&other_slot.namespace_fd().unwrap(), || lab::ip("-o -4 addr show dev eth0"));
        let inside: Ipv4Addr = inside.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
        assert!(guest.visit(inside).is_err(), "a guest of another instance was reached");
        guest.visit(INTERNET).unwrap();

        network.destroy_all().await.unwrap();
        assert_nothing_left(&lab);
        other_guest.visit(INTERNET).unwrap();
        other_slot.dial(PORT).await.unwrap();
        other.destroy_all().await.unwrap();
        assert_eq!(namespaces(&other_instance), [] as [String; 0]);
    });
}

#[test]
fn the_next_guest_hears_nothing_of_the_former_ones_flows() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let mut slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let peer = lab.on_the_internet(|| UdpSocket::bind((INTERNET, 5000)).unwrap());
        let local = SocketAddr::from((network::GUEST_ADDRESS, 4000));
        guest.run(|| UdpSocket::bind(local).unwrap().send_to(b"hello", (INTERNET, 5000)).unwrap());
        let (_, flow) = peer.recv_from(&mut [0; 16]).unwrap();
        slot.set_policy(Policy { allow_internet: false, ..Policy::default() }).await.unwrap();
        let index = slot.index();
        drop(guest);
        network.release(slot);
        assert_eq!(network.ready(), 0, "no quarantine");
        lab::recycled(&network).await;

        let slot = network.acquire().await.unwrap();
        assert_eq!((slot.index(), slot.policy()), (index, &Policy::default()));
        let guest = Guest::boot(&slot);
        guest.visit(INTERNET).expect("the former guest's policy is in force");
        let heard = guest.run(|| {
            let socket = UdpSocket::bind(local).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            peer.send_to(b"for the former guest", flow).unwrap();
            socket.recv(&mut [0; 64])
        });
        assert!(heard.is_err());
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_slot_with_an_open_connection_is_given_to_nobody() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let _open = slot.dial(PORT).await.unwrap();
        drop(guest);
        network.release(slot);
        let released = Instant::now();
        while !namespaces(&lab.instance).is_empty() {
            assert_eq!(network.ready(), 0);
            assert!(released.elapsed() < Duration::from_mins(1), "it is neither given away nor removed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn dialling_without_a_guest_fails_at_once_and_never_reaches_another() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let (slot, neighbour) = (network.acquire().await.unwrap(), network.acquire().await.unwrap());
        let _neighbour = Guest::boot(&neighbour);
        // A process another test is just starting may hold the TAP device's descriptor up to its `exec`; the kernel then
        // takes a second to notice that there is no carrier.
        let mut refused = None;
        for _ in 0..5 {
            let dialled = tokio::time::timeout(Duration::from_secs(1), slot.dial(PORT)).await;
            refused = refused.or(dialled.ok());
        }
        assert!(refused.expect("the first packet is lost silently").is_err());

        // A guest that appears is reached with the next attempt, a restored one without any exchange before.
        let _guest = Guest::boot_unheard(&slot);
        let dialler = slot.dialler();
        let attempts: Vec<_> = (0..100)
            .map(|_| {
                tokio::spawn({
                    let dialler = dialler.clone();
                    async move { dialler.dial(PORT).await }
                })
            })
            .collect();
        for attempt in attempts {
            attempt.await.unwrap().unwrap();
        }
        network.destroy_all().await.unwrap();
    });
}
