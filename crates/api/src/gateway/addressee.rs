//! Which requests are for a port: by host name, by E2B's headers, or by a signed URL.

use super::answers;
use super::signed::{self, Claim};
use crate::state::ApiState;
use axum::extract::Request;
use axum::response::Response;
use edge::{GUEST_DAEMON_PORT, Target};
use http::HeaderMap;
use http::header::HOST;
use model::CapsuleId;
use std::net::{IpAddr, Ipv6Addr};

const ID: &str = "e2b-sandbox-id";
const PORT: &str = "e2b-sandbox-port";

/// Whom a request is for.
pub(crate) enum Addressee {
    /// The API itself.
    Api,
    /// A port of a capsule.
    Port(Target),
    /// The guest daemon of whoever made this claim.
    Signer(Claim),
    /// A port that cannot be named like this.
    Refused(Response),
}

/// Headers count only where the host name cannot name a capsule, so that a page at one capsule's name cannot make a
/// browser talk to another.
pub(crate) fn addressee(request: &Request) -> Addressee {
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or_default();
    if let Some(target) = Target::from_host(host) {
        return Addressee::Port(target);
    }
    if !is_shared(host) {
        return Addressee::Api;
    }
    match by_headers(request.headers()) {
        Some(Ok(target)) => Addressee::Port(target),
        Some(Err(response)) => Addressee::Refused(response),
        None => signed::claim(request.method(), request.uri()).map_or(Addressee::Api, Addressee::Signer),
    }
}

/// Whose the claim is: tokens are unique, so at most one live capsule's fits.
pub(crate) async fn signer(state: &ApiState, claim: &Claim) -> Result<Target, Response> {
    let live = state.fleet.live_tokens().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for the sandbox of a signed URL");
        Vec::new()
    });
    let signer = live.iter().find(|(_, token)| claim.is_by(token.expose()));
    let (capsule, _) = signer.ok_or_else(answers::invalid_signature)?;
    Ok(Target { capsule: *capsule, port: GUEST_DAEMON_PORT })
}

fn by_headers(headers: &HeaderMap) -> Option<Result<Target, Response>> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let (id, port) = match (text(ID), text(PORT)) {
        (None, None) => return None,
        (Some(id), Some(port)) => (id, port),
        _ => return Some(Err(answers::bad_request("the headers E2b-Sandbox-Id and E2b-Sandbox-Port go together"))),
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
        return Some(Err(answers::bad_request("E2b-Sandbox-Port must be from 1 to 65535")));
    };
    // Some clients append `-{client}` to the id.
    let bare = id.split('-').next().unwrap_or_default();
    match CapsuleId::parse_lenient(id).or_else(|_| CapsuleId::parse_lenient(bare)) {
        Ok(capsule) => Some(Ok(Target { capsule, port })),
        Err(_) => Some(Err(answers::not_found(id))),
    }
}

/// A name all capsules share: `localhost`, an address, or `sandbox.{domain}`.
fn is_shared(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() || name.starts_with("sandbox.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_names() {
        for (host, shared) in [
            ("localhost", true),
            ("LOCALHOST:8000", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("sandbox.example.com", true),
            ("api.example.com", false),
            ("", false),
        ] {
            assert_eq!(is_shared(host), shared, "{host}");
        }
    }
}
