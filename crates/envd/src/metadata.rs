//! What the host tells a guest about itself, at the address cloud machines know (Firecracker's MMDS, version 2).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::daemon::Daemon;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// One question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer.
const ANSWER_BYTES: usize = 64 * 1024;
/// How long, and how often at first and at last, a daemon asks that got no answer.
const ASKING: Duration = Duration::from_mins(1);
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The host's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Id of the capsule.
    #[serde(rename = "instanceID")]
    pub sandbox_id: String,
    /// Id of its template.
    #[serde(rename = "envID")]
    pub template_id: String,
    #[serde(rename = "accessTokenHash")]
    token_hash: String,
}

impl Metadata {
    /// Whether this is the token the host has set: it publishes the SHA-512 in hex.
    pub fn vouches_for(&self, token: &str) -> bool {
        let hash = hex::encode(Sha512::digest(token));
        hash.as_bytes().ct_eq(self.token_hash.to_ascii_lowercase().as_bytes()).into()
    }
}

/// Asks once.
pub async fn ask() -> io::Result<Metadata> {
    tokio::time::timeout(PATIENCE, async {
        let token = Request::put("/latest/api/token").header("x-metadata-token-ttl-seconds", "60");
        let token = exchange(token).await?;
        let question = Request::get("/").header("x-metadata-token", token).header("accept", "application/json");
        serde_json::from_slice(&exchange(question).await?).map_err(io::Error::other)
    })
    .await?
}

async fn exchange(request: http::request::Builder) -> io::Result<Vec<u8>> {
    let stream = TokioIo::new(TcpStream::connect(ADDRESS).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    let talk = async move {
        let request = request.header("host", ADDRESS.ip().to_string()).body(Body::empty()).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(format!("metadata: {}", response.status())));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
        Ok(body.to_bytes().to_vec())
    };
    // The connection is driven beside the talk. The host may close it before all of the answer was taken from it.
    tokio::join!(talk, connection).0
}

/// The one running attempt to learn the metadata.
#[derive(Debug, Default)]
pub struct Inquiry(Mutex<Option<AbortHandle>>);

impl Inquiry {
    /// Asks in the background until there is an answer, for a minute at most; an earlier attempt is given up.
    pub fn begin(&self, daemon: &Arc<Daemon>) {
        let daemon = Arc::clone(daemon);
        let task = tokio::spawn(async move {
            let deadline = Instant::now() + ASKING;
            let mut pause = PAUSE.0;
            while Instant::now() < deadline {
                if let Ok(metadata) = ask().await {
                    let known = tokio::task::spawn_blocking(move || daemon.learn(&metadata)).await;
                    if let Err(error) = known {
                        tracing::warn!(%error, "metadata");
                    }
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        });
        self.replace(Some(task.abort_handle()));
    }

    /// Gives up: nothing may run by itself while a snapshot is made.
    pub fn end(&self) {
        self.replace(None);
    }

    fn replace(&self, next: Option<AbortHandle>) {
        let former = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let Some(former) = former {
            former.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash() -> Result<(), serde_json::Error> {
        let json = r#"{"instanceID": "cl-1", "address": "x", "accessTokenHash":
            "DDAF35A193617ABACC417349AE20413112E6FA4E89A97EA20A9EEEE64B55D39A2192992A274FC1A836BA3C23A3FEEBBD454D4423643CE80E2A9AC94FA54CA49F"}"#;
        let metadata: Metadata = serde_json::from_str(json)?;
        assert_eq!((metadata.sandbox_id.as_str(), metadata.template_id.as_str()), ("cl-1", ""));
        assert!(metadata.vouches_for("abc"));
        assert!(!metadata.vouches_for("abd"));
        assert!(!Metadata::default().vouches_for(""));
        Ok(())
    }
}
