//! The API over a real fleet and database; its host is the fleet's own test agent, whose ports lead to a program
//! of this test.

use crate::agent::Agent;
use api::ApiState;
use axum::extract::Request;
use axum::routing::any;
use dial::Dialler;
use edge::{Admission, Backend, Hop, Proxy, Refusal, Target};
use fleet::{Fleet, LocalHost};
use identity::Identity;
use model::{HostId, HostStatus, Secret, TeamId};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use store::Store;
use tokio::net::{TcpListener, TcpStream, UnixListener};

pub const HOST_TOKEN: &str = "host token";

pub struct Api {
    pub base: String,
    pub address: SocketAddr,
    pub key: String,
    pub e2b_key: String,
    /// Of another team.
    pub other_key: String,
    pub agent: Agent,
    pub fleet: Fleet,
    pub host: HostId,
    client: Client,
    _directory: tempfile::TempDir,
}

/// Every port of a running sandbox is this program; port 1 is closed.
#[derive(Clone)]
struct Guest {
    agent: Agent,
    program: SocketAddr,
}

impl Backend for Guest {
    async fn admit(&self, target: Target) -> Result<Admission, Refusal> {
        let status = self.agent.world().sandboxes.get(&target.capsule.to_string()).map(|s| s.status.clone());
        match status.as_deref() {
            Some("running") => {}
            Some(_) => return Err(Refusal::NotRunning),
            None => return Err(Refusal::Unknown),
        }
        let program = self.program;
        let dialler = Dialler::new(move || async move {
            match target.port {
                1 => Err(std::io::ErrorKind::ConnectionRefused.into()),
                _ => TcpStream::connect(program).await,
            }
        });
        Ok(Admission::beyond(dialler))
    }
}

impl Api {
    pub async fn start() -> Self {
        Self::with_program(axum::Router::new()).await
    }

    pub async fn with_program(program: axum::Router) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent::new();
        let program = serve(program).await;
        let ports = Proxy::new(Guest { agent: agent.clone(), program }, Hop::ToGuest);
        let socket = directory.path().join("agent.sock");
        serve_agent(&agent, ports, &socket);

        let options = store::Options { directory: directory.path().to_owned(), database_url: None };
        let store = Store::open(&options).await.unwrap();
        let identity = Identity::new(store.clone());
        let first = identity.bootstrap().await.unwrap().unwrap();
        let (_, other) = identity.create_key(TeamId::PLATFORM, None, None).await.unwrap();
        let fleet = Fleet::start(store, bus::Bus::default());
        let host = HostId::random();
        fleet.add_local_host(LocalHost { socket, id: host, token: Secret::new(HOST_TOKEN) }).await.unwrap();
        while fleet.hosts().await.unwrap()[0].status != HostStatus::Online {
            tokio::task::yield_now().await;
        }
        let address = serve(api::router(ApiState::new(fleet.clone(), identity, "1.2.3"))).await;
        Self {
            base: format!("http://{address}"),
            address,
            key: first.key.wrenn(),
            e2b_key: first.key.e2b(),
            other_key: other.wrenn(),
            agent,
            fleet,
            host,
            client: Client::builder().no_proxy().build().unwrap(),
            _directory: directory,
        }
    }

    /// A request without a key.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).header("X-API-Key", &self.key)
    }

    pub async fn post(&self, path: &str, body: Value) -> Response {
        self.request(Method::POST, path).body(body.to_string()).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// A running capsule's id, made through Wrenn's API.
    pub async fn running(&self) -> String {
        let answer = self.post("/v1/capsules?wait=60", json!({})).await;
        let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert_eq!((status, body["status"].as_str()), (StatusCode::ACCEPTED, Some("running")), "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    pub async fn paused(&self) -> String {
        let id = self.running().await;
        let answer = self.post(&format!("/v1/capsules/{id}/pause?wait=60"), json!({})).await;
        assert_eq!(answer.json::<Value>().await.unwrap()["status"], "paused");
        id
    }
}

pub async fn serve(router: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listen::Listener::serve(listener, router, listen::Limits::default()).address().unwrap()
}

fn serve_agent(agent: &Agent, ports: Proxy<Guest>, socket: &std::path::Path) {
    let service = connectrpc::Router::new().add_service(Arc::new(agent.clone())).into_axum_service();
    let router = axum::Router::new()
        .route("/proxy/{*rest}", any(move |request: Request| async move { ports.serve(request).await }))
        .fallback_service(service);
    let listener = UnixListener::bind(socket).unwrap();
    listen::Listener::serve(listener, router, listen::Limits::default());
}
