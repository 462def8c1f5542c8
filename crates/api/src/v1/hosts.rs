//! What agents report.

use crate::auth::HostCaller;
use crate::body::json;
use crate::failure::Failure;
use crate::state::ApiState;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use hostlink::EventsBody;
use hostlink::callback::{EVENTS_MAX, EVENTS_PATH};
use http::StatusCode;
use model::{Code, Error};

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route(EVENTS_PATH, post(events))
}

/// In the order they happened. Unknown events are taken and ignored: an agent may be newer than its server.
async fn events(
    State(state): State<ApiState>,
    HostCaller(host): HostCaller,
    body: Body,
) -> Result<StatusCode, Failure> {
    let report: EventsBody = json(body).await?;
    if report.host_id != host.to_string() {
        return Err(Error::new(Code::Forbidden, "the token belongs to another host").into());
    }
    if report.events.len() > EVENTS_MAX {
        return Err(Error::invalid(format!("at most {EVENTS_MAX} events in one report")).into());
    }
    for event in report.events {
        state.fleet.host_event(host, event).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
