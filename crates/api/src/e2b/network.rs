//! `PUT /sandboxes/{id}/network`, and the same of a create: what a sandbox may reach.

use super::sandbox::live;
use super::shapes::SandboxId;
use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::state::ApiState;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::put;
use http::StatusCode;
use model::{Egress, Error};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/sandboxes/{id}/network", put(replace))
}

/// The fields Wrenn knows; others that would change what the sandbox may do are refused, not ignored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Network {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl Network {
    /// What it asks for, in a create with the `allow_internet_access` beside it. Domains, and what else there is no means
    /// for, are errors that name the field, which is found below `at`.
    pub(super) fn parse(self, at: &str, allow_internet_access: Option<bool>) -> Result<Egress, Error> {
        if let Some((field, _)) = self.others.iter().find(|(field, value)| !asks_for_nothing(field, value)) {
            return Err(Error::invalid(format!("{at}{field} is not supported")));
        }
        let (allow, deny) = (self.allow_out.unwrap_or_default(), self.deny_out.unwrap_or_default());
        let allow_internet = allow_internet_access.or(self.allow_internet_access).unwrap_or(true);
        Egress::parse(allow_internet, (&format!("{at}allowOut"), &allow), (&format!("{at}denyOut"), &deny))
    }
}

fn asks_for_nothing(field: &str, value: &Value) -> bool {
    match (field, value) {
        ("allowPublicTraffic", Value::Bool(true)) | (_, Value::Null) => true,
        (_, Value::Array(list)) => list.is_empty(),
        (_, Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Replaces everything: what is not said is cleared.
async fn replace(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<StatusCode, Failure> {
    live(&state, caller.team, id).await?;
    let asked: Network = json(body).await?;
    state.fleet.set_egress(caller.team, id, &asked.parse("", None)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
