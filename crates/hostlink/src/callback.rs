//! The agent's end: telling the server what happened without being asked.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// Where events go, under the server's base URL.
pub const EVENTS_PATH: &str = "/v1/hosts/sandbox-events";
/// An event about the host itself: the server looks at it at once.
pub const HOST_CHANGED: &str = "host.changed";
/// Header with the host's token.
pub const HOST_TOKEN_HEADER: &str = "x-host-token";
/// Most events in one request.
pub const EVENTS_MAX: usize = 256;
/// Limit of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Body of `POST /v1/hosts/sandbox-events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsBody {
    /// `host-…`; must be the token's.
    pub host_id: String,
    /// In the order they happened; at most [`EVENTS_MAX`].
    pub events: Vec<SandboxEvent>,
}

/// Something that happened to a sandbox on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEvent {
    /// The same when the event is sent again.
    pub id: Uuid,
    /// `cl-…`; empty in [`HOST_CHANGED`].
    pub sandbox_id: String,
    /// `sandbox.auto_paused`, `sandbox.auto_killed`, `sandbox.crashed` or [`HOST_CHANGED`].
    pub event: String,
    /// Status it is in now.
    pub status: String,
    /// Why, as in `model::EndReason`.
    #[serde(default)]
    pub reason: String,
    /// Unix time in milliseconds.
    pub timestamp_ms: u64,
}

/// A server to report to, and the credential for it.
#[derive(Debug, Clone)]
pub struct Callback {
    client: reqwest::Client,
    url: String,
    host_id: String,
    token: String,
}

/// Why a report did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// The request failed.
    #[error("cannot reach the control plane: {0}")]
    Transport(#[from] reqwest::Error),
    /// The server refused it.
    #[error("the control plane answered {0}")]
    Refused(u16),
}

impl Callback {
    /// Reports to the server at `base_url` as this host.
    pub fn new(base_url: &str, host_id: String, token: String) -> Result<Self, CallbackError> {
        let client = reqwest::Client::builder().timeout(REQUEST_LIMIT).no_proxy().build()?;
        Ok(Self { client, url: format!("{}{EVENTS_PATH}", base_url.trim_end_matches('/')), host_id, token })
    }

    /// Sends events once. They may arrive twice when an answer is lost: their ids stay the same.
    pub async fn send(&self, events: &[SandboxEvent]) -> Result<(), CallbackError> {
        let body = EventsBody { host_id: self.host_id.clone(), events: events.to_vec() };
        let request = self.client.post(&self.url).header(HOST_TOKEN_HEADER, &self.token).json(&body);
        let status = request.send().await?.status();
        if status.is_success() { Ok(()) } else { Err(CallbackError::Refused(status.as_u16())) }
    }
}
