//! Requests for the ports of capsules: which those are, and what their clients hear when they cannot be served.

mod addressee;
mod answers;
mod ports;
mod signed;

pub(crate) use addressee::{Addressee, addressee, signer};
pub use ports::Ports;

use crate::state::ApiState;
use axum::extract::Request;
use axum::response::Response;
use edge::{Refusal, Target, is_guest_control};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};

/// Sends a request to its port. No credential is asked for: the id is the capability, and the guest's daemon judges
/// its own token.
pub(crate) async fn forward(state: &ApiState, target: Target, mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if is_guest_control(target.port, &path) {
        return answers::refused(Refusal::Hidden, target, &path);
    }
    strip_our_keys(request.headers_mut());
    match state.ports.forward(target, request).await {
        Ok(response) => response,
        Err(refusal) => answers::refused(refusal, target, &path),
    }
}

/// SDKs send their API key along to ports as well; the user's program must not learn it.
fn strip_our_keys(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        let hex = text.strip_prefix("wrn_").or_else(|| text.strip_prefix("e2b_"));
        hex.is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for name in [http::header::HeaderName::from_static("x-api-key"), AUTHORIZATION] {
        if headers.get(&name).is_some_and(ours) {
            headers.remove(name);
        }
    }
}
