//! Two real hops over sockets: client → control plane's proxy → agent's proxy → a program behind a port.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use dial::Dialler;
use edge::{Admission, Backend, Hop, Proxy, Refusal, Target};
use futures_util::{SinkExt, StreamExt, stream};
use model::CapsuleId;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

/// The agent's side: dials ports of this machine and counts.
#[derive(Default)]
struct Guest {
    gone: AtomicBool,
    generation: AtomicU64,
    dials: AtomicUsize,
    leases: AtomicUsize,
    life: Mutex<CancellationToken>,
}

struct Lease(Arc<Guest>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct GuestBackend(Arc<Guest>);

impl Backend for GuestBackend {
    async fn admit(&self, target: Target) -> Result<Admission, Refusal> {
        let guest = Arc::clone(&self.0);
        if guest.gone.load(Ordering::SeqCst) {
            return Err(Refusal::Unknown);
        }
        guest.leases.fetch_add(1, Ordering::SeqCst);
        let dialler = Dialler::new({
            let guest = Arc::clone(&guest);
            move || {
                guest.dials.fetch_add(1, Ordering::SeqCst);
                TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target.port)))
            }
        });
        let generation = guest.generation.load(Ordering::SeqCst);
        let gone = guest.life.lock().unwrap().clone();
        Ok(Admission { generation, dialler, gone, lease: Box::new(Lease(guest)) })
    }
}

/// The control plane's side: everything is on one agent.
struct AgentBackend(SocketAddr);

impl Backend for AgentBackend {
    async fn admit(&self, _: Target) -> Result<Admission, Refusal> {
        let agent = self.0;
        Ok(Admission::beyond(Dialler::new(move || TcpStream::connect(agent))))
    }
}

struct Chain {
    guest: Arc<Guest>,
    agent: Proxy<GuestBackend>,
    server: Proxy<AgentBackend>,
    address: SocketAddr,
    target: Target,
    /// What the program in the guest saw ending.
    ended: mpsc::UnboundedReceiver<()>,
}

impl Chain {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        client().get(self.url(path)).send().await.unwrap()
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listen::Listener::serve(listener, router, listen::Limits::default()).address().unwrap()
}

async fn chain() -> Chain {
    let (ended_tx, ended) = mpsc::unbounded_channel();
    let program = serve(program(ended_tx)).await;
    chain_to(program.port(), ended).await
}

async fn chain_to(port: u16, ended: mpsc::UnboundedReceiver<()>) -> Chain {
    let guest = Arc::new(Guest::default());
    let agent = Proxy::new(GuestBackend(Arc::clone(&guest)), Hop::ToGuest);
    let routed = agent.clone();
    let agent_address =
        serve(Router::new().route("/proxy/{*rest}", any(move |r: Request| async move { routed.serve(r).await }))).await;
    let server = Proxy::new(AgentBackend(agent_address), Hop::ToAgent);
    let target = Target { capsule: CapsuleId::random(), port };
    let forward = server.clone();
    let address = serve(Router::new().fallback(move |r: Request| async move {
        forward
            .forward(target, r)
            .await
            .unwrap_or_else(|refusal| (StatusCode::BAD_GATEWAY, format!("{refusal:?}")).into_response())
    }))
    .await;
    Chain { guest, agent, server, address, target, ended }
}

/// What runs in the guest.
fn program(ended: mpsc::UnboundedSender<()>) -> Router {
    Router::new()
        .route("/echo", post(|body: Body| async move { Response::new(body) }))
        .route("/ws", get(|ws: WebSocketUpgrade| async { ws.protocols(["chat"]).on_upgrade(ws_echo) }))
        .route("/events", get(|| async { ([(header::CONTENT_TYPE, "text/event-stream")], events()) }))
        .route("/endless", get(endless).with_state(ended))
        .route("/redirect", get(|uri: Uri, headers: HeaderMap| async move { redirect(&uri, &headers) }))
        .route("/upgrade", get(raw_upgrade))
        .fallback(|request: Request| async move { seen(&request) })
}

fn seen(request: &Request) -> String {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let names = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "keep-alive", "x-mine"];
    format!("{} {}|{}", request.method(), request.uri(), names.map(header).join("|"))
}

async fn ws_echo(mut socket: axum::extract::ws::WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// One event at once, then silence.
fn events() -> Body {
    let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"data: 1\n\n")) });
    Body::from_stream(first.chain(stream::pending()))
}

/// Says when the client has gone.
async fn endless(State(ended): State<mpsc::UnboundedSender<()>>) -> Body {
    struct OnDrop(mpsc::UnboundedSender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let guard = OnDrop(ended);
    Body::from_stream(stream::unfold((guard, true), |(guard, first)| async move {
        if !first {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), (guard, false)))
    }))
}

fn redirect(uri: &Uri, headers: &HeaderMap) -> Response {
    let host = headers[header::HOST].to_str().unwrap();
    let to = uri.query().unwrap_or_default().replace("HOST", host);
    (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
}

/// A protocol that is no WebSocket: shouts back what it reads.
async fn raw_upgrade(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            io.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap();
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "shout")]).into_response()
}

