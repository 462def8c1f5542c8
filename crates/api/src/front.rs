//! Every request's first stop.

use crate::body::draining;
use crate::failure::{Shape, render};
use crate::gateway::{self, Addressee};
use crate::state::ApiState;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Uri};
use model::ids::RequestId;
use std::time::Instant;
use tower::ServiceExt;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the front before the routes.
pub(crate) fn router(state: ApiState, routes: Router) -> Router {
    Router::new().fallback(move |request: Request| enter(state.clone(), routes.clone(), request))
}

async fn enter(state: ApiState, routes: Router, request: Request) -> Response {
    let request_id = RequestId::random().to_string();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = Instant::now();
    let addressee = gateway::addressee(&request);
    let mut response = match addressee {
        Addressee::Port(target) => gateway::forward(&state, target, request).await,
        Addressee::Signer(claim) => match gateway::signer(&state, &claim).await {
            Ok(target) => gateway::forward(&state, target, request).await,
            Err(response) => response,
        },
        Addressee::Refused(response) => response,
        Addressee::Api => api(routes, request, &method, &request_id).await,
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
    tracing::info!(%method, path, status, ms, request_id, "request");
    response
}

async fn api(routes: Router, mut request: Request, method: &Method, request_id: &str) -> Response {
    if let Some(uri) = canonical(request.uri()) {
        *request.uri_mut() = uri;
    }
    let shape = Shape::of(request.uri().path());
    // What a handler leaves unread is read for it: a connection closed under an upload hides the answer.
    let request = request.map(|body| Body::new(draining(body)));
    let Ok(response) = routes.oneshot(request).await;
    render(response, shape, method, request_id)
}

/// The one spelling of a path that has several: `/api/v1/…`, `/v1/sandboxes/…`, trailing slashes. `None` = it is that.
fn canonical(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let mut new = path.strip_prefix("/api").filter(|rest| rest.starts_with('/')).unwrap_or(path).to_owned();
    if let Some(rest) = new.strip_prefix("/v1/sandboxes").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        new = format!("/v1/capsules{rest}");
    }
    while new.len() > 1 && new.ends_with('/') {
        new.pop();
    }
    if new == path {
        return None;
    }
    if let Some(query) = uri.query() {
        new = format!("{new}?{query}");
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(new).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (path, want) in [
            ("/v1/capsules", None),
            ("/v1/capsules/", Some("/v1/capsules")),
            ("/v1/sandboxes/?a=/", Some("/v1/capsules?a=/")),
            ("/api/v1/sandboxes/x/exec", Some("/v1/capsules/x/exec")),
            ("/v1/sandboxesque", None),
            ("/apiary", None),
            ("/", None),
            ("/sandboxes/x/", Some("/sandboxes/x")),
            ("/v1/capsules/a%2Fb/", Some("/v1/capsules/a%2Fb")),
        ] {
            let uri: Uri = path.parse().unwrap_or_default();
            assert_eq!(canonical(&uri).map(|uri| uri.to_string()).as_deref(), want, "{path}");
        }
    }
}
