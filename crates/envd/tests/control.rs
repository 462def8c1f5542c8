//! The host's routes: token, settings, standing still and going on.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::{Daemon, Result, eventually, shell};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[tokio::test]
async fn health_metrics_and_environment_are_told() -> Result {
    let daemon = Daemon::start()?;
    let reply = daemon.get("/health").await?;
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"version": envd::http::VERSION})));
    assert_eq!(reply.header("cache-control"), "no-store");
    let metrics = daemon.get("/metrics").await?.json();
    for name in ["ts", "cpu_count", "mem_total", "mem_used", "mem_cache", "mem_total_mib", "disk_total", "disk_used"] {
        assert!(metrics[name].as_u64().is_some_and(|value| value > 0), "{name}: {metrics}");
    }
    daemon.post("/init", json!({"envVars": {"A": "1"}})).await?;
    daemon.post("/init", json!({"envVars": {"B": "2"}, "sandboxId": "cl-1"})).await?;
    let envs = daemon.get("/envs").await?.json();
    assert_eq!((&envs["A"], &envs["B"], &envs["WRENN_SANDBOX_ID"]), (&json!("1"), &json!("2"), &json!("cl-1")));
    let preflight = daemon.request(Method::OPTIONS, "/process.Process/List").header("origin", "http://x");
    let reply = daemon.http(preflight.header("access-control-request-method", "POST"), "").await?;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (StatusCode::OK, "*"));
    Ok(())
}

#[tokio::test]
async fn init_configures_users_directories_and_environment() -> Result {
    let daemon = Daemon::start()?;
    let time = |second: u32| format!("2030-01-01T00:00:{second:02}.5Z");
    let init = |second, user: &str| json!({"timestamp": time(second), "defaultUser": user, "defaultWorkdir": "/usr", "envVars": {"X": "y"}});
    assert_eq!(daemon.post("/init", init(5, "nobody")).await?.status, StatusCode::NO_CONTENT);
    // Older than the last one: changes nothing, and is no error.
    assert_eq!(daemon.post("/init", init(4, "root")).await?.status, StatusCode::NO_CONTENT);
    assert_eq!(daemon.sh("id -un; pwd; echo $X").await?.text(), "nobody\n/usr\ny");
    let (_, frames) = daemon.launch(json!({"process": {"cmd": "env", "envs": {"X": "z"}}}), &[]).await?;
    assert!(frames.finish().await?.text().contains("X=z"));
    let clone = json!({"timestamp": time(6), "clone": true, "envVars": {"NEW": "1"}});
    daemon.post("/init", clone).await?;
    assert!(!daemon.sh("env").await?.text().contains("X=y"));
    let bad = daemon.request(Method::POST, "/init");
    assert_eq!(daemon.http(bad, "{").await?.status, StatusCode::BAD_REQUEST);
    assert_eq!(daemon.http(daemon.request(Method::POST, "/init"), "").await?.status, StatusCode::NO_CONTENT);
    Ok(())
}

