//! What a host can be asked before there is a network of ours on it. Needs root, `nft` and `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use lab::on_a_host;
use network::{Resolvers, Uplink, find_uplinks, rehearse};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

fn trial_namespaces() -> usize {
    let trial = format!("wrtrial.{}", std::process::id());
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return 0 };
    entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() == *trial)).count()
}

/// The mounts of the calling thread, and of those it starts, are its own from now on.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

#[test]
fn a_slot_is_rehearsed_unseen_and_tells_what_is_missing() {
    on_a_host(|_lab| async move {
        let look = || (lab::ip("-o link"), lab::sh("nft list ruleset"));
        let before = look();
        // No process has such an id (`PID_MAX_LIMIT` is 2^22): what a killed one left goes, too.
        lab::ip("netns add wrtrial.4194305");
        rehearse().await.unwrap();
        assert!(!std::path::Path::new("/run/netns/wrtrial.4194305").exists());
        assert_eq!(look(), before);
        assert_eq!(trial_namespaces(), 0);

        // The thread that rehearses is a child of this one's runtime and sees its mounts.
        let without_tap = std::thread::spawn(|| {
            own_mounts();
            mount_bind("/dev/null", "/dev/net/tun").unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(rehearse())
        });
        let error = without_tap.join().unwrap().unwrap_err();
        assert!(matches!(error, network::SetupError::Tap(_)), "{error:?}");
        assert_eq!(trial_namespaces(), 0);
    });
}

#[test]
fn uplinks_tell_whether_they_forward_and_may_be_switched() {
    on_a_host(|_lab| async move {
        let expected = |forwards, switchable| [Uplink { interface: "up0".to_owned(), forwards, switchable }];
        lab::sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let found = find_uplinks().unwrap();
        assert_eq!(found, expected(false, true));
        std::fs::write(found[0].setting(), "1").unwrap();
        assert_eq!(find_uplinks().unwrap(), expected(true, true));

        let sealed = std::thread::spawn(|| {
            own_mounts();
            mount_bind("/proc/sys", "/proc/sys").unwrap();
            lab::sh("mount -o remount,bind,ro /proc/sys");
            find_uplinks().unwrap()
        });
        assert_eq!(sealed.join().unwrap(), expected(true, false));

        lab::ip("route del default");
        assert_eq!(find_uplinks().unwrap(), []);
    });
}

#[test]
fn a_route_that_came_later_collides() {
    on_a_host(|lab| async move {
        let network = lab.network(2).await;
        let slot = network.acquire().await.unwrap();
        let collisions = || network::collisions(&lab.instance, lab.home.path()).unwrap();
        assert_eq!(collisions(), [] as [String; 0], "our own routes are none");
        lab::ip("route add 240.0.0.0/4 via 203.0.113.2");
        assert_eq!(collisions(), ["240.0.0.0/4 dev up0"]);
        network.release(slot);
        network.destroy_all().await.unwrap();
    });
}

/// A resolver that gives one question this response code.
fn resolver(code: u8) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut message = [0; 512];
        let (length, peer) = socket.recv_from(&mut message).unwrap();
        (message[2], message[3]) = (message[2] | 0x80, message[3] & 0xF0 | code);
        socket.send_to(&message[..length], peer).unwrap();
    });
    address
}

#[tokio::test]
async fn resolvers_are_asked() {
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    let cases = [
        (resolver(0), None),
        // NXDOMAIN is an answer, too.
        (resolver(3), None),
        (resolver(2), Some(io::ErrorKind::Other)),
        (resolver(5), Some(io::ErrorKind::Other)),
        (closed, Some(io::ErrorKind::ConnectionRefused)),
    ];
    for (address, expected) in cases {
        let answers = network::try_resolvers(Resolvers::Fixed(vec![address])).await;
        let [(asked, answer)] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!((*asked, answer.as_ref().err().map(io::Error::kind)), (address, expected));
    }
}
