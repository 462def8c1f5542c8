//! Between the words of the control plane and those of the wire to the agent.

use hostlink::SandboxEvent;
use lifecycle::server::{Event, Seen};
use model::egress::Block;
use model::lifetime::AtEnd;
use model::{Capacity, Capsule, Egress, EndReason, Lifetime};
use proto::hostagent::v1 as wire;
use proto::hostagent::v1::lifetime::{Action, Rule};
use store::{Facts, HostReport};
use uuid::Uuid;

/// Longest text taken over from an agent: it may quote a guest.
const TEXT_CHARS_MAX: usize = 500;
/// Most versions taken over from an agent.
const VERSIONS_MAX: usize = 16;

pub(crate) fn lifetime(lifetime: Lifetime) -> wire::Lifetime {
    let (rule, action) = match lifetime {
        Lifetime::Idle { ttl_s } => (Rule::IdleS(ttl_s.into()), Action::ACTION_PAUSE),
        Lifetime::Until { unix_ms, at_end: AtEnd::Pause } => (Rule::UntilUnixMs(unix_ms), Action::ACTION_PAUSE),
        Lifetime::Until { unix_ms, at_end: AtEnd::Kill } => (Rule::UntilUnixMs(unix_ms), Action::ACTION_KILL),
    };
    wire::Lifetime { rule: Some(rule), action: action.into(), ..Default::default() }
}

/// What an agent says a lifetime is; `None` when it says nothing sensible.
pub(crate) fn read_lifetime(lifetime: &wire::Lifetime) -> Option<Lifetime> {
    let at_end = match lifetime.action.as_known() {
        Some(Action::ACTION_KILL) => AtEnd::Kill,
        _ => AtEnd::Pause,
    };
    match lifetime.rule.as_ref()? {
        Rule::IdleS(ttl_s) => Some(Lifetime::Idle { ttl_s: u32::try_from(*ttl_s).ok()? }),
        Rule::UntilUnixMs(unix_ms) => Some(Lifetime::Until { unix_ms: *unix_ms, at_end }),
    }
}

pub(crate) fn egress(egress: &Egress) -> wire::Egress {
    let texts = |blocks: &[Block]| blocks.iter().map(ToString::to_string).collect();
    wire::Egress {
        allow_internet: egress.allow_internet,
        allow: texts(&egress.allow_out),
        deny: texts(&egress.deny_out),
        ..Default::default()
    }
}

/// What an agent says a capsule may reach; `None` when it says nothing sensible.
pub(crate) fn read_egress(egress: &wire::Egress) -> Option<Egress> {
    let blocks = |texts: &[String]| texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Block>>>();
    Some(Egress {
        allow_internet: egress.allow_internet,
        allow_out: blocks(&egress.allow)?,
        deny_out: blocks(&egress.deny)?,
    })
}

pub(crate) fn create_request(capsule: &Capsule, snapshot: Option<Uuid>) -> wire::CreateSandboxRequest {
    let surroundings = &capsule.surroundings;
    let identity = wire::Identity {
        default_user: surroundings.default_user.clone(),
        default_workdir: surroundings.default_workdir.clone(),
        envs: surroundings.envs.clone().into_iter().collect(),
        access_token: capsule.access_token.expose().to_owned(),
        ..Default::default()
    };
    wire::CreateSandboxRequest {
        sandbox_id: capsule.id.to_string(),
        template_id: capsule.template_id.uuid().to_string(),
        vcpus: capsule.size.vcpus,
        memory_mb: capsule.size.memory_mb,
        disk_size_mb: capsule.size.disk_mb,
        lifetime: Some(lifetime(capsule.lifetime)).into(),
        identity: Some(identity).into(),
        egress: Some(egress(&surroundings.egress)).into(),
        snapshot_id: snapshot.map(|id| id.to_string()).unwrap_or_default(),
        ..Default::default()
    }
}

pub(crate) fn facts(sandbox: wire::Sandbox) -> Facts {
    let versions = sandbox.versions.into_iter().take(VERSIONS_MAX).map(|(name, version)| (cut(&name), cut(&version)));
    Facts { isolation: cut(&sandbox.isolation), versions: versions.collect() }
}

pub(crate) fn report(host: &wire::GetHostResponse) -> HostReport {
    // More cores or memory than a signed number holds is not a host.
    let sane = |number: u64| number.min(i64::MAX.unsigned_abs());
    HostReport {
        capacity: Capacity {
            cpu_cores: host.cpu_cores.min(i32::MAX.unsigned_abs()),
            memory_mb: sane(host.memory_mb),
            disk_mb: sane(host.disk_mb),
        },
        isolation: cut(&host.isolation),
        arch: cut(&host.arch),
        draining: host.draining,
    }
}

/// What an entry of a host's list means.
pub(crate) fn seen(sandbox: &wire::Sandbox) -> Seen {
    match sandbox.status.as_str() {
        "running" => Seen::Running,
        "paused" => Seen::Paused(reason(&sandbox.reason)),
        "error" | "stopped" => Seen::Dead(reason(&sandbox.reason).unwrap_or(EndReason::VmCrash)),
        _ => Seen::Busy,
    }
}

/// What a host reported by itself; `None` for events of a newer agent.
pub(crate) fn happened(event: &SandboxEvent) -> Option<Event> {
    let why = |default| reason(&event.reason).unwrap_or(default);
    match event.event.as_str() {
        "sandbox.auto_paused" => Some(Event::Seen(Seen::Paused(Some(why(EndReason::Ttl))))),
        "sandbox.auto_killed" => Some(Event::Unknown(why(EndReason::Ttl))),
        // It went back to what was saved before.
        "sandbox.crashed" if event.status == "paused" => Some(Event::Seen(Seen::Paused(Some(why(EndReason::VmCrash))))),
        "sandbox.crashed" => Some(Event::Seen(Seen::Dead(why(EndReason::VmCrash)))),
        _ => None,
    }
}

fn reason(text: &str) -> Option<EndReason> {
    (!text.is_empty()).then(|| EndReason::parse(&cut(text)))
}

/// A text from a host, short enough to keep.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_round_trip() {
        let until = |at_end| Lifetime::Until { unix_ms: 1_800_000_000_123, at_end };
        for rule in [Lifetime::FOREVER, Lifetime::Idle { ttl_s: 60 }, until(AtEnd::Kill), until(AtEnd::Pause)] {
            assert_eq!(read_lifetime(&lifetime(rule)), Some(rule));
        }
        assert_eq!(read_lifetime(&wire::Lifetime::default()), None);
    }

    #[test]
    fn egress_round_trips() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (allow_out, deny_out) = (list(&["1.2.3.4", "10.0.0.0/8"]), list(&["0.0.0.0/0"]));
        for rule in [Egress::default(), Egress { allow_internet: false, allow_out, deny_out }] {
            assert_eq!(read_egress(&egress(&rule)), Some(rule));
        }
        assert_eq!(read_egress(&wire::Egress { deny: vec!["x".to_owned()], ..Default::default() }), None);
    }
}
