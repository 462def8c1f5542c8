//! E2B's signed file URLs. With one address for all sandboxes such a URL names none, but a token is unique, so the
//! signature itself says whose it is. Whether it has expired is for the guest's daemon to judge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{Method, Uri};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    path: String,
    #[serde(default)]
    username: String,
    signature: String,
    signature_expiration: Option<String>,
}

/// What a signed URL claims.
pub(crate) struct Claim {
    operation: &'static str,
    query: Query,
}

/// The claim of a signed `/files` request; `None` when it is not one.
pub(crate) fn claim(method: &Method, uri: &Uri) -> Option<Claim> {
    if uri.path() != "/files" {
        return None;
    }
    let operation = match *method {
        Method::GET | Method::HEAD => "read",
        Method::POST => "write",
        _ => return None,
    };
    let axum::extract::Query(query) = axum::extract::Query::<Query>::try_from_uri(uri).ok()?;
    Some(Claim { operation, query })
}

impl Claim {
    /// Whether the holder of this token made it.
    pub(crate) fn is_by(&self, token: &str) -> bool {
        let Query { path, username, signature, signature_expiration } = &self.query;
        let mut text = format!("{path}:{}:{username}:{token}", self.operation);
        if let Some(expiration) = signature_expiration {
            text.push(':');
            text.push_str(expiration);
        }
        let expected = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
        !token.is_empty() && expected.as_bytes().ct_eq(signature.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_url() {
        let signature = "v1_Xgo96B9AlzdVfakwEC2QnQ%2FKwFlO9AtXiBiLzgKcwKU";
        let claim =
            |method, path: &str| claim(&method, &format!("{path}&signature={signature}").parse().unwrap_or_default());
        for path in ["/files?path=/a%20b.txt", "/files?path=%2Fa+b.txt"] {
            assert!(claim(Method::GET, path).is_some_and(|claim| claim.is_by("envd-token-1")), "{path}");
        }
        for (method, path, token) in [
            (Method::POST, "/files?path=/a%20b.txt", "envd-token-1"),
            (Method::GET, "/files?path=/a%20b.txt", "envd-token-2"),
            (Method::GET, "/files?path=/a%20b.txt&username=root", "envd-token-1"),
            (Method::GET, "/files?path=/a%20b.txt&signature_expiration=1", "envd-token-1"),
        ] {
            assert!(claim(method, path).is_some_and(|claim| !claim.is_by(token)), "{path} {token}");
        }
        assert!(super::claim(&Method::GET, &Uri::from_static("/files?path=/a")).is_none());
        assert!(super::claim(&Method::GET, &Uri::from_static("/file?signature=x")).is_none());
    }
}
