//! `/sandboxes/{id}`: look, kill, and what is reported about it.

use super::shapes::{SandboxDetail, SandboxId, State as SandboxState, not_found};
use crate::auth::Caller;
use crate::failure::Failure;
use crate::state::ApiState;
use crate::v1::end;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use model::{Capsule, CapsuleId, CapsuleStatus, Error, TeamId};
use serde_json::{Value, json};

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/sandboxes/{id}", get(look).delete(kill))
        .route("/sandboxes/{id}/logs", get(logs))
        .route("/v2/sandboxes/{id}/logs", get(logs_v2))
}

/// The caller's sandbox, unless it has ended.
pub(crate) async fn live(state: &ApiState, team: TeamId, id: CapsuleId) -> Result<Capsule, Error> {
    let capsule = state.fleet.get(team, id).await?;
    if SandboxState::of(capsule.status).is_some() { Ok(capsule) } else { Err(not_found()) }
}

async fn look(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
) -> Result<Json<SandboxDetail>, Failure> {
    let capsule = live(&state, caller.team, id).await?;
    Ok(Json(SandboxDetail::of(&capsule).ok_or_else(not_found)?))
}

async fn kill(State(state): State<ApiState>, caller: Caller, SandboxId(id): SandboxId) -> Result<StatusCode, Failure> {
    let capsule = state.fleet.get(caller.team, id).await?;
    if capsule.status.is_terminal() || capsule.status == CapsuleStatus::Stopping {
        return Err(not_found().into());
    }
    end(&state, caller.team, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn logs(State(state): State<ApiState>, caller: Caller, SandboxId(id): SandboxId) -> Result<Json<Value>, Failure> {
    live(&state, caller.team, id).await?;
    Ok(Json(json!({ "logs": [], "logEntries": [] })))
}

async fn logs_v2(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
) -> Result<Json<Value>, Failure> {
    live(&state, caller.team, id).await?;
    Ok(Json(json!({ "logs": [] })))
}
