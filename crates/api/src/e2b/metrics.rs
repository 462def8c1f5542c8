//! `/sandboxes/{id}/metrics` and `/sandboxes/metrics`: what sandboxes used.

use super::sandbox::live;
use super::shapes::SandboxId;
use crate::auth::Caller;
use crate::failure::Failure;
use crate::params::Params;
use crate::state::ApiState;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{StreamExt, stream};
use model::metrics::Range;
use model::rest::MetricPoint;
use model::{Capsule, CapsuleId, CapsuleStatus, Code, Error, TeamId, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How old the newest point of a running sandbox may be.
const NEWEST: Duration = Duration::from_secs(30);
/// Sandboxes whose hosts are asked at a time.
const ASKED: usize = 16;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/sandboxes/{id}/metrics", get(metrics)).route("/sandboxes/metrics", get(newest))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SandboxMetric {
    timestamp: String,
    timestamp_unix: u64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl SandboxMetric {
    fn of(capsule: &Capsule, point: &MetricPoint) -> Self {
        let mem_total = u64::from(capsule.size.memory_mb) << 20;
        let time = i64::try_from(point.timestamp_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
        Self {
            timestamp: time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true),
            timestamp_unix: point.timestamp_unix,
            cpu_count: capsule.size.vcpus,
            cpu_used_pct: point.cpu_pct,
            // Until its guest says how much of it is in use, all it has touched.
            mem_used: point.guest_mem_used_bytes.unwrap_or(point.mem_bytes).min(mem_total),
            mem_total,
            mem_cache: point.guest_mem_cache_bytes.unwrap_or_default(),
            disk_used: point.disk_bytes,
            disk_total: u64::from(capsule.size.disk_mb) << 20,
        }
    }
}

/// Unix seconds, both included.
#[derive(Deserialize)]
struct Interval {
    start: Option<u64>,
    end: Option<u64>,
}

/// From `start`, else from the beginning, as far back as anything is kept.
async fn metrics(
    State(state): State<ApiState>,
    caller: Caller,
    SandboxId(id): SandboxId,
    Params(Interval { start, end }): Params<Interval>,
) -> Result<Json<Vec<SandboxMetric>>, Failure> {
    if start.zip(end).is_some_and(|(start, end)| start > end) {
        return Err(Error::invalid("start must not be after end").into());
    }
    let capsule = live(&state, caller.team, id).await?;
    let born = u64::try_from(capsule.created_at.timestamp()).unwrap_or_default();
    let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    let start = start.unwrap_or_default().max(born);
    // The second that has begun counts.
    let window = Duration::from_secs(now.saturating_sub(start).saturating_add(1)).min(Range::Day.length());
    let (capsule, points) = state.fleet.metrics(caller.team, id, window).await?;
    let wanted = |point: &&MetricPoint| (start..=end.unwrap_or(u64::MAX)).contains(&point.timestamp_unix);
    Ok(Json(points.iter().filter(wanted).map(|point| SandboxMetric::of(&capsule, point)).collect()))
}

#[derive(Deserialize)]
struct Asked {
    /// Comma-separated.
    sandbox_ids: String,
}

#[derive(Serialize)]
struct Newest {
    sandboxes: BTreeMap<String, SandboxMetric>,
}

/// The newest point of each that runs; others are left out.
async fn newest(
    State(state): State<ApiState>,
    caller: Caller,
    Params(Asked { sandbox_ids }): Params<Asked>,
) -> Result<Json<Newest>, Failure> {
    let ids = sandbox_ids.split(',').map(str::trim).filter(|id| !id.is_empty());
    let ids: BTreeSet<_> = ids.filter_map(|id| CapsuleId::parse_lenient(id).ok()).collect();
    if ids.len() > limits::METRICS_SANDBOXES_MAX {
        let most = limits::METRICS_SANDBOXES_MAX;
        return Err(Error::invalid(format!("sandbox_ids: at most {most} sandboxes at once")).into());
    }
    let asked = ids.into_iter().map(|id| last_of(&state, caller.team, id));
    let found: Vec<_> = stream::iter(asked).buffer_unordered(ASKED).collect().await;
    let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Newest { sandboxes: found.into_iter().flatten().collect() }))
}

async fn last_of(state: &ApiState, team: TeamId, id: CapsuleId) -> Result<Option<(String, SandboxMetric)>, Error> {
    match state.fleet.metrics(team, id, NEWEST).await {
        Ok((capsule, points)) if capsule.status == CapsuleStatus::Running => {
            Ok(points.last().map(|point| (id.digits(), SandboxMetric::of(&capsule, point))))
        }
        Ok(_) => Ok(None),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
