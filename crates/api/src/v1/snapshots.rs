//! `/v1/snapshots`: keep a capsule as a template, list templates, give one up.

use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::params::{Params, param};
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::routing::{delete, post};
use axum::{Json, Router};
use fleet::SaveTemplate;
use http::StatusCode;
use http::request::Parts;
use model::rest::{self, TemplateKind};
use model::{Error, TeamId, check};
use serde::Deserialize;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/snapshots", post(save).get(list)).route("/v1/snapshots/{name}", delete(remove))
}

/// The name in the path.
struct Name(String);

impl FromRequestParts<ApiState> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        Ok(Self(template_name(param(parts, state, "name").await?)?))
    }
}

/// A name a template may have.
pub(crate) fn template_name(name: String) -> Result<String, Error> {
    if check::is_safe_name(&name) {
        return Ok(name);
    }
    Err(Error::invalid("name: it begins with a letter or digit and has at most 64 of a-z A-Z 0-9 . _ -"))
}

#[derive(Deserialize)]
struct SaveParams {
    #[serde(default)]
    overwrite: bool,
}

async fn save(
    State(state): State<ApiState>,
    caller: Caller,
    Params(SaveParams { overwrite }): Params<SaveParams>,
    body: Body,
) -> Result<(StatusCode, Json<rest::Template>), Failure> {
    let asked: rest::SaveTemplate = json(body).await?;
    let name = asked.name.filter(|name| !name.is_empty()).map(template_name).transpose()?;
    let wish = SaveTemplate { name, discard_memory: asked.memory == Some(false), overwrite };
    let template = state.fleet.save_template(caller.team, asked.sandbox_id, wish).await?;
    Ok((StatusCode::CREATED, Json(shown(&template, caller.team))))
}

#[derive(Deserialize)]
struct ListParams {
    r#type: Option<TemplateKind>,
}

/// The team's and the platform's, newest first.
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(wanted): Params<ListParams>,
) -> Result<Json<Vec<rest::Template>>, Failure> {
    let templates = state.fleet.templates(caller.team).await?;
    let shown = templates.iter().rev().map(|template| shown(template, caller.team));
    Ok(Json(shown.filter(|template| wanted.r#type.is_none_or(|kind| template.kind == kind)).collect()))
}

async fn remove(State(state): State<ApiState>, caller: Caller, Name(name): Name) -> Result<StatusCode, Failure> {
    state.fleet.delete_template(caller.team, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(template: &model::Template, to: TeamId) -> rest::Template {
    rest::Template {
        id: template.id,
        name: template.name.clone(),
        kind: if template.snapshot { TemplateKind::Snapshot } else { TemplateKind::Base },
        vcpus: template.vcpus,
        memory_mb: template.memory_mb,
        disk_size_mb: template.disk_mb,
        size_bytes: template.size_bytes,
        created_at: template.created_at,
        platform: template.team == TeamId::PLATFORM,
        protected: template.team != to || template.id == model::TemplateId::MINIMAL,
    }
}
