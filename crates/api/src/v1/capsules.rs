//! `/v1/capsules`: create, list, look, pause, resume, ping, destroy.

use crate::auth::Caller;
use crate::body::{json, optional_json};
use crate::failure::Failure;
use crate::params::{Id, Params, Wait};
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use fleet::{Create, Filter, Fork, Resume, Surface, Until};
use http::StatusCode;
use model::rest::{self, CreateCapsule, ForkCapsule, Forked};
use model::{CapsuleId, CapsuleStatus, Code, EndReason, Error, Lifetime, TeamId, check, limits};
use serde::Deserialize;
use std::time::Duration;

/// How long clones may take to run: clients commonly give up after a minute or later.
const FORK: Duration = Duration::from_secs(55);

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/capsules", post(create).get(list))
        .route("/v1/capsules/{id}", get(look).delete(destroy))
        .route("/v1/capsules/{id}/pause", post(pause))
        .route("/v1/capsules/{id}/resume", post(resume))
        .route("/v1/capsules/{id}/ping", post(ping))
        .route("/v1/capsules/{id}/fork", post(fork))
}

type Answer = Result<(StatusCode, Json<rest::Capsule>), Failure>;

async fn create(State(state): State<ApiState>, caller: Caller, Params(wait): Params<Wait>, body: Body) -> Answer {
    let request = parse(json(body).await?)?;
    let capsule = state.fleet.create(caller.team, request).await?;
    settled(&state, capsule, wait.or(Duration::ZERO)).await
}

fn parse(asked: CreateCapsule) -> Result<Create, Error> {
    let template = asked.template.filter(|name| !name.is_empty()).unwrap_or_else(|| "minimal".to_owned());
    if !check::is_safe_name(&template) {
        return Err(Error::invalid(
            "template: a name begins with a letter or digit and has at most 64 of a-z A-Z 0-9 . _ -",
        ));
    }
    check::metadata(&asked.metadata)?;
    check::envs(&asked.envs)?;
    let given = |asked: Option<i64>| asked.filter(|n| *n != 0);
    Ok(Create {
        template,
        vcpus: given(asked.vcpus).map(|n| check::vcpus(Some(n))).transpose()?,
        memory_mb: given(asked.memory_mb).map(|n| check::memory_mb(Some(n))).transpose()?,
        disk_mb: given(asked.disk_size_mb).map(check::disk_size_mb).transpose()?,
        lifetime: Lifetime::Idle { ttl_s: check::idle_s(asked.timeout_sec)? },
        metadata: asked.metadata,
        envs: asked.envs,
        surface: Surface::Wrenn,
        egress: asked.network.unwrap_or_default().parse()?,
    })
}

/// All that are neither stopped nor failed, newest first.
async fn list(State(state): State<ApiState>, caller: Caller) -> Result<Json<Vec<rest::Capsule>>, Failure> {
    let mut filter = Filter::default();
    let mut capsules = Vec::new();
    loop {
        let page = state.fleet.list(caller.team, filter.clone()).await?;
        capsules.extend(page.capsules.iter().map(model::Capsule::to_rest));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return Ok(Json(capsules));
        }
    }
}

/// In any status: a destroyed capsule stays visible, with the reason of its end.
async fn look(State(state): State<ApiState>, caller: Caller, Id(id): Id) -> Result<Json<rest::Capsule>, Failure> {
    Ok(Json(state.fleet.get(caller.team, id).await?.to_rest()))
}

async fn pause(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    Params(wait): Params<Wait>,
    Params(how): Params<MemoryParams>,
) -> Answer {
    let capsule = state.fleet.pause(caller.team, id, how.discards()).await?;
    settled(&state, capsule, wait.or(limits::ANSWER_HOLD)).await
}

/// `?memory=discard`: of a pause, keep the disk only; of a resume, boot from it.
#[derive(Deserialize)]
struct MemoryParams {
    memory: Option<Memory>,
}

impl MemoryParams {
    fn discards(&self) -> bool {
        matches!(self.memory, Some(Memory::Discard))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Memory {
    Discard,
}

async fn resume(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    Params(wait): Params<Wait>,
    Params(how): Params<MemoryParams>,
) -> Answer {
    let how = Resume { discard_memory: how.discards(), lifetime: None };
    let capsule = state.fleet.resume(caller.team, id, how).await?;
    let answer = settled(&state, capsule, wait.or(limits::ANSWER_HOLD)).await?;
    match &answer.1.0 {
        rest::Capsule { status: CapsuleStatus::Paused, reason: Some(EndReason::StartFailed(why)), .. } => {
            Err(Failure(not_resumed(why)))
        }
        _ => Ok(answer),
    }
}

/// Why it is still paused.
fn not_resumed(why: &str) -> Error {
    match why.strip_prefix(hostlink::INCOMPATIBLE) {
        Some(why) => Error::new(Code::SnapshotIncompatible, why),
        None => Error::new(Code::AgentError, format!("the capsule could not be resumed: {why}")),
    }
}

async fn ping(State(state): State<ApiState>, caller: Caller, Id(id): Id) -> Result<StatusCode, Failure> {
    state.fleet.ping(caller.team, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// 201 with one entry per clone, each as soon as all of them run or have failed.
async fn fork(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    body: Body,
) -> Result<(StatusCode, Json<Vec<Forked>>), Failure> {
    let asked: ForkCapsule = optional_json(body).await?;
    let how = Fork { count: check::fork_count(asked.count)?, lifetime: None, limit: FORK };
    let clones = state.fleet.fork(caller.team, id, how).await?;
    let entry = |clone: Result<model::Capsule, Error>| match clone {
        Ok(capsule) => Forked::Capsule(Box::new(capsule.to_rest())),
        Err(Error { code, message }) => Forked::Error { code, message },
    };
    Ok((StatusCode::CREATED, Json(clones.into_iter().map(entry).collect())))
}

async fn destroy(State(state): State<ApiState>, caller: Caller, Id(id): Id, Params(wait): Params<Wait>) -> Answer {
    let capsule = end(&state, caller.team, id).await?;
    settled(&state, capsule, wait.or(Duration::ZERO)).await
}

/// Destroys it and cuts its open connections: it is `stopping` by then, so whoever asks hears that it is gone.
pub(crate) async fn end(state: &ApiState, team: TeamId, id: CapsuleId) -> Result<model::Capsule, Error> {
    let capsule = state.fleet.destroy(team, id).await?;
    state.ports.reset(id);
    Ok(capsule)
}

/// 202 with the final status if that comes in time, else with the present one.
async fn settled(state: &ApiState, capsule: model::Capsule, limit: Duration) -> Answer {
    let capsule = if limit.is_zero() || !capsule.status.is_transient() {
        capsule
    } else {
        state.fleet.wait(capsule.id, Until::Settled, limit).await?
    };
    Ok((StatusCode::ACCEPTED, Json(capsule.to_rest())))
}