#[tokio::test]
async fn a_token_closes_everything_but_health() -> Result {
    let mut daemon = Daemon::start()?;
    assert_eq!(daemon.post("/init", json!({"accessToken": "secret"})).await?.status, StatusCode::NO_CONTENT);
    for (method, path, status) in [
        (Method::GET, "/health", 200),
        (Method::GET, "/metrics", 401),
        (Method::GET, "/envs", 401),
        (Method::POST, "/snapshot/prepare", 401),
        (Method::POST, "/snapshot/hold", 401),
        (Method::POST, "/snapshot/release", 401),
        (Method::POST, "/init", 401),
        (Method::GET, "/files?path=/etc/passwd", 401),
        (Method::POST, "/files?path=/x", 401),
        (Method::POST, "/process.Process/List", 401),
        (Method::POST, "/filesystem.Filesystem/Stat", 401),
        (Method::GET, "/no/such/route", 401),
    ] {
        let request = daemon.request(method, path).header("content-type", "application/json");
        assert_eq!(daemon.http(request, "").await?.status.as_u16(), status, "{path}");
    }
    for body in [json!({"accessToken": "other"}), json!({"accessToken": ""})] {
        assert_eq!(daemon.post("/init", body).await?.status, StatusCode::UNAUTHORIZED);
    }
    // Knowing it is enough: as the token to be, or in the header, which also allows another one.
    assert_eq!(daemon.post("/init", json!({"accessToken": "secret"})).await?.status, StatusCode::NO_CONTENT);
    daemon.headers.insert("x-access-token", "secret".parse()?);
    assert_eq!(daemon.rpc("process.Process/List", json!({})).await?, Ok(json!({})));
    assert_eq!(daemon.post("/init", json!({"accessToken": "next"})).await?.status, StatusCode::NO_CONTENT);
    assert_eq!(daemon.get("/metrics").await?.status, StatusCode::UNAUTHORIZED);
    daemon.headers.insert("x-access-token", "next".parse()?);
    assert_eq!(daemon.get("/metrics").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_signature_opens_one_file_for_one_purpose() -> Result {
    let daemon = Daemon::start()?;
    let path = daemon.file("signed");
    std::fs::write(&path, "x")?;
    daemon.post("/init", json!({"accessToken": "secret"})).await?;
    let sign = |operation: &str, user: &str, expiration: Option<i64>| {
        let mut text = format!("{path}:{operation}:{user}:secret");
        if let Some(expiration) = expiration {
            text = format!("{text}:{expiration}");
        }
        let signature = BASE64_STANDARD_NO_PAD.encode(Sha256::digest(text));
        let signature = signature.replace('+', "%2B").replace('/', "%2F");
        let expiration = expiration.map_or(String::new(), |at| format!("&signature_expiration={at}"));
        let user = if user.is_empty() { String::new() } else { format!("&username={user}") };
        format!("/files?path={path}{user}&signature=v1_{signature}{expiration}")
    };
    let (past, future) = (Some(1_000_000_000), Some(32_000_000_000));
    for (url, status, message) in [
        (sign("read", "", None), 200, ""),
        (sign("read", "", future), 200, ""),
        (sign("read", "root", future), 200, ""),
        (sign("read", "", past), 401, "signature is already expired"),
        (sign("write", "", None), 401, "invalid signature"),
        (sign("read", "", None) + "&username=root", 401, "invalid signature"),
        (sign("read", "", None) + "&signature_expiration=32000000000", 401, "invalid signature"),
        (format!("/files?path={path}"), 401, "missing signature query parameter"),
    ] {
        let reply = daemon.get(&url).await?;
        assert_eq!(reply.status.as_u16(), status, "{url}");
        if status == 401 {
            assert_eq!(reply.json(), json!({"code": 401, "message": message}));
        }
    }
    let wrong = daemon.request(Method::GET, &sign("read", "", None)).header("x-access-token", "wrong");
    let reply = daemon.http(wrong, "").await?;
    assert_eq!(reply.json()["message"], "access token present in header but does not match");
    Ok(())
}

#[tokio::test]
async fn a_standstill_ends_once_and_old_connections_with_it() -> Result {
    let daemon = Daemon::start()?;
    let (pid, mut old) = daemon.launch(shell("sleep 60"), &[]).await?;
    let reply = daemon.http(daemon.request(Method::POST, "/snapshot/prepare"), "").await?;
    assert_eq!((reply.status, reply.header("connection")), (StatusCode::NO_CONTENT, "close"));

    // A restored machine: the first question resets what is older than the standstill, on a new connection.
    let reply = daemon.get("/health").await?;
    assert_eq!((reply.status, reply.header("connection")), (StatusCode::OK, ""));
    assert!(old.next().await.is_err());
    // What comes after lives, whatever else ends the standstill once more.
    let mut new = daemon.stream("process.Process/Connect", json!({"process": {"pid": pid}}), &[]).await?;
    new.next().await?;
    assert_eq!(daemon.post("/init", json!({})).await?.status, StatusCode::NO_CONTENT);
    daemon.get("/health").await?;
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    daemon.rpc("process.Process/SendSignal", kill).await??;
    assert_eq!(new.finish().await?.exit_code(), -1);
    Ok(())
}

#[tokio::test]
async fn a_machine_that_was_only_held_keeps_its_connections_and_a_clone_of_it_does_not() -> Result {
    let daemon = Daemon::start()?;
    let (pid, mut old) = daemon.launch(shell("echo one; sleep 60"), &[]).await?;
    // A clone is spoken to over a connection of its own: the one of this request ends with its answer.
    let hold = async || {
        let request = daemon.request(Method::POST, "/snapshot/hold").header("connection", "close");
        daemon.http(request, "").await
    };
    assert_eq!(hold().await?.status, StatusCode::NO_CONTENT);
    // Somebody's question changes nothing; the machine is still itself.
    daemon.get("/health").await?;
    let released = daemon.http(daemon.request(Method::POST, "/snapshot/release"), "").await?;
    assert_eq!(released.status, StatusCode::NO_CONTENT);
    assert_eq!(daemon.post("/init", json!({})).await?.status, StatusCode::NO_CONTENT);
    old.next().await?;

    // In a clone the first it hears is who it is.
    hold().await?;
    assert_eq!(daemon.post("/init", json!({"clone": true})).await?.status, StatusCode::NO_CONTENT);
    let end = loop {
        match old.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err());
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    daemon.rpc("process.Process/SendSignal", kill).await??;
    Ok(())
}

/// Where loopback servers are offered: loopback as well, but not the address they listen on. Of one daemon only,
/// since all tests share the loopback interface.
const FORWARD: &str = "127.0.7.7";

/// A listener on one of the two loopback addresses, and the same port of the other one, kept from everybody: tests
/// that run beside this one have servers, too.
async fn listen_alone(address: IpAddr) -> Result<(TcpListener, TcpSocket)> {
    loop {
        let (other, socket) = match address {
            IpAddr::V4(_) => (IpAddr::from(Ipv6Addr::LOCALHOST), TcpSocket::new_v6()?),
            IpAddr::V6(_) => (IpAddr::from(Ipv4Addr::LOCALHOST), TcpSocket::new_v4()?),
        };
        socket.bind((other, 0).into())?;
        match TcpListener::bind((address, socket.local_addr()?.port())).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            listener => return Ok((listener?, socket)),
        }
    }
}

/// Asks the server behind the forwarded port, if one answers.
async fn greeting(port: u16) -> Result<Option<String>> {
    let Ok(mut stream) = TcpStream::connect((FORWARD, port)).await else { return Ok(None) };
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok((!text.is_empty()).then_some(text))
}

async fn serve_greetings(listener: TcpListener) -> std::io::Result<()> {
    loop {
        listener.accept().await?.0.write_all(b"hello").await?;
    }
}

#[tokio::test]
async fn a_loopback_server_is_offered_to_the_host_except_during_a_standstill() -> Result {
    let daemon = Daemon::start_with(&["--forward-address", FORWARD])?;
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let (listener, _other) = listen_alone(address).await?;
        let port = listener.local_addr()?.port();
        let server = tokio::spawn(serve_greetings(listener));
        assert_eq!(eventually(async || greeting(port).await).await?, "hello");
        daemon.http(daemon.request(Method::POST, "/snapshot/prepare"), "").await?;
        assert!(TcpStream::connect((FORWARD, port)).await.is_err());
        daemon.get("/health").await?;
        assert_eq!(eventually(async || greeting(port).await).await?, "hello");
        server.abort();
        let gone = async || Ok(TcpStream::connect((FORWARD, port)).await.is_err().then_some(()));
        eventually(gone).await?;
    }
    Ok(())
}

