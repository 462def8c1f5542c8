//! What a guest is told about itself, asked with bytes as they go over the wire. Needs root, `nft` and `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod lab;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::{Guest, INTERNET, METADATA, PORT, on_a_host, visit, within};
use network::{METADATA_ADDRESS, Metadata, Orphans, Policy};

fn metadata(id: &str) -> Metadata {
    Metadata {
        instance_id: id.to_owned(),
        environment_id: "minimal".to_owned(),
        log_address: None,
        access_token_hash: Some("00ff".to_owned()),
    }
}

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(METADATA_ADDRESS), PORT);

/// Opens a connection from the current namespace.
fn connect() -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&ADDRESS, Duration::from_mins(1))?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    Ok(stream)
}

/// Whether the current namespace has a way there at all.
fn reaches() -> bool {
    TcpStream::connect_timeout(&ADDRESS, Duration::from_millis(700)).is_ok()
}

/// Status and body of the answer to a request: its first line and further headers.
fn ask(guest: &Guest, lines: &str) -> io::Result<(u16, String)> {
    let answer = guest.run(|| {
        let mut stream = connect()?;
        stream.write_all(format!("{}\r\nhost: x\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("no head");
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

fn status(guest: &Guest, lines: &str) -> u16 {
    ask(guest, lines).unwrap().0
}

fn token(guest: &Guest, ttl_seconds: u32) -> String {
    let lines = format!("PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: {ttl_seconds}");
    let (status, token) = ask(guest, &lines).unwrap();
    assert_eq!((status, token.is_empty()), (200, false));
    token
}

/// What the guest reads with a token of its own.
fn read(guest: &Guest, path: &str, accept: &str) -> (u16, String) {
    let token = token(guest, 60);
    ask(guest, &format!("GET {path} HTTP/1.1\nx-metadata-token: {token}\naccept: {accept}")).unwrap()
}

#[test]
fn a_guest_learns_what_is_set_at_the_moment() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        assert_eq!(read(&guest, "/", "application/json").0, 404);
        let (first, second) =
            (metadata("one"), Metadata { log_address: Some("http://log".to_owned()), ..metadata("two") });
        slot.set_metadata(Some(first));
        let all = r#"{"accessTokenHash":"00ff","envID":"minimal","instanceID":"one"}"#;
        assert_eq!(read(&guest, "/", "application/json"), (200, all.to_owned()));
        slot.set_metadata(Some(second));
        let cases = [
            ("/", "*/*", 200, "accessTokenHash\naddress\nenvID\ninstanceID"),
            ("/instanceID", "*/*", 200, "two"),
            ("/instanceID/", "application/json", 200, "\"two\""),
            ("/address", "text/plain", 200, "http://log"),
        ];
        for (path, accept, status, body) in cases {
            assert_eq!(read(&guest, path, accept), (status, body.to_owned()), "{path} {accept}");
        }
        for path in ["/nothing", "/instanceID/x", "/latest/api/token"] {
            assert_eq!(read(&guest, path, "*/*").0, 404, "{path}");
        }
        slot.set_metadata(None);
        assert_eq!(read(&guest, "/instanceID", "*/*").0, 404);
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn without_a_valid_token_there_is_nothing() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let (slot, neighbour) = (network.acquire().await.unwrap(), network.acquire().await.unwrap());
        let (guest, other) = (Guest::boot(&slot), Guest::boot(&neighbour));
        slot.set_metadata(Some(metadata("one")));
        neighbour.set_metadata(Some(metadata("two")));
        assert_eq!(read(&guest, "/instanceID", "*/*").1, "one");
        assert_eq!(read(&other, "/instanceID", "*/*").1, "two");

        let valid = token(&guest, 21_600);
        let with = |token: &str| format!("GET / HTTP/1.1\nX-Metadata-Token: {token}");
        assert_eq!(status(&guest, &with(&valid)), 200);
        let wrong = valid.chars().rev().collect::<String>();
        for wrong in [wrong.as_str(), "", &valid[1..], "x"] {
            assert_eq!(status(&guest, &with(wrong)), 401, "{wrong:?}");
        }
        assert_eq!(status(&guest, "GET / HTTP/1.1"), 401);
        assert_eq!(status(&other, &with(&valid)), 401, "a neighbour's token is taken");

        let began = Instant::now();
        let short = token(&guest, 1);
        while status(&guest, &with(&short)) != 401 {
            assert!(began.elapsed() < Duration::from_mins(1), "a token never ends");
        }
        assert!(began.elapsed() >= Duration::from_secs(1), "a token ended early");
        assert_eq!(status(&guest, &with(&valid)), 200);
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn what_is_no_proper_request_is_refused() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        slot.set_metadata(Some(metadata("one")));
        let token = token(&guest, 60);
        let put = "PUT /latest/api/token HTTP/1.1";
        let ttl = "X-metadata-token-ttl-seconds";
        let cases = [
            (put.to_owned(), 400),
            (format!("{put}\n{ttl}: 0"), 400),
            (format!("{put}\n{ttl}: 21601"), 400),
            (format!("{put}\n{ttl}: -1"), 400),
            (format!("{put}\n{ttl}: soon"), 400),
            (format!("{put}\n{ttl}: 60\nX-Forwarded-For: 1.2.3.4"), 400),
            (format!("PUT / HTTP/1.1\n{ttl}: 60"), 404),
            (format!("POST / HTTP/1.1\nX-metadata-token: {token}"), 405),
            (format!("DELETE / HTTP/1.1\nX-metadata-token: {token}"), 405),
            (format!("GET / HTTP/1.1\nX-metadata-token: {token}\nlarge: {}", "x".repeat(9000)), 431),
            (format!("GET / HTTP/1.1\nX-metadata-token: {token}{}", "\na: b".repeat(200)), 431),
            ("nonsense".to_owned(), 400),
        ];
        for (request, expected) in cases {
            // Where a head is not read to its end, the kernel may tell so before the answer.
            match ask(&guest, &request) {
                Ok((status, _)) => assert_eq!(status, expected, "{request}"),
                Err(error) => {
                    assert_eq!((error.kind(), expected), (io::ErrorKind::ConnectionReset, 431), "{request}");
                }
            }
        }
        assert_eq!(status(&guest, &format!("GET / HTTP/1.1\nX-metadata-token: {token}")), 200);
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn silent_connections_are_few_and_end() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        slot.set_metadata(Some(metadata("one")));
        let ends = |mut stream: TcpStream| matches!(stream.read(&mut [0]), Ok(0) | Err(_));
        let mut silent: Vec<_> = (0..8).map(|_| guest.run(|| connect().unwrap())).collect();
        silent[0].write_all(b"GET / HTTP/1.1\r\n").unwrap();
        // Accepted in their order: when this one is closed, those before are served.
        let beyond = guest.run(|| connect().unwrap());
        assert!(ends(beyond));
        for stream in &silent {
            stream.set_nonblocking(true).unwrap();
            let open = stream.peek(&mut [0]);
            assert_eq!(open.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock), "one of eight was closed");
            stream.set_nonblocking(false).unwrap();
        }
        assert!(silent.into_iter().all(ends));
        assert_eq!(read(&guest, "/instanceID", "*/*").1, "one");
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn nobody_else_reaches_it_and_nothing_else_is_reached() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        slot.set_metadata(Some(metadata("one")));
        assert_eq!(read(&guest, "/instanceID", "*/*").1, "one");
        for port in [53, 81, 8080] {
            let refused = guest.run(|| TcpStream::connect((METADATA_ADDRESS, port)).map(drop));
            assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused), "{port}");
        }
        // The network's own service is where it was, for the host.
        assert_eq!(METADATA, METADATA_ADDRESS);
        visit(METADATA).unwrap();

        let namespace = slot.namespace_fd().unwrap();
        let list = within(&namespace, || lab::ip("-o -4 addr show dev eth0"));
        let inside: Ipv4Addr = list.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
        lab::ip(&format!("route add {METADATA_ADDRESS}/32 via {inside}"));
        assert!(!reaches(), "the host reached it");
        assert!(!within(&namespace, reaches), "a process inside the namespace reached it");
        guest.run(|| lab::ip("addr add 169.254.0.20/30 dev eth0"));
        let forged = guest.run(|| {
            lab::sh("ip route replace 169.254.169.254 via 169.254.0.22 src 169.254.0.20; ip route get 169.254.169.254")
        });
        assert!(forged.contains("src 169.254.0.20"), "{forged}");
        assert!(!guest.run(reaches), "a forged source reached it");
        guest.visit(INTERNET).unwrap();
        network.destroy_all().await.unwrap();
    });
}

#[test]
fn a_slot_of_an_earlier_version_has_it_when_it_is_adopted() {
    on_a_host(|lab| async move {
        let network = lab.network(0).await;
        let slot = network.acquire().await.unwrap();
        let guest = Guest::boot(&slot);
        slot.set_metadata(Some(metadata("one")));
        let namespace = slot.namespace_fd().unwrap();
        let index = slot.index();
        drop(slot);
        network.close().await;
        within(&namespace, || lab::ip("addr del 169.254.169.254/32 dev tap0"));
        for _ in 0..2 {
            let adoption = lab.adoption().await;
            let slot = adoption.adopt(index, Policy::default()).await.unwrap();
            assert_eq!(read(&guest, "/", "*/*").0, 404);
            slot.set_metadata(Some(metadata("one")));
            assert_eq!(read(&guest, "/instanceID", "*/*").1, "one");
            drop(slot);
            adoption.finish(Orphans::Keep).await.close().await;
        }
        network::destroy_all(&lab.instance, lab.home.path()).await.unwrap();
    });
}
