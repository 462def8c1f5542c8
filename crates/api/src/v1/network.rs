//! `/v1/capsules/{id}/network`: what it may reach.

use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::params::Id;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::routing::put;
use axum::{Json, Router};
use model::rest::{Capsule, Network};

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/capsules/{id}/network", put(replace))
}

/// In force on return, for connections that exist as well.
async fn replace(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    body: Body,
) -> Result<Json<Capsule>, Failure> {
    // A capsule that is not the caller's is not found, whatever is asked of it.
    state.fleet.get(caller.team, id).await?;
    let asked: Network = json(body).await?;
    Ok(Json(state.fleet.set_egress(caller.team, id, &asked.parse()?).await?.to_rest()))
}
