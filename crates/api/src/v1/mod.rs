//! Wrenn's REST API, one file per resource.

mod capsules;
mod exec;
mod files;
mod health;
mod hosts;
mod metrics;
mod multipart;
mod network;
mod processes;
mod snapshots;

pub(crate) use capsules::end;
pub(crate) use snapshots::template_name;

use crate::state::ApiState;
use axum::Router;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .merge(health::routes())
        .merge(capsules::routes())
        .merge(exec::routes())
        .merge(processes::routes())
        .merge(files::routes())
        .merge(hosts::routes())
        .merge(snapshots::routes())
        .merge(metrics::routes())
        .merge(network::routes())
}
