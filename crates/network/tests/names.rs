//! The guest's name server against resolvers that err. Needs root, `nft` and `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lab::{Guest, Lab, on_a_host};
use network::{Adoption, Network, Orphans, Policy, Resolvers};

const SERVER: (std::net::Ipv4Addr, u16) = (network::GATEWAY_ADDRESS, 53);
const REFUSED: u8 = 5;
const SERVER_FAILURE: u8 = 2;

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00");
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend(b"\x00\x00\x01\x00\x01");
    bytes
}

/// The query as an answer, with something behind it.
fn answer(query: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes.extend(payload);
    bytes
}

/// A resolver on the host; it says first what `forge` makes of the query, then the truth. Reports the ids it saw.
fn resolver(forge: fn(&[u8]) -> Vec<Vec<u8>>) -> (SocketAddr, mpsc::Receiver<u16>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let (seen, ids) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let _ = seen.send(u16::from_be_bytes([query[0], query[1]]));
            for message in forge(query).into_iter().chain([answer(query, b"udp")]) {
                socket.send_to(&message, from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let query = read_message(&mut stream).unwrap();
            write_message(&mut stream, &answer(&query, &vec![b't'; 20_000]));
        }
    });
    (address, ids)
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(message).unwrap();
}

async fn adoption(lab: &Lab, resolvers: Vec<SocketAddr>) -> Adoption {
    let options = network::NetworkOptions { resolvers: Resolvers::Fixed(resolvers), ..lab.options(0) };
    Network::open(options).await.unwrap()
}

async fn network(lab: &Lab, resolvers: Vec<SocketAddr>) -> Network {
    adoption(lab, resolvers).await.finish(Orphans::Remove).await
}

fn ask(guest: &Guest, message: &[u8]) -> std::io::Result<Vec<u8>> {
    guest.ask(SERVER.into(), message, Duration::from_secs(10))
}

#[test]
fn only_true_answers_come_through() {
    on_a_host(|lab| async move {
        let (address, ids) = resolver(|query| {
            let mut other_id = answer(query, b"forged");
            other_id[0] ^= 1;
            let mut other_question = answer(query, b"forged");
            other_question[13] ^= 1;
            vec![other_id, other_question, vec![0; 3], query.to_vec()]
        });
        let network = network(&lab, vec![address]).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let mut differs = false;
        for round in 0..4 {
            let asked = query(round, "www.example.com");
            assert_eq!(ask(&guest, &asked).unwrap(), answer(&asked, b"udp"));
            differs |= ids.recv().unwrap() != round;
        }
        assert!(differs, "the guest's ids were passed on");
        // What is no query gets no answer and does no harm.
        guest.ask(SERVER.into(), b"nonsense", Duration::from_millis(200)).unwrap_err();
        ask(&guest, &query(1, "a")).unwrap();
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn large_answers_come_over_tcp() {
    on_a_host(|lab| async move {
        let (address, _ids) = resolver(|_| Vec::new());
        let network = network(&lab, vec![address]).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let mut stream = guest.run(|| TcpStream::connect(SERVER).unwrap());
        for id in [1, 2] {
            let asked = query(id, "large.example");
            write_message(&mut stream, &asked);
            assert!(read_message(&mut stream).unwrap() == answer(&asked, &vec![b't'; 20_000]));
        }
        // A length beyond every query ends the connection.
        stream.write_all(&[0xFF, 0xFF]).unwrap();
        assert!(read_message(&mut stream).is_err());
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_dead_resolver_is_passed_over_and_no_resolver_is_a_failure() {
    on_a_host(|lab| async move {
        let (alive, _ids) = resolver(|_| Vec::new());
        // Bound and dropped: nothing listens there.
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let asked = query(7, "example.com");
        for (resolvers, expected) in [(vec![dead, alive], 0), (vec![dead], SERVER_FAILURE), (vec![], SERVER_FAILURE)] {
            let network = network(&lab, resolvers).await;
            let slot = network.acquire().await.unwrap();
            let guest = Guest::boot(&slot);
            let answer = ask(&guest, &asked).unwrap();
            assert_eq!((answer[3] & 0x0F, &answer[..2]), (expected, &asked[..2]));
            network.destroy_all().await.unwrap();
        }
    });
}

#[test]
fn a_guest_without_internet_resolves_nothing() {
    on_a_host(|lab| async move {
        let (address, ids) = resolver(|_| Vec::new());
        let network = network(&lab, vec![address]).await;
        let mut slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        let asked = query(9, "secret.example");
        let cases = [(false, vec![], REFUSED), (false, vec!["1.2.3.4".parse().unwrap()], 0), (true, vec![], 0)];
        for (allow_internet, allow, expected) in cases {
            slot.set_policy(Policy { allow_internet, allow, deny: vec![] }).await.unwrap();
            assert_eq!(ask(&guest, &asked).unwrap()[3] & 0x0F, expected, "{:?}", slot.policy());
            assert_eq!(ids.try_recv().is_ok(), expected == 0);
        }
        network.destroy_all().await.unwrap();
    });
}

/// An agent that is replaced is a packet that got lost: nobody is told that nobody is there.
#[test]
fn who_asks_while_nobody_serves_is_answered_later() {
    on_a_host(|lab| async move {
        let (address, _ids) = resolver(|_| Vec::new());
        let before = network(&lab, vec![address]).await;
        let slot = before.acquire().await.unwrap();
        let (guest, index) = (Arc::new(Guest::boot(&slot)), slot.index());
        drop(slot);
        before.close().await;

        let asked = query(3, "example.com");
        let unheard = guest.ask(SERVER.into(), &asked, Duration::from_millis(200)).unwrap_err();
        assert_eq!(unheard.kind(), ErrorKind::WouldBlock);
        let connecting = [SERVER, (network::METADATA_ADDRESS, 80)].map(|server| {
            let guest = Arc::clone(&guest);
            std::thread::spawn(move || guest.run(|| TcpStream::connect(server)))
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(connecting.iter().all(|thread| !thread.is_finished()));

        let adoption = adoption(&lab, vec![address]).await;
        let _slot = adoption.adopt(index, Policy::default()).await.unwrap();
        let after = adoption.finish(Orphans::Remove).await;
        assert_eq!(ask(&guest, &asked).unwrap(), answer(&asked, b"udp"));
        for thread in connecting {
            tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap().unwrap();
        }
        after.destroy_all().await.unwrap();
    });
}
