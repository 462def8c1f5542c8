//! `/v1/capsules/{id}/metrics`: what it used.

use crate::auth::Caller;
use crate::failure::Failure;
use crate::params::{Id, Params};
use crate::state::ApiState;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use model::metrics::Range;
use model::rest::Metrics;
use serde::Deserialize;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/capsules/{id}/metrics", get(metrics))
}

#[derive(Deserialize)]
struct RangeParam {
    range: Option<String>,
}

async fn metrics(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    Params(asked): Params<RangeParam>,
) -> Result<Json<Metrics>, Failure> {
    let range: Range = asked.range.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let (capsule, points) = state.fleet.metrics(caller.team, id, range.length()).await?;
    Ok(Json(Metrics { sandbox_id: capsule.id, range, points }))
}
