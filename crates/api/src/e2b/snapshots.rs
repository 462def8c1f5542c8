//! Snapshots of sandboxes: `POST /sandboxes/{id}/snapshots`, `GET /snapshots`, `DELETE /templates/{id}`. A snapshot's id or
//! name is a template of new sandboxes.

use super::sandbox::live;
use super::shapes::SandboxId;
use crate::auth::Caller;
use crate::body::optional_json;
use crate::failure::Failure;
use crate::params::{Params, param};
use crate::state::ApiState;
use crate::v1::template_name;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use fleet::SaveTemplate;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use model::{CapsuleId, Error, Template, TemplateId, limits};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

const NEXT_TOKEN: &str = "x-next-token";

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/sandboxes/{id}/snapshots", post(take))
        .route("/snapshots", get(list))
        .route("/templates/{id}", delete(remove))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SnapshotBody {
    name: Option<String>,
    memory: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotInfo {
    #[serde(rename = "snapshotID")]
    snapshot_id: TemplateId,
    names: Vec<String>,
}

/// A name that its user did not choose is none to E2B.
fn info(template: &Template) -> SnapshotInfo {
    let names = Some(template.name.clone()).filter(|name| !is_unnamed(name));
    SnapshotInfo { snapshot_id: template.id, names: names.into_iter().collect() }
}

/// As the platform names a template whose maker named none.
fn is_unnamed(name: &str) -> bool {
    let digits = name.strip_prefix("template-");
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// One of the same name takes the place of the former.
async fn take(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    body: Body,
) -> Result<(StatusCode, Json<SnapshotInfo>), Failure> {
    live(&state, caller.team, id).await?;
    let asked: SnapshotBody = optional_json(body).await?;
    let name = asked.name.filter(|name| !name.is_empty()).map(|name| plain(&name)).transpose()?;
    let wish = SaveTemplate { name, discard_memory: asked.memory == Some(false), overwrite: true };
    let template = state.fleet.save_template(caller.team, id, wish).await?;
    Ok((StatusCode::CREATED, Json(info(&template))))
}

/// `name:default` is the same as `name`.
fn plain(name: &str) -> Result<String, Error> {
    template_name(name.strip_suffix(":default").unwrap_or(name).to_owned())
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Query {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    name: String,
    limit: Option<u32>,
    next_token: String,
}

/// The team's own, newest first.
async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<Query>,
) -> Result<(HeaderMap, Json<Vec<SnapshotInfo>>), Failure> {
    let source = (!query.sandbox_id.is_empty()).then(|| CapsuleId::parse_lenient(&query.sandbox_id));
    let source = source.transpose().map_err(|error| Error::invalid(format!("sandboxID: {error}")))?;
    let name = (!query.name.is_empty()).then(|| plain(&query.name)).transpose()?;
    let from = (!query.next_token.is_empty()).then(|| query.next_token.parse::<TemplateId>()).transpose();
    let from = from.map_err(|_| Error::invalid("this page token is not one of ours"))?;
    let templates = state.fleet.templates(caller.team).await?;
    let mut matching: Vec<&Template> = templates
        .iter()
        .filter(|template| template.source.is_some() && template.team == caller.team)
        .filter(|template| source.is_none() || template.source == source)
        .filter(|template| name.as_ref().is_none_or(|name| template.name == *name))
        // Ids are in the order of time, so a page begins rightly also where the token's own template is gone.
        .filter(|template| from.is_none_or(|from| template.id.uuid() <= from.uuid()))
        .collect();
    matching.sort_by_key(|template| Reverse(template.id.uuid()));
    let limit = query.limit.map_or(limits::PAGE_MAX, |limit| limit.clamp(1, limits::PAGE_MAX));
    let mut headers = HeaderMap::new();
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    // The token names the first of the next page. Absent on the last one: clients ask for more as long as it is there.
    if let Some(next) = matching.get(page).and_then(|next| HeaderValue::try_from(next.id.to_string()).ok()) {
        headers.insert(NEXT_TOKEN, next);
    }
    matching.truncate(page);
    Ok((headers, Json(matching.into_iter().map(info).collect())))
}

/// Name or id in the path; percent-encoded as one part.
struct TemplatePath(String);

impl FromRequestParts<ApiState> for TemplatePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Failure> {
        let text = param(parts, state, "id").await?;
        // What cannot be a name is none of ours: clients take 404 for "it is gone".
        Ok(Self(plain(&text).map_err(|_| Error::not_found(format_args!("template {text:?}")))?))
    }
}

async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Result<StatusCode, Failure> {
    state.fleet.delete_template(caller.team, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
