//! A capsule as E2B's clients want to see it.

use crate::failure::Failure;
use crate::params::param;
use crate::state::ApiState;
use axum::extract::FromRequestParts;
use chrono::{DateTime, TimeDelta, Utc};
use http::request::Parts;
use model::egress::Block;
use model::lifetime::AtEnd;
use model::{Capsule, CapsuleId, CapsuleStatus, Egress, Error, Lifetime};
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the guest daemon's API; clients decide by it what they dare to use (`envd` implements all of it).
const ENVD_VERSION: &str = "0.6.9";
/// Required by clients, read by none.
const CLIENT_ID: &str = "wrenn";

/// Answer of create and connect.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    envd_version: &'static str,
    envd_access_token: Option<String>,
    traffic_access_token: Option<String>,
    /// `null`: the client's own setting counts.
    domain: Option<String>,
}

impl From<&Capsule> for Sandbox {
    fn from(capsule: &Capsule) -> Self {
        Self {
            template_id: capsule.template.clone(),
            sandbox_id: capsule.id.digits(),
            client_id: CLIENT_ID,
            alias: capsule.template.clone(),
            envd_version: ENVD_VERSION,
            envd_access_token: Some(capsule.access_token.expose().to_owned()),
            traffic_access_token: None,
            domain: None,
        }
    }
}

/// One of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    started_at: DateTime<Utc>,
    end_at: DateTime<Utc>,
    envd_version: &'static str,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    state: State,
    metadata: BTreeMap<String, String>,
}

/// Answer of get.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDetail {
    #[serde(flatten)]
    listed: ListedSandbox,
    envd_access_token: Option<String>,
    allow_internet_access: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    domain: Option<String>,
    lifecycle: Lifecycle,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: AtEnd,
}

/// What it may reach, where anything was said about that.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    allow_out: Vec<Block>,
    deny_out: Vec<Block>,
}

impl Network {
    fn of(egress: &Egress) -> Option<Self> {
        let (allow_out, deny_out) = (egress.allow_out.clone(), egress.deny_out.clone());
        (!allow_out.is_empty() || !deny_out.is_empty()).then_some(Self { allow_out, deny_out })
    }
}

/// The only two its clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    Paused,
}

impl State {
    /// Of a status; `None` = as far as E2B is concerned there is no such sandbox.
    pub(crate) fn of(status: CapsuleStatus) -> Option<Self> {
        match status {
            CapsuleStatus::Starting | CapsuleStatus::Running | CapsuleStatus::Pausing => Some(Self::Running),
            CapsuleStatus::Paused | CapsuleStatus::Resuming => Some(Self::Paused),
            CapsuleStatus::Stopping | CapsuleStatus::Stopped | CapsuleStatus::Missing | CapsuleStatus::Error => None,
        }
    }

    /// The statuses a filter for it lists.
    pub(crate) fn statuses(self) -> [CapsuleStatus; 2] {
        match self {
            Self::Running => [CapsuleStatus::Running, CapsuleStatus::Pausing],
            Self::Paused => [CapsuleStatus::Paused, CapsuleStatus::Resuming],
        }
    }
}

impl ListedSandbox {
    /// `None` when E2B has no word for its status.
    pub(crate) fn of(capsule: &Capsule) -> Option<Self> {
        Some(Self {
            template_id: capsule.template.clone(),
            sandbox_id: capsule.id.digits(),
            client_id: CLIENT_ID,
            alias: capsule.template.clone(),
            started_at: capsule.started_at.unwrap_or(capsule.created_at),
            end_at: end_at(capsule),
            envd_version: ENVD_VERSION,
            cpu_count: capsule.size.vcpus,
            memory_mb: capsule.size.memory_mb,
            disk_size_mb: capsule.size.disk_mb,
            state: State::of(capsule.status)?,
            metadata: capsule.metadata.clone(),
        })
    }
}

impl SandboxDetail {
    /// `None` when E2B has no word for its status.
    pub(crate) fn of(capsule: &Capsule) -> Option<Self> {
        Some(Self {
            listed: ListedSandbox::of(capsule)?,
            envd_access_token: Some(capsule.access_token.expose().to_owned()),
            allow_internet_access: capsule.surroundings.egress.allow_internet,
            network: Network::of(&capsule.surroundings.egress),
            domain: None,
            lifecycle: Lifecycle { auto_resume: false, on_timeout: capsule.lifetime.at_end() },
        })
    }
}

/// The field is required, also for a capsule that ends only when idle, or never: then a century after its creation.
fn end_at(capsule: &Capsule) -> DateTime<Utc> {
    let idle_since = capsule.last_active_at.unwrap_or(capsule.created_at);
    match capsule.lifetime {
        Lifetime::Until { unix_ms, .. } => {
            i64::try_from(unix_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
        }
        Lifetime::Idle { ttl_s: 0 } => capsule.created_at + TimeDelta::days(36_525),
        Lifetime::Idle { ttl_s } => idle_since + TimeDelta::seconds(ttl_s.into()),
    }
}

/// `{id}` of the path. A text that is no id names no sandbox; some clients append `-{client}` to it.
pub(crate) struct SandboxId(pub(crate) CapsuleId);

impl FromRequestParts<ApiState> for SandboxId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let text = param(parts, state, "id").await?;
        let bare = text.split('-').next().unwrap_or_default();
        let id = CapsuleId::parse_lenient(&text).or_else(|_| CapsuleId::parse_lenient(bare));
        Ok(Self(id.map_err(|_| not_found())?))
    }
}

pub(crate) fn not_found() -> Error {
    Error::not_found("sandbox")
}

/// A timeout from now on.
pub(crate) fn until(timeout_s: u32, at_end: AtEnd) -> Lifetime {
    let now_ms = u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default();
    Lifetime::Until { unix_ms: now_ms + u64::from(timeout_s) * 1000, at_end }
}
