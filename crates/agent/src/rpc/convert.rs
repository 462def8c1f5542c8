//! Between the wire's messages and our own types.

use super::missing;
use crate::failure::Failure;
use crate::host::Host;
use crate::laps::Laps;
use crate::metrics::Point;
use crate::record::{Class, Egress};
use crate::shared::View;
use connectrpc::ConnectError;
use model::lifetime::AtEnd;
use model::{CapsuleId, Lifetime, limits};
use network::{Cidr, Policy};
use proto::hostagent::v1 as wire;
use std::time::Duration;
use uuid::Uuid;

/// A capsule's id. Checked here, so that nothing else than an id ever becomes part of a path.
pub fn identifier(text: &str) -> Result<CapsuleId, Failure> {
    text.parse().map_err(|error: model::ids::ParseIdError| Failure::Invalid(error.to_string()))
}

/// A snapshot's id.
pub fn snapshot(text: &str) -> Result<Uuid, Failure> {
    Uuid::parse_str(text).map_err(|_| Failure::Invalid("snapshot_id is not a UUID".to_owned()))
}

/// Where a call goes.
pub fn target(field: Option<&wire::Target>) -> Result<wire::Target, ConnectError> {
    field.cloned().ok_or_else(|| missing("target"))
}

/// The size class a request asks for.
pub fn class(request: &wire::CreateSandboxRequest) -> Result<Class, Failure> {
    let template =
        Uuid::parse_str(&request.template_id).map_err(|_| Failure::Invalid("template_id is not a UUID".to_owned()))?;
    let within = |n: u32, min: u32, max: u32| (min..=max).contains(&n);
    if !within(request.vcpus, 1, limits::VCPUS_MAX)
        || !within(request.memory_mb, limits::MEMORY_MB_MIN, limits::MEMORY_MB_MAX)
    {
        return Err(Failure::Invalid("vcpus or memory_mb is out of range".to_owned()));
    }
    Ok(Class { template, vcpus: request.vcpus, memory_mb: request.memory_mb })
}

/// When a capsule ends by itself; absent = never.
pub fn lifetime(field: Option<&wire::Lifetime>) -> Lifetime {
    use wire::lifetime::Rule;
    let Some(field) = field else { return Lifetime::FOREVER };
    match field.rule {
        Some(Rule::UntilUnixMs(unix_ms)) => {
            let kill = field.action == wire::lifetime::Action::ACTION_KILL;
            Lifetime::Until { unix_ms, at_end: if kill { AtEnd::Kill } else { AtEnd::Pause } }
        }
        Some(Rule::IdleS(s)) => Lifetime::Idle { ttl_s: u32::try_from(s).unwrap_or(limits::LIFETIME_S_MAX) },
        None => Lifetime::FOREVER,
    }
}

fn wire_lifetime(lifetime: Lifetime) -> wire::Lifetime {
    use wire::lifetime::{Action, Rule};
    let (rule, action) = match lifetime {
        Lifetime::Idle { ttl_s } => (Rule::IdleS(u64::from(ttl_s)), Action::ACTION_PAUSE),
        Lifetime::Until { unix_ms, at_end: AtEnd::Pause } => (Rule::UntilUnixMs(unix_ms), Action::ACTION_PAUSE),
        Lifetime::Until { unix_ms, at_end: AtEnd::Kill } => (Rule::UntilUnixMs(unix_ms), Action::ACTION_KILL),
    };
    wire::Lifetime { rule: Some(rule), action: action.into(), ..Default::default() }
}

/// What a capsule may reach, where that is said.
pub fn egress(field: Option<&wire::Egress>) -> Result<Option<Egress>, Failure> {
    let Some(field) = field else { return Ok(None) };
    let blocks = |texts: &[String]| {
        let parsed: Result<Vec<Cidr>, _> = texts.iter().map(|text| text.parse()).collect();
        parsed.map_err(|error| Failure::Invalid(error.to_string()))
    };
    let policy =
        Policy { allow_internet: field.allow_internet, allow: blocks(&field.allow)?, deny: blocks(&field.deny)? };
    policy.check().map_err(|error| Failure::Invalid(error.to_string()))?;
    Ok(Some(policy.into()))
}

fn wire_egress(egress: &Egress) -> wire::Egress {
    let texts = |blocks: &[Cidr]| blocks.iter().map(ToString::to_string).collect();
    wire::Egress {
        allow_internet: egress.allow_internet,
        allow: texts(&egress.allow_out),
        deny: texts(&egress.deny_out),
        ..Default::default()
    }
}

/// A capsule of which nothing but the id is known. Its status is none that anybody acts upon.
pub fn damaged(id: CapsuleId) -> wire::Sandbox {
    wire::Sandbox { sandbox_id: id.to_string(), status: "unknown".to_owned(), ..Default::default() }
}

/// A capsule as the wire shows it.
pub fn sandbox(host: &Host, view: &View, last_active_unix_ms: u64) -> wire::Sandbox {
    let record = &view.record;
    wire::Sandbox {
        sandbox_id: record.id.to_string(),
        status: view.status.to_string(),
        template_id: record.class.template.to_string(),
        vcpus: record.class.vcpus,
        memory_mb: record.class.memory_mb,
        disk_size_mb: record.disk_size_mb,
        isolation: host.isolation(),
        created_unix_ms: record.created_unix_ms,
        last_active_unix_ms,
        lifetime: wire_lifetime(record.lifetime).into(),
        egress: wire_egress(&record.egress).into(),
        versions: record.versions.clone().into_iter().collect(),
        access_token: record.identity.access_token.clone(),
        reason: record.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    }
}

/// What a capsule used.
#[expect(clippy::cast_precision_loss)] // at most 10,000
pub fn point(point: &Point) -> wire::MetricPoint {
    wire::MetricPoint {
        unix_ms: point.unix_ms,
        cpu_pct: point.cpu_bp as f64 / 100.0,
        mem_bytes: point.memory_bytes,
        disk_bytes: point.disk_bytes,
        net_sent_bytes: point.sent_bytes,
        net_received_bytes: point.received_bytes,
        guest_mem_used_bytes: point.guest.map(|guest| guest.used),
        guest_mem_cache_bytes: point.guest.map(|guest| guest.cache),
        ..Default::default()
    }
}

/// What a start took.
pub fn steps(laps: &Laps) -> Vec<wire::Step> {
    let step =
        |(name, took): &(&str, Duration)| wire::Step { name: (*name).to_owned(), us: us(*took), ..Default::default() };
    laps.taken().iter().map(step).collect()
}

/// Whole microseconds.
pub fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What this host is.
pub fn host(host: &Host) -> wire::GetHostResponse {
    let versions = host.versions();
    let version = |key: &str| versions.get(key).cloned().unwrap_or_default();
    let machine = host.capacity();
    wire::GetHostResponse {
        isolation: host.isolation(),
        agent_version: version("agent_version"),
        vmm_version: version("vmm_version"),
        kernel_version: version("kernel_version"),
        arch: std::env::consts::ARCH.to_owned(),
        cpu_cores: machine.cpu_cores,
        memory_mb: machine.memory_mb,
        disk_mb: machine.disk_mb,
        templates: vec![Uuid::nil().to_string()],
        snapshots: host.snapshots.ids().iter().map(Uuid::to_string).collect(),
        draining: host.drain.switch.is_on(),
        ..Default::default()
    }
}
