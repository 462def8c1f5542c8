//! `/v1/capsules/{id}/processes`: what runs, and ending it.

use crate::auth::Caller;
use crate::failure::Failure;
use crate::params::{Id, Params, param};
use crate::state::ApiState;
use axum::extract::{FromRequestParts, State};
use axum::routing::{delete, get};
use axum::{Json, Router};
use fleet::{Selector, Signal};
use http::StatusCode;
use http::request::Parts;
use model::Error;
use model::rest::ProcessList;
use serde::Deserialize;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/capsules/{id}/processes", get(list))
        .route("/v1/capsules/{id}/processes/{selector}", delete(kill))
}

async fn list(State(state): State<ApiState>, caller: Caller, Id(id): Id) -> Result<Json<ProcessList>, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    Ok(Json(ProcessList { processes: guest.processes().await? }))
}

/// `{selector}` of the path.
struct Chosen(Selector);

impl FromRequestParts<ApiState> for Chosen {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let text = param(parts, state, "selector").await?;
        let Ok(selector) = text.parse();
        Ok(Self(selector))
    }
}

#[derive(Deserialize)]
struct KillParams {
    signal: Option<String>,
}

async fn kill(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    Chosen(selector): Chosen,
    Params(params): Params<KillParams>,
) -> Result<StatusCode, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    guest.kill(&selector, signal(params.signal.as_deref())?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn signal(name: Option<&str>) -> Result<Signal, Error> {
    let name = name.unwrap_or_default().to_ascii_uppercase();
    match name.strip_prefix("SIG").unwrap_or(&name) {
        "" | "KILL" | "9" => Ok(Signal::Kill),
        "TERM" | "15" => Ok(Signal::Term),
        _ => Err(Error::invalid("signal must be SIGTERM or SIGKILL")),
    }
}
