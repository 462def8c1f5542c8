//! Who is calling.

use crate::failure::Failure;
use crate::state::ApiState;
use axum::extract::FromRequestParts;
use http::request::Parts;
use model::{Code, Error, HostId, TeamId};

const API_KEY: &str = "x-api-key";

/// A caller with an API key; its team owns what the request is about.
pub(crate) struct Caller {
    pub(crate) team: TeamId,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let key =
            header(parts, API_KEY).ok_or_else(|| unauthorized("an API key is needed, in the header X-API-Key"))?;
        let principal = state.identity.authenticate_key(key).await.map_err(Error::from)?;
        Ok(Self { team: principal.team })
    }
}

/// The agent of a host.
pub(crate) struct HostCaller(pub(crate) HostId);

impl FromRequestParts<ApiState> for HostCaller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let token = header(parts, hostlink::callback::HOST_TOKEN_HEADER);
        let token = token.ok_or_else(|| unauthorized("a host token is needed, in the header X-Host-Token"))?;
        Ok(Self(state.fleet.authenticate_host(token).await?))
    }
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

fn unauthorized(message: &str) -> Error {
    Error::new(Code::Unauthorized, message)
}
