//! What all server streams have in common.

use std::time::Duration;

use http::HeaderMap;

use crate::limits;

/// Silence after which this client wants a sign of life: its `Keepalive-Ping-Interval` in seconds, else 90 s.
pub fn keepalive_interval(headers: &HeaderMap) -> Duration {
    headers
        .get("keepalive-ping-interval")
        .and_then(|value| value.to_str().ok()?.trim().parse::<i64>().ok())
        .and_then(|seconds| u64::try_from(seconds).ok().filter(|seconds| *seconds > 0))
        .map_or(limits::KEEPALIVE, Duration::from_secs)
        .max(limits::KEEPALIVE_MIN)
}
