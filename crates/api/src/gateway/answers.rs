//! What the clients of ports hear from us. E2B's SDKs look for *was not found* and *port is not open* in the text.

use axum::response::{IntoResponse, Response};
use edge::{Refusal, Target};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

pub(crate) fn refused(refusal: Refusal, target: Target, path: &str) -> Response {
    let id = target.capsule.digits();
    match refusal {
        Refusal::Unknown | Refusal::NotRunning => not_found(&id),
        Refusal::PortClosed => {
            let message = "The sandbox is running but port is not open";
            answer(StatusCode::BAD_GATEWAY, message, json!({ "sandboxId": id, "port": target.port }))
        }
        Refusal::BadAnswer => {
            let message = "The program at the sandbox's port did not answer in HTTP";
            answer(StatusCode::BAD_GATEWAY, message, json!({ "sandboxId": id, "port": target.port }))
        }
        Refusal::Unreachable => {
            answer(StatusCode::BAD_GATEWAY, "The sandbox's host cannot be reached", json!({ "sandboxId": id }))
        }
        Refusal::Transitioning => {
            let message = "The sandbox is still transitioning. Try again in a moment.";
            let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, message, json!({ "sandboxId": id }));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Refusal::TooMany => {
            answer(StatusCode::TOO_MANY_REQUESTS, "Too many open connections", json!({ "sandboxId": id }))
        }
        Refusal::Hidden => answer(StatusCode::NOT_FOUND, "Not found", json!({ "sandboxId": id, "path": path })),
        Refusal::Malformed => bad_request("The request cannot be forwarded"),
    }
}

pub(crate) fn not_found(id: &str) -> Response {
    answer(StatusCode::BAD_GATEWAY, "The sandbox was not found", json!({ "sandboxId": id }))
}

pub(crate) fn bad_request(message: &str) -> Response {
    answer(StatusCode::BAD_REQUEST, message, json!({}))
}

pub(crate) fn invalid_signature() -> Response {
    answer(StatusCode::UNAUTHORIZED, "invalid signature", json!({}))
}

fn answer(status: StatusCode, message: &str, mut body: Value) -> Response {
    if let Some(body) = body.as_object_mut() {
        body.insert("message".to_owned(), message.into());
        body.insert("code".to_owned(), status.as_u16().into());
    }
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(CONTENT_TYPE, json)], body.to_string()).into_response()
}
