//! What the guest uses.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use http::StatusCode;
use procfs::{Current as _, CurrentSI as _};
use serde::Serialize;

use crate::daemon::{Interrupted, blocking};

const MIB: u64 = 1 << 20;

#[derive(Debug, Serialize)]
struct Metrics {
    /// Unix seconds.
    ts: i64,
    cpu_count: usize,
    /// Of all processors together since the last question, two decimals.
    cpu_used_pct: f64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    mem_total: u64,
    mem_used: u64,
    /// Page cache.
    mem_cache: u64,
    /// Of `/`; what is reserved for root counts as used.
    disk_used: u64,
    disk_total: u64,
}

/// Jiffies of all processors.
#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    total: u64,
    idle: u64,
}

static LAST: Mutex<Ticks> = Mutex::new(Ticks { total: 0, idle: 0 });

/// `GET /metrics`; 500 without a body when the kernel does not tell.
pub(super) async fn metrics() -> Response {
    match blocking(|| sample().map_err(|_| Interrupted)).await {
        Ok(metrics) => Json(metrics).into_response(),
        Err(Interrupted) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn sample() -> Result<Metrics, Arc<dyn std::error::Error>> {
    let memory = procfs::Meminfo::current().map_err(boxed)?;
    let kernel = procfs::KernelStats::current().map_err(boxed)?;
    let disk = rustix::fs::statvfs("/").map_err(boxed)?;
    let used = memory.mem_total.saturating_sub(memory.mem_available.unwrap_or(memory.mem_free));
    Ok(Metrics {
        ts: Utc::now().timestamp(),
        cpu_count: kernel.cpu_time.len(),
        cpu_used_pct: busy_since_last(ticks(&kernel.total)),
        mem_total_mib: memory.mem_total / MIB,
        mem_used_mib: used / MIB,
        mem_total: memory.mem_total,
        mem_used: used,
        mem_cache: memory.cached,
        disk_used: disk.f_blocks.saturating_sub(disk.f_bavail) * disk.f_frsize,
        disk_total: disk.f_blocks * disk.f_frsize,
    })
}

fn boxed(error: impl std::error::Error + 'static) -> Arc<dyn std::error::Error> {
    Arc::new(error)
}

fn ticks(cpu: &procfs::CpuTime) -> Ticks {
    let idle = cpu.idle + cpu.iowait.unwrap_or(0);
    let busy =
        cpu.user + cpu.nice + cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0) + cpu.steal.unwrap_or(0);
    Ticks { total: idle + busy, idle }
}

#[expect(clippy::cast_precision_loss)] // a percentage
fn busy_since_last(now: Ticks) -> f64 {
    let last = std::mem::replace(&mut *LAST.lock().unwrap_or_else(PoisonError::into_inner), now);
    let total = now.total.saturating_sub(last.total);
    if total == 0 {
        return 0.0;
    }
    let busy = total.saturating_sub(now.idle.saturating_sub(last.idle));
    (busy as f64 / total as f64 * 10_000.0).round() / 100.0
}
