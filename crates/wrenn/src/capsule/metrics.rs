//! What a capsule used, as text.

use crate::cli::MetricsArgs;
use crate::failure::Outcome;
use crate::output::{self, Output};
use chrono::{DateTime, SecondsFormat, Utc};
use client::Client;
use model::rest::{MetricPoint, Metrics};

/// One line for each point, oldest first.
pub async fn show(client: &Client, args: &MetricsArgs, out: Output) -> Outcome {
    let metrics = client.metrics(args.capsule.id, args.range).await?;
    if metrics.points.is_empty() && !out.json {
        out.note("no points yet; the first comes within a second of running");
        return Ok(());
    }
    Ok(out.result(&metrics, table)?)
}

fn table(metrics: &Metrics) -> String {
    output::table(["TIME", "CPU", "MEMORY", "IN USE", "DISK", "SENT", "RECEIVED"], metrics.points.iter().map(row))
}

fn row(point: &MetricPoint) -> [String; 7] {
    let time = i64::try_from(point.timestamp_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    [
        time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true),
        format!("{:.1} %", point.cpu_pct),
        mib(point.mem_bytes),
        point.guest_mem_used_bytes.map_or_else(|| "-".to_owned(), mib),
        mib(point.disk_bytes),
        mib(point.net_sent_bytes),
        mib(point.net_received_bytes),
    ]
}

#[expect(clippy::cast_precision_loss)] // a tenth is shown
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::CapsuleId;
    use model::metrics::Range;

    #[test]
    fn points_as_a_table() {
        let point = MetricPoint {
            timestamp_unix: 1_700_000_000,
            timestamp_ms: 1_700_000_000_500,
            cpu_pct: 12.34,
            mem_bytes: 300 << 20,
            disk_bytes: 1 << 30,
            net_sent_bytes: 1_572_864,
            net_received_bytes: 100,
            guest_mem_used_bytes: None,
            guest_mem_cache_bytes: None,
        };
        let later = MetricPoint { timestamp_ms: 1_700_000_001_000, guest_mem_used_bytes: Some(50 << 20), ..point };
        let metrics = Metrics { sandbox_id: CapsuleId::random(), range: Range::Minutes10, points: vec![point, later] };
        insta::assert_snapshot!(table(&metrics), @r"
        TIME                      CPU     MEMORY     IN USE    DISK        SENT     RECEIVED
        2023-11-14T22:13:20.500Z  12.3 %  300.0 MiB  -         1024.0 MiB  1.5 MiB  0.0 MiB
        2023-11-14T22:13:21.000Z  12.3 %  300.0 MiB  50.0 MiB  1024.0 MiB  1.5 MiB  0.0 MiB
        ");
    }
}
