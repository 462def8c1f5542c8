//! `POST /sandboxes/{id}/fork`: answers when every clone runs or has failed.

use super::create::START;
use super::sandbox::live;
use super::shapes::{Sandbox, SandboxId, until};
use crate::auth::Caller;
use crate::body::optional_json;
use crate::failure::Failure;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use fleet::Fork;
use http::StatusCode;
use model::{Capsule, Error, check, limits};
use serde::{Deserialize, Serialize};

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/sandboxes/{id}/fork", post(fork))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ForkBody {
    timeout: Option<i64>,
    count: Option<i64>,
}

/// One clone.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Forked {
    Sandbox(Sandbox),
    Error { code: u16, message: String },
}

impl From<Result<Capsule, Error>> for Forked {
    fn from(clone: Result<Capsule, Error>) -> Self {
        match clone {
            Ok(capsule) => Self::Sandbox(Sandbox::from(&capsule)),
            Err(Error { code, message }) => Self::Error { code: code.status(), message },
        }
    }
}

async fn fork(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<(StatusCode, Json<Vec<Forked>>), Failure> {
    let source = live(&state, caller.team, id).await?;
    let asked: ForkBody = optional_json(body).await?;
    let timeout_s = check::e2b_timeout_s(asked.timeout.unwrap_or(limits::E2B_TIMEOUT_S_DEFAULT.into()))?;
    let lifetime = Some(until(timeout_s, source.lifetime.at_end()));
    let how = Fork { count: check::fork_count(asked.count)?, lifetime, limit: START };
    let mut clones = state.fleet.fork(caller.team, id, how).await?;
    // A timeout counts from the answer.
    for clone in clones.iter_mut().flatten() {
        let lifetime = until(timeout_s, source.lifetime.at_end());
        *clone = state.fleet.extend_lifetime(caller.team, clone.id, lifetime).await?;
    }
    Ok((StatusCode::CREATED, Json(clones.into_iter().map(Forked::from).collect())))
}
