//! The limits and the registry over real sockets.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::StreamExt as _;
use listen::{Handle, Limits, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

async fn start(limits: Limits) -> Result<(Handle, std::net::SocketAddr)> {
    let endless = || async {
        let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("x") });
        Body::from_stream(first.chain(futures_util::stream::pending()))
    };
    let router = Router::new().route("/", get(|| async { "ok" })).route("/endless", get(endless));
    let handle = Listener::serve(TcpListener::bind("127.0.0.1:0").await?, router, limits);
    let address = handle.address().ok_or("no address")?;
    Ok((handle, address))
}

async fn request(stream: &mut TcpStream, path: &str) -> Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// Whether the connection ends, and how, once nothing more is sent on it.
async fn end(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await
}

#[tokio::test]
async fn a_slow_head_is_cut_and_an_idle_connection_is_not() -> Result {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let (_handle, address) = start(limits).await?;
    let mut idle = TcpStream::connect(address).await?;
    assert!(request(&mut idle, "/").await?.starts_with("HTTP/1.1 200"));

    let mut slow = TcpStream::connect(address).await?;
    slow.write_all(b"GET / HT").await?;
    assert_eq!(end(&mut slow).await?, 0);

    // A keep-alive connection that begins its second head slowly is cut as well.
    let mut second = TcpStream::connect(address).await?;
    request(&mut second, "/").await?;
    second.write_all(b"G").await?;
    assert_eq!(end(&mut second).await?, 0);

    // Idle for several head limits by now, on both sides of a request.
    assert!(request(&mut idle, "/").await?.starts_with("HTTP/1.1 200"));
    let mut fresh = TcpStream::connect(address).await?;
    tokio::time::sleep(limits.head * 3).await;
    assert!(request(&mut fresh, "/").await?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_ends_after_the_idle_limit() -> Result {
    let (_handle, address) = start(Limits { idle: Duration::from_millis(100), ..Limits::default() }).await?;
    let mut stream = TcpStream::connect(address).await?;
    request(&mut stream, "/").await?;
    assert_eq!(end(&mut stream).await?, 0);
    // A stream that says nothing is not idle.
    let mut endless = TcpStream::connect(address).await?;
    request(&mut endless, "/endless").await?;
    assert!(tokio::time::timeout(Duration::from_millis(500), end(&mut endless)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_generation_is_reset_and_the_next_one_is_kept() -> Result {
    let (handle, address) = start(Limits::default()).await?;
    let mut idle = TcpStream::connect(address).await?;
    let mut streaming = TcpStream::connect(address).await?;
    let mut busy = TcpStream::connect(address).await?;
    request(&mut idle, "/").await?;
    request(&mut streaming, "/endless").await?;

    assert_eq!(handle.close_idle(), 2);
    assert_eq!(end(&mut idle).await?, 0);
    assert_eq!(end(&mut busy).await?, 0);
    busy = TcpStream::connect(address).await?;
    handle.disable_keep_alive();
    assert!(request(&mut busy, "/").await?.contains("connection: close"));

    let generation = handle.mark_generation();
    let mut fresh = TcpStream::connect(address).await?;
    handle.enable_keep_alive();
    request(&mut fresh, "/").await?;
    assert!(handle.reset_before(generation) >= 1);
    let error = end(&mut streaming).await.err().ok_or("not reset")?;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(request(&mut fresh, "/").await?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[tokio::test]
async fn stop_waits_no_longer_than_its_grace() -> Result {
    let (handle, address) = start(Limits::default()).await?;
    let mut streaming = TcpStream::connect(address).await?;
    request(&mut streaming, "/endless").await?;
    handle.stop(Duration::from_millis(50)).await;
    assert_eq!(handle.connections(), 0);
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_body_nobody_reads_costs_the_connection_only_when_it_is_long() -> Result {
    let (_handle, address) = start(Limits::default()).await?;
    // The routes read no body; this one comes after the head, and late.
    let mut stream = TcpStream::connect(address).await?;
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(b"12345").await?;
        let mut answer = [0; 4096];
        let count = stream.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..count]).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");
    }
    for more in
        ["Content-Length: 1000000000", "Content-Length: 5\r\nExpect: 100-continue", "Transfer-Encoding: chunked"]
    {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{more}: {answer}");
    }
    Ok(())
}
