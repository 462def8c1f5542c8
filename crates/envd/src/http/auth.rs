//! Who may do what: the access token, and signatures for files.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::refusal::Refusal;
use crate::daemon::Daemon;
use crate::settings::Token;

const TOKEN_HEADER: &str = "x-access-token";

/// Lets a request pass when no token is set, when it carries the token, or when its route judges by itself.
pub(super) async fn guard(State(daemon): State<Arc<Daemon>>, request: Request, next: Next) -> Response {
    let token = daemon.settings.read(|settings| settings.token.clone());
    let judged_later = matches!(
        (request.method(), request.uri().path()),
        (&Method::GET | &Method::HEAD, "/health")
            | (&Method::GET | &Method::HEAD | &Method::POST, "/files")
            | (&Method::POST, "/init")
    );
    let is_file = request.uri().path() == "/files";
    let mut response = match token {
        Some(token) if !judged_later && !carries(request.headers(), &token) => {
            Refusal::unauthorized("unauthorized access, please provide a valid access token").into_response()
        }
        _ => next.run(request).await,
    };
    if !is_file {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the token header is there and right.
pub(super) fn carries(headers: &HeaderMap, token: &Token) -> bool {
    headers.get(TOKEN_HEADER).is_some_and(|header| token.matches(header.as_bytes()))
}

/// Query of `/files`.
#[derive(Debug, Default, Deserialize)]
pub struct FileQuery {
    /// The file, as the client wrote it.
    #[serde(default)]
    pub path: String,
    /// User whose home relative paths start at, and who owns what is created.
    pub username: Option<String>,
    signature: Option<String>,
    /// Unix seconds.
    signature_expiration: Option<i64>,
}

impl FileQuery {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let Query(query) = Query::try_from_uri(uri).map_err(|error| Refusal::bad_request(error.body_text()))?;
        Ok(query)
    }

    /// A present header decides alone, right or wrong; else the signature does. `operation` is `read` or `write`.
    pub(super) fn authorise(&self, daemon: &Daemon, headers: &HeaderMap, operation: &str) -> Result<(), Refusal> {
        let Some(token) = daemon.settings.read(|settings| settings.token.clone()) else { return Ok(()) };
        if headers.contains_key(TOKEN_HEADER) {
            return if carries(headers, &token) {
                Ok(())
            } else {
                Err(Refusal::unauthorized("access token present in header but does not match"))
            };
        }
        let given =
            self.signature.as_deref().ok_or_else(|| Refusal::unauthorized("missing signature query parameter"))?;
        let expected = self.signature(&token, operation);
        if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
            return Err(Refusal::unauthorized("invalid signature"));
        }
        match self.signature_expiration {
            Some(expiration) if expiration < now() => Err(Refusal::unauthorized("signature is already expired")),
            _ => Ok(()),
        }
    }

    /// Over the values exactly as the client wrote them, an absent user as the empty string.
    fn signature(&self, token: &Token, operation: &str) -> String {
        let user = self.username.as_deref().unwrap_or_default();
        let mut text = format!("{}:{operation}:{user}:{}", self.path, token.reveal());
        if let Some(expiration) = self.signature_expiration {
            text = format!("{text}:{expiration}");
        }
        format!("v1_{}", BASE64_STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_signature() {
        let query = FileQuery { path: "/a b.txt".into(), ..FileQuery::default() };
        let token = Token::new("envd-token-1".into());
        let signature = token.map(|token| query.signature(&token, "read"));
        assert_eq!(signature.as_deref(), Some("v1_Xgo96B9AlzdVfakwEC2QnQ/KwFlO9AtXiBiLzgKcwKU"));
    }
}
