//! Parts of paths and queries.

use crate::failure::Failure;
use crate::state::ApiState;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use http::request::Parts;
use model::{CapsuleId, Error, limits};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The capsule of the path, `{id}`; with or without `cl-`.
pub(crate) struct Id(pub(crate) CapsuleId);

impl FromRequestParts<ApiState> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let text = param(parts, state, "id").await?;
        let id = CapsuleId::parse_lenient(&text).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Self(id))
    }
}

/// A decoded part of the path.
pub(crate) async fn param(parts: &mut Parts, state: &ApiState, name: &str) -> Result<String, Failure> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|_| Error::invalid("the path is not valid UTF-8"))?;
    let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    Ok(value.ok_or_else(|| Error::invalid(format!("the path has no {name}")))?)
}

/// The query; a value that does not parse is an error with a message.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        let Query(params) = query.map_err(|error| Error::invalid(format!("the query is not valid: {error}")))?;
        Ok(Self(params))
    }
}

/// `?wait=SECONDS`: how long the answer may be held for the final status.
#[derive(Deserialize)]
pub(crate) struct Wait {
    wait: Option<u64>,
}

impl Wait {
    /// As asked, within bounds; or `default`.
    pub(crate) fn or(&self, default: Duration) -> Duration {
        self.wait.map_or(default, |s| Duration::from_secs(s).min(limits::WAIT_MAX))
    }
}
