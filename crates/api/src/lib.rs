//! What clients see over HTTP: Wrenn's REST API, E2B's, and the way to the ports of capsules.
//!
//! Knows: routes, credentials in headers, bodies, statuses, the two shapes of errors; which request is meant for
//! a capsule's port rather than for the API.
//! Must never know: SQL, how an agent does its work. A handler parses, asks `fleet`, and renders.
//!
//! A request passes [`front`] first: it gets an id, is sent to a port if it names one, else its path is brought to
//! its one spelling and routed. An error travels as `model::Error` until `front` writes it down in the shape of
//! the surface that was called.

mod auth;
mod body;
mod e2b;
mod failure;
mod front;
mod gateway;
mod params;
mod state;
mod v1;

pub use gateway::Ports;
pub use state::ApiState;

use axum::Router;

/// The whole surface. Serve it with the peer's address as `ConnectInfo`, so that programs behind ports learn it.
pub fn router(state: ApiState) -> Router {
    let routes = Router::new()
        .merge(v1::routes())
        .merge(e2b::routes())
        .fallback(failure::no_route)
        .method_not_allowed_fallback(failure::no_method)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(failure::panicked))
        .with_state(state.clone());
    front::router(state, routes)
}
