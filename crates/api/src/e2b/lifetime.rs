//! `/sandboxes/{id}`: timeout, connect, pause, resume, refreshes.

use super::sandbox::live;
use super::shapes::{Sandbox, SandboxId, not_found, until};
use crate::auth::Caller;
use crate::body::{json, optional_json};
use crate::failure::Failure;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use fleet::{Resume, Until};
use http::StatusCode;
use model::lifetime::AtEnd;
use model::{Capsule, CapsuleStatus, Code, Error, Lifetime, check, limits};
use serde::Deserialize;
use std::time::Duration;

/// Shorter than the 60 s after which clients give up, so that they hear why.
const OPERATION: Duration = Duration::from_secs(55);
/// E2B's own default of a refresh.
const REFRESH_S: i64 = 15;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/sandboxes/{id}/timeout", post(timeout))
        .route("/sandboxes/{id}/connect", post(connect))
        .route("/v2/sandboxes/{id}/connect", post(connect_v2))
        .route("/sandboxes/{id}/pause", post(pause))
        .route("/sandboxes/{id}/resume", post(resume))
        .route("/sandboxes/{id}/refreshes", post(refresh))
}

#[derive(Deserialize)]
struct TimeoutBody {
    timeout: i64,
}

/// From now on; may shorten, and 0 ends it at once.
async fn timeout(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<StatusCode, Failure> {
    let capsule = live(&state, caller.team, id).await?;
    let asked: TimeoutBody = json(body).await?;
    let lifetime = until(check::e2b_timeout_s(asked.timeout)?, at_end(&capsule));
    state.fleet.set_lifetime(caller.team, id, lifetime).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectBody {
    timeout: Option<i64>,
    memory: Option<bool>,
}

type Connected = Result<(StatusCode, Json<Sandbox>), Failure>;

async fn connect(State(state): State<ApiState>, caller: Caller, SandboxId(id): SandboxId, body: Body) -> Connected {
    let capsule = live(&state, caller.team, id).await?;
    let TimeoutBody { timeout } = json(body).await?;
    to_running(&state, capsule, ConnectBody { timeout: Some(timeout), memory: None }).await
}

async fn connect_v2(State(state): State<ApiState>, caller: Caller, SandboxId(id): SandboxId, body: Body) -> Connected {
    let capsule = live(&state, caller.team, id).await?;
    to_running(&state, capsule, optional_json(body).await?).await
}

/// 200 when it ran, its life never shortened; 201 when it had to be resumed.
async fn to_running(state: &ApiState, capsule: Capsule, asked: ConnectBody) -> Connected {
    let timeout_s = check::e2b_timeout_s(asked.timeout.unwrap_or(limits::E2B_TIMEOUT_S_DEFAULT.into()))?;
    let (team, id) = (capsule.team, capsule.id);
    let lifetime = until(timeout_s, at_end(&capsule));
    let capsule =
        if capsule.status.is_transient() { state.fleet.wait(id, Until::Settled, OPERATION).await? } else { capsule };
    match capsule.status {
        CapsuleStatus::Running => {
            // A capsule that ends only when idle keeps doing so.
            if matches!(capsule.lifetime, Lifetime::Idle { .. }) {
                return Ok((StatusCode::OK, Json(Sandbox::from(&capsule))));
            }
            match state.fleet.extend_lifetime(team, id, lifetime).await {
                Ok(capsule) => Ok((StatusCode::OK, Json(Sandbox::from(&capsule)))),
                Err(error) if error.code == Code::InvalidState => {
                    // Its host has just begun to end it, and has not said so yet.
                    let moved = state.fleet.wait(id, Until::Past(capsule.revision), limits::HOLD).await?;
                    if moved.revision == capsule.revision {
                        return Err(error.into());
                    }
                    Box::pin(to_running(state, moved, asked)).await
                }
                Err(error) => Err(error.into()),
            }
        }
        CapsuleStatus::Paused => {
            let how = Resume { discard_memory: asked.memory == Some(false), lifetime: Some(lifetime) };
            state.fleet.resume(team, id, how).await?;
            let capsule = state.fleet.wait(id, Until::Running, OPERATION).await?;
            expect(&capsule, CapsuleStatus::Running)?;
            Ok((StatusCode::CREATED, Json(Sandbox::from(&capsule))))
        }
        _ => Err(not_found().into()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PauseBody {
    memory: Option<bool>,
}

/// Answers when it is done. 409 when it is paused already.
async fn pause(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<StatusCode, Failure> {
    live(&state, caller.team, id).await?;
    let asked: PauseBody = optional_json(body).await?;
    state.fleet.pause(caller.team, id, asked.memory == Some(false)).await?;
    state.ports.evict(id);
    let capsule = state.fleet.wait(id, Until::Settled, OPERATION).await?;
    expect(&capsule, CapsuleStatus::Paused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What older clients call; 409 when it runs.
async fn resume(State(state): State<ApiState>, caller: Caller, SandboxId(id): SandboxId, body: Body) -> Connected {
    let capsule = live(&state, caller.team, id).await?;
    let asked: ConnectBody = optional_json(body).await?;
    if capsule.status == CapsuleStatus::Running {
        return Err(Error::new(Code::Conflict, "the sandbox is running already").into());
    }
    to_running(&state, capsule, asked).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RefreshBody {
    duration: Option<i64>,
}

async fn refresh(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<StatusCode, Failure> {
    let capsule = live(&state, caller.team, id).await?;
    let asked: RefreshBody = optional_json(body).await?;
    let lifetime = until(check::e2b_timeout_s(asked.duration.unwrap_or(REFRESH_S))?, at_end(&capsule));
    if matches!(capsule.lifetime, Lifetime::Until { .. }) {
        state.fleet.extend_lifetime(caller.team, id, lifetime).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn at_end(capsule: &Capsule) -> AtEnd {
    capsule.lifetime.at_end()
}

fn expect(capsule: &Capsule, status: CapsuleStatus) -> Result<(), Error> {
    match &capsule.reason {
        _ if capsule.status == status => Ok(()),
        _ if capsule.status.is_transient() => {
            Err(Error::new(Code::Unavailable, format!("the sandbox is still {}", capsule.status)))
        }
        Some(reason) => Err(Error::new(Code::Internal, format!("the sandbox is {}: {reason}", capsule.status))),
        None => Err(Error::new(Code::Internal, format!("the sandbox is {}", capsule.status))),
    }
}
