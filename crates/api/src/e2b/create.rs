//! `POST /sandboxes` and `POST /v2/sandboxes`: answer when it runs.

use super::network::Network;
use super::shapes::{Sandbox, until};
use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use fleet::{Create, Surface};
use http::StatusCode;
use model::lifetime::AtEnd;
use model::{Error, TeamId, check, limits};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// E2B's own default where `POST /sandboxes` names no timeout.
const V1_TIMEOUT_S: i64 = 15;
/// Shorter than the 60 s after which clients give up, so that they hear why.
pub(super) const START: Duration = Duration::from_secs(55);
/// A start that took longer than this is made good to the sandbox's timeout.
const SLOW_START: Duration = Duration::from_secs(1);

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/sandboxes", post(v1)).route("/v2/sandboxes", post(v2))
}

/// The fields Wrenn knows; others that would change what the sandbox may do are refused, not ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    timeout: Option<i64>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    env_vars: Option<BTreeMap<String, String>>,
    #[serde(default)]
    auto_pause: bool,
    auto_pause_memory: Option<bool>,
    auto_resume: Option<AutoResume>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<Network>,
    volume_mounts: Option<Vec<Value>>,
    iam: Option<Value>,
}

#[derive(Deserialize)]
struct AutoResume {
    enabled: bool,
}

type Answer = Result<(StatusCode, Json<Sandbox>), Failure>;

async fn v1(State(state): State<ApiState>, caller: Caller, body: Body) -> Answer {
    create(&state, caller.team, json(body).await?, V1_TIMEOUT_S).await
}

async fn v2(State(state): State<ApiState>, caller: Caller, body: Body) -> Answer {
    create(&state, caller.team, json(body).await?, limits::E2B_TIMEOUT_S_DEFAULT.into()).await
}

async fn create(state: &ApiState, team: TeamId, asked: NewSandbox, default_timeout_s: i64) -> Answer {
    let timeout_s = check::e2b_timeout_s(asked.timeout.unwrap_or(default_timeout_s))?;
    let at_end = if asked.auto_pause { AtEnd::Pause } else { AtEnd::Kill };
    let started = Instant::now();
    let capsule = state.fleet.create(team, parse(asked, timeout_s, at_end)?).await?;
    let capsule = state.fleet.started(capsule, START).await?;
    if started.elapsed() > SLOW_START {
        state.fleet.extend_lifetime(team, capsule.id, until(timeout_s, at_end)).await?;
    }
    Ok((StatusCode::CREATED, Json(Sandbox::from(&capsule))))
}

fn parse(asked: NewSandbox, timeout_s: u32, at_end: AtEnd) -> Result<Create, Error> {
    supported(&asked)?;
    let (metadata, envs) = (asked.metadata.unwrap_or_default(), asked.env_vars.unwrap_or_default());
    check::metadata(&metadata)?;
    check::envs(&envs)?;
    // `name:default` is the same as `name`.
    let template = asked.template_id.strip_suffix(":default").unwrap_or(&asked.template_id);
    if template.is_empty() {
        return Err(Error::invalid("templateID is missing"));
    }
    if !check::is_safe_name(template) {
        return Err(Error::not_found(format!("template {template:?}")));
    }
    Ok(Create {
        template: template.to_owned(),
        vcpus: None,
        memory_mb: None,
        disk_mb: None,
        lifetime: until(timeout_s, at_end),
        metadata,
        envs,
        surface: Surface::E2b,
        egress: asked.network.unwrap_or_default().parse("network.", asked.allow_internet_access)?,
    })
}

fn supported(asked: &NewSandbox) -> Result<(), Error> {
    let refused = [
        ("autoPauseMemory", asked.auto_pause_memory == Some(false)),
        ("autoResume", asked.auto_resume.as_ref().is_some_and(|auto| auto.enabled)),
        ("volumeMounts", asked.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty())),
        ("iam", asked.iam.as_ref().is_some_and(|iam| !iam.is_null())),
    ];
    match refused.iter().find(|(_, asked_for)| *asked_for) {
        Some((field, _)) => Err(Error::invalid(format!("{field} is not supported"))),
        None => Ok(()),
    }
}
