//! What a guest is told about itself at the address cloud machines know, by the rules of Firecracker's MMDS, version 2:
//! `PUT /latest/api/token` gives a token for the seconds asked for, `GET` answers whoever shows one. The token is there
//! against requests that somebody tricks a program of the guest into: those can rarely set a header or a method.

mod tokens;

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::SocketType;
use serde_json::{Map, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::address::METADATA_ADDRESS;
use crate::entrance::Entrance;
use crate::{limits, listener};
use tokens::Tokens;

const PORT: u16 = 80;
const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN: &str = "x-metadata-token";
const TOKEN_TTL: &str = "x-metadata-token-ttl-seconds";
const FORWARDED: &str = "x-forwarded-for";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// What a guest is told about itself. The names in brackets are those it sees, at `/` in one object and at `/NAME` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Id of the machine (`instanceID`).
    pub instance_id: String,
    /// Id of what it was made from (`envID`).
    pub environment_id: String,
    /// Where the guest's daemon sends its log, a URL (`address`).
    pub log_address: Option<String>,
    /// SHA-512, in hex, of the token that opens the guest's daemon (`accessTokenHash`).
    pub access_token_hash: Option<String>,
}

impl Metadata {
    fn document(&self) -> Map<String, Value> {
        let entries = [
            ("instanceID", Some(&self.instance_id)),
            ("envID", Some(&self.environment_id)),
            ("address", self.log_address.as_ref()),
            ("accessTokenHash", self.access_token_hash.as_ref()),
        ];
        entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.as_str().into()))).collect()
    }
}

/// A running metadata service; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    service: Arc<Service>,
    task: AbortHandle,
}

impl Server {
    /// Starts a service inside `namespace` that knows nothing yet.
    pub(crate) async fn start(entrance: &Entrance, namespace: &Arc<OwnedFd>) -> io::Result<Self> {
        let bound = entrance.run(namespace, || listener::bind(SocketType::STREAM, METADATA_ADDRESS, PORT)).await?;
        let socket = TcpListener::from_std(bound.into())?;
        let service = Arc::new(Service::default());
        let serving = Arc::clone(&service);
        let serve = listener::serve(socket, move |stream| serve_connection(stream, Arc::clone(&serving)));
        Ok(Self { service, task: tokio::spawn(serve).abort_handle() })
    }

    /// What is told from now on.
    pub(crate) fn set(&self, metadata: Option<Metadata>) {
        *lock(&self.service.document) = metadata.map(|metadata| metadata.document());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request and its answer per connection: nothing is left to be silent on.
async fn serve_connection(stream: TcpStream, service: Arc<Service>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let answer = service.answer(request.method(), request.uri().path(), request.headers());
        async { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(limits::METADATA_HEAD_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    // A guest that is gone, errs or is too slow gets no answer; there is nobody else to tell.
    let _ = tokio::time::timeout(limits::SERVER_IDLE, connection).await;
}

type Answer = Response<Full<Bytes>>;

#[derive(Debug, Default)]
struct Service {
    document: Mutex<Option<Map<String, Value>>>,
    tokens: Mutex<Tokens>,
}

impl Service {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        match (method, path) {
            (&Method::PUT, TOKEN_PATH) => self.issue(headers),
            (&Method::PUT, _) => {
                text(StatusCode::NOT_FOUND, "only a token can be asked for with PUT: /latest/api/token")
            }
            (&Method::GET, _) => self.read(path, headers),
            _ => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET or, for a token, PUT");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, PUT"));
                answer
            }
        }
    }

    fn issue(&self, headers: &HeaderMap) -> Answer {
        // A proxy in the guest that passes everything on must not become a way to a token.
        if headers.contains_key(FORWARDED) {
            return text(
                StatusCode::BAD_REQUEST,
                "X-Forwarded-For: a token is for whoever asks, not for a proxy's client",
            );
        }
        let asked = headers.get(TOKEN_TTL).and_then(|ttl| ttl.to_str().ok()?.parse().ok());
        match asked.filter(|ttl| limits::METADATA_TOKEN_TTL_SECONDS.contains(ttl)) {
            Some(ttl_seconds) => {
                let mut answer = text(StatusCode::OK, lock(&self.tokens).issue(Instant::now(), ttl_seconds));
                answer.headers_mut().insert(TOKEN_TTL, ttl_seconds.into());
                answer
            }
            None => text(StatusCode::BAD_REQUEST, "X-metadata-token-ttl-seconds has to say for how long: 1 to 21600"),
        }
    }

    fn read(&self, path: &str, headers: &HeaderMap) -> Answer {
        let token = headers.get(TOKEN).map(HeaderValue::as_bytes);
        if !token.is_some_and(|token| lock(&self.tokens).accepts(Instant::now(), token)) {
            return text(StatusCode::UNAUTHORIZED, "X-metadata-token has to be a valid token: PUT /latest/api/token");
        }
        let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
        let content_type = if accepted.contains(JSON) { JSON } else { TEXT };
        match lock(&self.document).as_ref().and_then(|document| show(document, path, content_type)) {
            Some(shown) => reply(StatusCode::OK, content_type, shown),
            None => text(StatusCode::NOT_FOUND, "nothing is known under this name"),
        }
    }
}

/// Everything as JSON, or a list of names; one entry as JSON, or bare.
fn show(document: &Map<String, Value>, path: &str, content_type: &str) -> Option<String> {
    let name = path.trim_matches('/');
    match (name, content_type) {
        ("", JSON) => serde_json::to_string(document).ok(),
        ("", _) => Some(document.keys().map(String::as_str).collect::<Vec<_>>().join("\n")),
        (name, JSON) => document.get(name).map(Value::to_string),
        (name, _) => document.get(name)?.as_str().map(str::to_owned),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, TEXT, body)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
