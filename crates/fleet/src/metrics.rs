//! What capsules used.

use crate::Fleet;
use connectrpc::client::CallOptions;
use model::rest::MetricPoint;
use model::{Capsule, CapsuleId, CapsuleStatus, Error, TeamId};
use proto::hostagent::v1 as wire;
use std::time::Duration;

/// Limit of the call.
const CALL: Duration = Duration::from_secs(15);
/// Most points taken over from an agent: more than it keeps of a capsule.
const POINTS_MAX: usize = 2_000;

impl Fleet {
    /// What a capsule used within `window`, oldest first; [`model::Code::NotFound`] once it has ended.
    pub async fn metrics(
        &self,
        team: TeamId,
        id: CapsuleId,
        window: Duration,
    ) -> Result<(Capsule, Vec<MetricPoint>), Error> {
        use CapsuleStatus::{Error as Failed, Missing, Stopped, Stopping};
        let capsule = self.get(team, id).await?;
        match capsule.status {
            // Its host may not have heard of it yet.
            CapsuleStatus::Starting => return Ok((capsule, Vec::new())),
            status @ (Stopping | Stopped | Missing | Failed) => {
                return Err(Error::not_found(format!("the capsule is {status}: metrics")));
            }
            _ => {}
        }
        let request = wire::GetSandboxMetricsRequest {
            sandbox_id: id.to_string(),
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(CALL);
        let answer = self.link(capsule.host)?.rpc().get_sandbox_metrics_with_options(request, options).await;
        let points = answer.map_err(|error| hostlink::error(&error))?.into_owned().points;
        Ok((capsule, points.iter().take(POINTS_MAX).map(point).collect()))
    }
}

fn point(point: &wire::MetricPoint) -> MetricPoint {
    MetricPoint {
        timestamp_unix: point.unix_ms / 1_000,
        timestamp_ms: point.unix_ms,
        // JSON has no words for what is not a number.
        cpu_pct: if point.cpu_pct.is_finite() { point.cpu_pct.clamp(0.0, 100.0) } else { 0.0 },
        mem_bytes: point.mem_bytes,
        disk_bytes: point.disk_bytes,
        net_sent_bytes: point.net_sent_bytes,
        net_received_bytes: point.net_received_bytes,
        guest_mem_used_bytes: point.guest_mem_used_bytes,
        guest_mem_cache_bytes: point.guest_mem_cache_bytes,
    }
}
