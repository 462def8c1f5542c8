//! Errors on their way to the client, and the two shapes they arrive in.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use model::error::ErrorBody;
use model::{Code, Error};
use serde::Serialize;
use std::any::Any;

/// Seconds after which a retryable request is worth repeating.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// An error as a handler returns it. The answer has no body yet: [`render`] writes it.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Whose clients called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{"error":{"code","message","request_id","retryable"}}`.
    Wrenn,
    /// `{"code":404,"message"}`; its clients parse it strictly.
    E2b,
}

impl Shape {
    pub(crate) fn of(path: &str) -> Self {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match first {
            "sandboxes" | "v2" | "v3" | "templates" | "snapshots" | "volumes" | "volumecontent" | "secrets"
            | "teams" => Self::E2b,
            _ => Self::Wrenn,
        }
    }
}

#[derive(Serialize)]
struct E2bBody<'a> {
    code: u16,
    message: &'a str,
}

/// Writes the error down, if the answer is one.
pub(crate) fn render(mut response: Response, shape: Shape, method: &Method, request_id: &str) -> Response {
    let Some(error) = response.extensions_mut().remove::<Error>() else { return response };
    if error.code.status() >= 500 {
        tracing::warn!(request_id, code = %error.code, message = error.message, "request failed");
    }
    let json = match shape {
        Shape::Wrenn => serde_json::to_vec(&ErrorBody::new(&error, request_id.to_owned())),
        Shape::E2b => serde_json::to_vec(&E2bBody { code: error.code.status(), message: &error.message }),
    };
    *response.body_mut() = Body::from(json.unwrap_or_default());
    let headers = response.headers_mut();
    // The router has measured the answer while it was empty.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(error.code.status(), 429 | 503) {
        headers.insert(RETRY_AFTER, RETRY_AFTER_S);
    }
    if shape == Shape::E2b && method == Method::POST && error.code.status() >= 500 {
        // E2B's Python client repeats a POST on 502–504 by itself, creates included.
        headers.insert(HeaderName::from_static("should-retry"), HeaderValue::from_static("false"));
    }
    response
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(crate) async fn no_route() -> Failure {
    Failure(Error::new(Code::NotFound, "there is no such route"))
}

pub(crate) async fn no_method() -> Failure {
    Failure(Error::new(Code::MethodNotAllowed, "this route does not know the method"))
}

#[expect(clippy::needless_pass_by_value, reason = "the signature CatchPanicLayer wants")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("?"), "a handler panicked");
    Failure(Error::new(Code::Internal, Code::Internal.meaning())).into_response()
}
