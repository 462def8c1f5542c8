//! The daemon's HTTP surface: routes, who may use them, and the RPC services behind them.

mod auth;
mod body;
mod control;
mod download;
mod encoding;
mod metrics;
mod range;
mod reading;
mod refusal;
mod upgrade;
mod upload;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use connectrpc::{CompressionPolicy, ConnectRpcService, Limits};
use http::{HeaderName, Method};
use tower_http::cors::{Any, CorsLayer};

use crate::daemon::Daemon;
use crate::filesystem::FilesystemService;
use crate::limits;
use crate::process::ProcessService;

pub use auth::FileQuery;
pub use refusal::Refusal;

/// Version clients see and derive features from; it names the E2B daemon whose behaviour this one has.
pub const VERSION: &str = "0.6.9";

/// Everything the daemon answers.
pub fn router(daemon: Arc<Daemon>) -> Router {
    let control = Router::new()
        .route("/health", get(control::health))
        .route("/envs", get(control::envs))
        .route("/init", post(control::init))
        .route("/snapshot/prepare", post(control::prepare))
        .route("/snapshot/hold", post(control::hold))
        .route("/snapshot/release", post(control::release))
        .route("/metrics", get(metrics::metrics))
        .layer(DefaultBodyLimit::max(limits::CONTROL_BYTES));
    let files =
        Router::new().route("/files", get(download::download).post(upload::upload)).layer(DefaultBodyLimit::disable());
    let upgrade = Router::new()
        .route("/upgrade", get(upgrade::identity).post(upgrade::upgrade))
        .layer(DefaultBodyLimit::max(limits::DAEMON_BYTES));
    control
        .merge(files)
        .merge(upgrade)
        .fallback_service(rpc(&daemon))
        .layer(middleware::from_fn_with_state(Arc::clone(&daemon), auth::guard))
        .layer(cors())
        .with_state(daemon)
}

fn rpc(daemon: &Arc<Daemon>) -> ConnectRpcService {
    let router = connectrpc::Router::new()
        .add_service(Arc::new(ProcessService::new(Arc::clone(daemon))))
        .add_service(Arc::new(FilesystemService::new(Arc::clone(daemon))));
    let limits = Limits::default()
        .with_max_message_size(limits::MESSAGE_BYTES)
        .with_max_request_body_size(limits::MESSAGE_BYTES);
    // Output is small and wanted at once; compressing it costs more than it saves.
    router.into_axum_service().with_limits(limits).with_compression_policy(CompressionPolicy::disabled())
}

fn cors() -> CorsLayer {
    let exposed = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-encoding",
        "connect-content-encoding",
        "connect-protocol-version",
        "location",
        "cache-control",
        "x-content-type-options",
    ];
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::HEAD, Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(Any)
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(std::time::Duration::from_hours(2))
}
