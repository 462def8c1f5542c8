//! What guests reach, with real packets through real rules. Needs root, `nft` and `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lab::{FAR, Guest, HOST, INTERNET, METADATA, PORT, PRIVATE, on_a_host, visit, within};
use network::{Firewall, Policy};

fn addresses_of(interface_prefix: &str) -> Vec<Ipv4Addr> {
    let list = lab::ip("-o -4 addr show");
    let fields = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields[1].starts_with(interface_prefix))
        .map(|fields| fields[3].split('/').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn the_internet_and_nothing_else() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let (slot, neighbour) = (network.acquire().await.unwrap(), network.acquire().await.unwrap());
        let (guest, _other) = (Guest::boot(&slot), Guest::boot(&neighbour));

        for address in [INTERNET, FAR] {
            assert_eq!(guest.visit(address).unwrap(), IpAddr::V4(HOST), "not under the host's address");
        }

        let inside_neighbour = within(&neighbour.namespace_fd().unwrap(), || addresses_of("eth0"));
        let veths = addresses_of("wv");
        assert_eq!((veths.len(), inside_neighbour.len()), (2, 1));
        let mut closed = vec![HOST, METADATA, network::GATEWAY_ADDRESS, Ipv4Addr::new(169, 254, 0, 23)];
        closed.extend(veths.iter().chain(&inside_neighbour).chain(&PRIVATE));
        for address in [HOST, METADATA, PRIVATE[0]] {
            visit(address).expect("a server nobody reaches proves nothing");
        }
        for address in closed {
            assert!(guest.visit(address).is_err(), "{address} was reached");
        }
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn nobody_but_the_agent_reaches_guests() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let _guest = Guest::boot(&slot);
        let inside = within(&slot.namespace_fd().unwrap(), || addresses_of("eth0"))[0];
        assert!(visit(inside).is_err(), "a process of the host reached into the namespace");
        assert!(lab.on_the_internet(|| visit(inside)).is_err());

        let mut answer = String::new();
        let mut stream = slot.dial(PORT).await.unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert_eq!(answer, network::GATEWAY_ADDRESS.to_string());
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_process_inside_the_namespace_reaches_the_guest_only() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let _guest = Guest::boot(&slot);
        within(&slot.namespace_fd().unwrap(), || {
            visit(network::GUEST_ADDRESS).unwrap();
            for address in [INTERNET, HOST, METADATA] {
                assert!(visit(address).is_err(), "{address} was reached");
            }
        });
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_forged_source_gets_nowhere() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        guest.run(|| lab::ip("addr add 203.0.113.77/32 dev lo"));
        let heard = lab.on_the_internet(|| {
            let listener = UdpSocket::bind((INTERNET, 9999)).unwrap();
            listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for source in ["203.0.113.77:0", "169.254.0.21:0"] {
                let source = source.to_owned();
                guest.run(move || UdpSocket::bind(source).unwrap().send_to(b"x", (INTERNET, 9999)).unwrap());
            }
            std::iter::from_fn(|| listener.recv_from(&mut [0; 16]).ok()).map(|(_, from)| from.ip()).collect::<Vec<_>>()
        });
        assert_eq!(heard, [IpAddr::V4(HOST)]);
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn policies_open_and_close_while_running() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let mut slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let blocks = |list: &[&str]| list.iter().map(|block| block.parse().unwrap()).collect::<Vec<_>>();
        // Internet allowed?, allow, deny; which of FAR, INTERNET, a private address, the host, the metadata service are reached.
        let cases = [
            (true, blocks(&[]), blocks(&[]), [true, true, false]),
            (true, blocks(&["10.0.0.0/8", "10.1.2.0/24"]), blocks(&[]), [true, true, true]),
            (true, blocks(&[]), blocks(&["9.0.0.0/8"]), [false, true, false]),
            (true, blocks(&["9.9.9.9"]), blocks(&["9.0.0.0/8", "203.0.113.0/24"]), [true, false, false]),
            (false, blocks(&[]), blocks(&[]), [false, false, false]),
            (false, blocks(&["0.0.0.0/0"]), blocks(&[]), [true, true, false]),
            (false, blocks(&["8.0.0.0/5"]), blocks(&[]), [true, false, false]),
            (false, blocks(&["0.0.0.0/0", "10.0.0.0/8"]), blocks(&["0.0.0.0/0"]), [true, true, true]),
        ];
        for (allow_internet, allow, deny, expected) in cases {
            slot.set_policy(Policy { allow_internet, allow, deny }).await.unwrap();
            let reached = [FAR, INTERNET, PRIVATE[0]].map(|address| guest.visit(address).is_ok());
            assert_eq!(reached, expected, "{:?}", slot.policy());
            for address in [HOST, METADATA] {
                assert!(guest.visit(address).is_err(), "{address} was reached with {:?}", slot.policy());
            }
        }

        let too_long = Policy { allow: vec!["1.2.3.4".parse().unwrap(); 257], ..Policy::default() };
        assert!(slot.set_policy(too_long).await.is_err());
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_policy_ends_flows_it_does_not_allow_and_no_others() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let mut slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let echo = lab.on_the_internet(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7)).unwrap());
        std::thread::spawn(move || {
            for stream in echo.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let connect = |address: Ipv4Addr| {
            let stream = guest.run(|| TcpStream::connect(SocketAddr::from((address, 7))).unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream
        };
        let works = |mut stream: &TcpStream| stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok();
        let (far, near) = (connect(FAR), connect(INTERNET));
        assert!(works(&far) && works(&near));
        slot.set_policy(Policy { deny: vec!["9.9.9.9".parse().unwrap()], ..Policy::default() }).await.unwrap();
        assert!(!works(&far), "a denied flow lives on");
        assert!(works(&near), "an allowed flow was cut");
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_policy_ends_what_comes_in_over_flows_it_does_not_allow() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let mut slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let socket = guest.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let peers = [FAR, INTERNET].map(|address| {
            let peer = lab.on_the_internet(|| UdpSocket::bind((address, 5000)).unwrap());
            socket.send_to(b"hello", (address, 5000)).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (_, flow) = peer.recv_from(&mut [0; 16]).unwrap();
            peer.connect(flow).unwrap();
            peer
        });
        // The second peer's packet goes the way of the first one's, behind it: it tells when that would have arrived.
        let heard = || {
            for peer in &peers {
                assert_eq!(peer.send(b"x").unwrap(), 1);
            }
            let mut heard = Vec::new();
            while heard.last() != Some(&IpAddr::V4(INTERNET)) {
                heard.push(socket.recv_from(&mut [0; 16]).unwrap().1.ip());
            }
            heard
        };
        let both = [IpAddr::V4(FAR), IpAddr::V4(INTERNET)];
        assert_eq!(heard(), both);
        let blocks = |list: &[&str]| list.iter().map(|block| block.parse().unwrap()).collect::<Vec<_>>();
        let cases = [
            (true, blocks(&[]), blocks(&["9.9.9.9"]), &both[1..]),
            (true, blocks(&[]), blocks(&[]), &both),
            (false, blocks(&["203.0.113.0/24"]), blocks(&[]), &both[1..]),
            (false, blocks(&["0.0.0.0/0"]), blocks(&["9.9.9.9"]), &both),
        ];
        for (allow_internet, allow, deny, expected) in cases {
            slot.set_policy(Policy { allow_internet, allow, deny }).await.unwrap();
            assert_eq!(heard(), expected, "{:?}", slot.policy());
        }
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn one_guest_cannot_fill_the_hosts_flow_table() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let (slot, neighbour) = (network.acquire().await.unwrap(), network.acquire().await.unwrap());
        let (greedy, modest) = (Guest::boot(&slot), Guest::boot(&neighbour));
        let flows = || {
            std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")
                .unwrap()
                .trim()
                .parse::<u32>()
                .unwrap()
        };
        let before = flows();
        greedy.run(|| {
            for port in (10_000..).take(network::MAX_FLOWS as usize + 1000) {
                // Refused packets come back as errors; they are the point.
                let _ = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap().send_to(b"x", (INTERNET, 9));
            }
        });
        assert!(greedy.visit(INTERNET).is_err(), "there is no bound");
        modest.visit(INTERNET).unwrap();
        assert!(flows() - before <= network::MAX_FLOWS + 10, "{} flows", flows());
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_host_firewall_in_the_way_is_found_and_its_command_helps() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        assert_eq!(network.host_firewalls().await.unwrap(), []);
        lab::sh(
            "nft 'add table inet mine; add chain inet mine f { type filter hook forward priority 0; policy drop; }'",
        );
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        assert!(guest.visit(INTERNET).is_err());

        let findings = network::host_firewalls(Some(&lab.instance), lab.home.path()).await.unwrap();
        assert_eq!(findings, network.host_firewalls().await.unwrap());
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(
            (finding.firewall, finding.table.as_str(), finding.chain.as_str()),
            (Firewall::Other, "inet mine", "f")
        );
        lab::sh(&finding.command);
        assert_eq!(network.host_firewalls().await.unwrap(), []);
        guest.visit(INTERNET).unwrap();
        network.destroy_all().await.unwrap();
    });
}
