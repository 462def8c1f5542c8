//! E2B's REST API, on the same port. Its clients parse strictly: success statuses are exact, every error has a body.

mod create;
mod fork;
mod lifetime;
mod list;
mod metrics;
mod network;
mod sandbox;
mod shapes;
mod snapshots;

use crate::state::ApiState;
use axum::Router;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .merge(create::routes())
        .merge(list::routes())
        .merge(sandbox::routes())
        .merge(metrics::routes())
        .merge(network::routes())
        .merge(lifetime::routes())
        .merge(fork::routes())
        .merge(snapshots::routes())
}