#[tokio::test]
async fn paths_and_headers_arrive_as_they_should() {
    let chain = chain().await;
    for path in ["/", "/a/", "/a//b", "/a%2Fb/%20", "/x?q=%2F&r", "/a/?"] {
        let answer =
            client().get(chain.url(path)).header("keep-alive", "5").header("x-mine", "1").send().await.unwrap();
        let text = answer.text().await.unwrap();
        let (request, headers) = text.split_once('|').unwrap();
        assert_eq!(request, format!("GET {path}"));
        let host = format!("localhost:{}|127.0.0.1|{}|http|-|1", chain.target.port, chain.address);
        assert_eq!(headers, host, "{path}");
    }
    assert_eq!(chain.guest.dials.load(Ordering::SeqCst), 1, "connections are kept");
}

#[tokio::test]
async fn redirects_survive_both_hops() {
    let chain = chain().await;
    for (location, seen) in [
        ("/login/", "/login/"),
        ("http://HOST/abs?x", "/abs?x"),
        ("//HOST/x", "//HOST/x"),
        ("https://example.com/", "https://example.com/"),
        ("next", "next"),
    ] {
        let answer = chain.get(&format!("/redirect?{location}")).await;
        let seen = seen.replace("HOST", &format!("localhost:{}", chain.target.port));
        assert_eq!(answer.headers()[header::LOCATION], seen, "{location}");
    }
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let chain = chain().await;
    let sent: Vec<u8> = (0..8 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let chunks: Vec<_> = sent.chunks(60_000).map(|c| Ok::<_, Infallible>(Bytes::copy_from_slice(c))).collect();
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let answer = client().post(chain.url("/echo")).body(body).send().await.unwrap();
    assert!(answer.bytes().await.unwrap() == sent);
}

#[tokio::test]
async fn websockets_echo() {
    let chain = chain().await;
    let mut request =
        tungstenite::client::IntoClientRequest::into_client_request(format!("ws://{}/ws", chain.address)).unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    let large = tungstenite::Message::binary(vec![7; 8 << 20]);
    for message in [tungstenite::Message::text("hello"), large] {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|m| m.is_ok()) {}
}

#[tokio::test]
async fn other_upgrades_pass() {
    let chain = chain().await;
    let mut socket = TcpStream::connect(chain.address).await.unwrap();
    socket
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    socket.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HELLO");
}

#[tokio::test]
async fn events_come_one_by_one() {
    let chain = chain().await;
    let mut stream = chain.get("/events").await.bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn refusals_reach_the_control_plane() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let chain = chain_to(closed, mpsc::unbounded_channel().1).await;
    assert_eq!(chain.get("/").await.text().await.unwrap(), "PortClosed");
    assert!(chain.guest.dials.load(Ordering::SeqCst) > 3, "tried again");
    chain.guest.gone.store(true, Ordering::SeqCst);
    assert_eq!(chain.get("/").await.text().await.unwrap(), "Unknown");
}

#[tokio::test]
async fn a_guest_that_speaks_no_http_is_a_bad_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chain = chain_to(listener.local_addr().unwrap().port(), mpsc::unbounded_channel().1).await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"SSH-2.0-x\r\n\r\n").await;
        }
    });
    assert_eq!(chain.get("/").await.text().await.unwrap(), "BadAnswer");
}

#[tokio::test]
async fn a_guest_cannot_forge_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chain = chain_to(listener.local_addr().unwrap().port(), mpsc::unbounded_channel().1).await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 1024]).await;
        let _ = socket.write_all(b"HTTP/1.0 200 OK\r\nx-wrenn-refusal: unknown\r\n\r\nfine").await;
    });
    let answer = chain.get("/").await;
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, reqwest::Version::HTTP_11));
    assert_eq!(answer.text().await.unwrap(), "fine");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_upstream() {
    let mut chain = chain().await;
    let mut stream = chain.get("/endless").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    chain.ended.recv().await.unwrap();
    while chain.guest.leases.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn answers_and_tunnels_are_cut_by_rst() {
    type Way = (&'static str, fn(&Chain));
    let ways: [Way; 3] = [
        ("reset on the server", |chain| chain.server.reset(chain.target.capsule)),
        ("reset on the host", |chain| chain.agent.reset(chain.target.capsule)),
        ("the life ends", |chain| chain.guest.life.lock().unwrap().cancel()),
    ];
    for (way, cut) in ways {
        let chain = chain().await;
        let mut sockets = Vec::new();
        for head in [
            "GET /events HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\nhi",
        ] {
            let mut socket = TcpStream::connect(chain.address).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            while !(got.ends_with(b"data: 1\n\n\r\n") || got.ends_with(b"HI")) {
                got.push(socket.read_u8().await.unwrap());
            }
            sockets.push(socket);
        }
        chain.guest.gone.store(true, Ordering::SeqCst);
        cut(&chain);
        for (index, mut socket) in sockets.into_iter().enumerate() {
            let error = socket.read(&mut [0; 64]).await.expect_err("a reset, not an end");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{way} {index}");
        }
        assert_eq!(chain.get("/").await.text().await.unwrap(), "Unknown");
    }
}

#[tokio::test]
async fn another_life_gets_other_connections() {
    let chain = chain().await;
    chain.get("/").await.bytes().await.unwrap();
    chain.guest.generation.store(1, Ordering::SeqCst);
    chain.get("/").await.bytes().await.unwrap();
    assert_eq!(chain.guest.dials.load(Ordering::SeqCst), 2);
    chain.agent.evict(chain.target.capsule);
    chain.get("/").await.bytes().await.unwrap();
    assert_eq!(chain.guest.dials.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn control_routes_are_hidden() {
    let chain = chain_to(edge::GUEST_DAEMON_PORT, mpsc::unbounded_channel().1).await;
    assert_eq!(chain.get("/init").await.text().await.unwrap(), "Hidden");
}