/// With the limits a guest has: no shorter ones would show that they are the right ones.
#[tokio::test]
async fn an_idle_minute_closes_no_connection_but_ten_seconds_of_a_head_do() -> Result {
    let daemon = Daemon::start()?;
    let mut idle = TcpStream::connect(&daemon.address).await?;
    let mut buffer = [0; 4096];
    let mut health = async || {
        idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let count = idle.read(&mut buffer).await?;
        Ok::<_, std::io::Error>(buffer.get(..count).unwrap_or_default().starts_with(b"HTTP/1.1 200"))
    };
    assert!(health().await?);
    let began = Instant::now();
    let mut trickled = TcpStream::connect(&daemon.address).await?;
    let mut head = b"GET /health HTTP/1.1\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x'));
    let cut = loop {
        let byte = head.next().copied().unwrap_or_default();
        let mut answer = [0; 64];
        // Reading the end, or a reset, is how one learns of it.
        let read = tokio::time::timeout(Duration::from_millis(250), trickled.read(&mut answer)).await;
        if read.is_ok() || trickled.write_all(&[byte]).await.is_err() {
            break began.elapsed();
        }
    };
    assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&cut), "cut after {cut:?}");
    tokio::time::sleep(Duration::from_secs(61).saturating_sub(began.elapsed())).await;
    assert!(health().await?);
    Ok(())
}
