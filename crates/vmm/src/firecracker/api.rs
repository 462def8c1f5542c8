//! Firecracker's API: HTTP over a Unix socket, JSON both ways (`src/firecracker/swagger/firecracker.yaml`, v1.16).

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::{control, limits};

/// Name of the API socket in a machine's directory.
pub(super) const SOCKET: &str = "firecracker.sock";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It ended, or speaks something else.
    #[error("it does not answer: {0}")]
    Gone(String),
    /// It has not answered in time.
    #[error("no answer within {} s", limits::COMMAND.as_secs())]
    TimedOut,
    /// It would not.
    #[error("{0}")]
    Refused(String),
    /// Its answer cannot be read.
    #[error("its answer is not valid: {0}")]
    Invalid(String),
}

/// How Firecracker says why not.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// The way to one Firecracker. A request has a connection of its own: they are few, and then nothing stale is left when
/// one is given up.
#[derive(Debug)]
pub(super) struct Api {
    /// A socket's path has at most 107 bytes (unix(7)); through this it is short whatever the directory is called.
    runtime_dir: File,
}

impl Api {
    pub(super) fn of(runtime_dir: &Path) -> io::Result<Self> {
        Ok(Self { runtime_dir: File::open(runtime_dir)? })
    }

    /// A connection, as soon as Firecracker listens.
    pub(super) async fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        control::reach(&self.runtime_dir, SOCKET, limit).await
    }

    /// A request that changes something.
    pub(super) async fn change(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Invalid(error.to_string()))?;
        self.request(method, path, body.into()).await.map(drop)
    }

    /// The same, at once or not at all.
    pub(super) async fn change_soon(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let change = self.change(method, path, body);
        tokio::time::timeout(limits::COMMAND, change).await.map_err(|_| ApiError::TimedOut)?
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let get = self.request(Method::GET, path, Bytes::new());
        let answer = tokio::time::timeout(limits::COMMAND, get).await.map_err(|_| ApiError::TimedOut)??;
        serde_json::from_slice(&answer).map_err(|error| ApiError::Invalid(error.to_string()))
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let gone = |error: &dyn std::error::Error| ApiError::Gone(error.to_string());
        let stream = self.connect(Duration::ZERO).await.map_err(|error| gone(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ApiError::Invalid(error.to_string()))?;
        // It ends when the sender is dropped, with the answer or without.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| gone(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limits::ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| ApiError::Invalid(error.to_string()))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ApiError {
    let fault = serde_json::from_slice::<Fault>(body).map(|fault| fault.fault_message);
    ApiError::Refused(fault.unwrap_or_else(|_| status.to_string()))
}
