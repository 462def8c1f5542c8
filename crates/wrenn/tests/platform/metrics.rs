//! What capsules use, as their users see it.

use crate::Verdict;
use crate::platform::{Platform, SETTLE};
use model::metrics::Range;
use model::rest::{ExecRequest, MetricPoint};
use model::{CapsuleId, Code};
use std::error::Error;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Longer than between two measurements, and than one needs to be noticed.
const WHILE: Duration = Duration::from_secs(3);

async fn points(platform: &Platform, id: CapsuleId) -> Result<Vec<MetricPoint>, client::Error> {
    Ok(platform.client.metrics(id, Range::Minutes10).await?.points)
}

/// The first point behind `after_ms` that is so.
async fn until(
    platform: &Platform,
    id: CapsuleId,
    after_ms: u64,
    what: &str,
    holds: impl Fn(&MetricPoint) -> bool,
) -> Result<MetricPoint, Box<dyn Error>> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let points = points(platform, id).await?;
        if let Some(point) = points.iter().find(|point| point.timestamp_ms > after_ms && holds(point)) {
            return Ok(*point);
        }
        if Instant::now() > deadline {
            return Err(format!("no point with {what}; the last is {:?}", points.last()).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn background(platform: &Platform, id: CapsuleId, script: &str) -> Result<u32, client::Error> {
    let request = ExecRequest {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..ExecRequest::default()
    };
    Ok(platform.client.start(id, &request).await?.pid)
}

/// What a capsule does shows in its points and in no other's.
pub async fn show_what_a_capsule_does(platform: &mut Platform) -> Verdict {
    let (busy, idle) = (platform.capsule().await?.id, platform.capsule().await?.id);
    let at_first = until(platform, busy, 0, "the guest's word", |point| point.guest_mem_used_bytes.is_some()).await?;
    let guest_used = at_first.guest_mem_used_bytes.unwrap_or_default();
    assert!(
        (MIB..512 * MIB).contains(&guest_used) && at_first.mem_bytes > 0 && at_first.disk_bytes > 0,
        "{at_first:?}"
    );

    let spin = background(platform, busy, "while :; do :; done").await?;
    let spinning = until(platform, busy, at_first.timestamp_ms, "a busy CPU", |point| point.cpu_pct > 50.0).await?;
    until(platform, idle, spinning.timestamp_ms, "an idle CPU", |point| point.cpu_pct < 25.0).await?;
    platform.client.kill(busy, &spin.to_string().parse()?, true).await?;
    until(platform, busy, spinning.timestamp_ms, "a CPU that is idle again", |point| point.cpu_pct < 25.0).await?;

    background(platform, busy, "python3 -c 'import time; kept = bytearray(150 << 20); time.sleep(10000)'").await?;
    until(platform, busy, at_first.timestamp_ms, "150 MiB more memory", |point| {
        let guest = point.guest_mem_used_bytes.unwrap_or_default();
        point.mem_bytes > at_first.mem_bytes + 100 * MIB && guest > guest_used + 100 * MIB
    })
    .await?;
    platform.sh(busy, "head -c 64M /dev/urandom > /root/file; sync").await?;
    until(platform, busy, at_first.timestamp_ms, "64 MiB more disk", |point| {
        point.disk_bytes > at_first.disk_bytes + 60 * MIB
    })
    .await?;
    let content = vec![7; usize::try_from(4 * MIB)?];
    platform.client.write_file(busy, "/tmp/there", std::io::Cursor::new(content)).await?;
    let mut back = platform.client.read_file(busy, "/tmp/there").await?;
    while back.chunk().await?.is_some() {}
    until(platform, busy, at_first.timestamp_ms, "4 MiB each way", |point| {
        point.net_received_bytes > at_first.net_received_bytes + 4 * MIB
            && point.net_sent_bytes > at_first.net_sent_bytes + 4 * MIB
    })
    .await?;
    let other = points(platform, idle).await?;
    assert!(other.iter().all(|point| point.net_received_bytes < 4 * MIB), "of another capsule");
    for id in [busy, idle] {
        platform.destroy(id).await?;
    }
    let gone = points(platform, busy).await.err().and_then(|error| error.code());
    assert_eq!(gone, Some(Code::NotFound));
    Ok(())
}

/// What a guest has used and freed is the host's again, where its VMM can take it back; the guest has the drivers on every tier.
pub async fn free_memory_goes_back(platform: &mut Platform) -> Verdict {
    let capsule = platform.capsule().await?;
    let drivers = platform.sh(capsule.id, "ls /sys/bus/virtio/drivers").await?;
    assert!(drivers.contains("virtio_balloon") && drivers.contains("virtio_rng"), "{drivers}");
    if capsule.isolation != "firecracker" {
        println!("  {} takes no memory back: not measured", capsule.isolation);
        return platform.destroy(capsule.id).await;
    }
    assert!(platform.sh(capsule.id, "cat /sys/class/misc/hw_random/rng_current").await?.starts_with("virtio_rng"));
    let at_first = until(platform, capsule.id, 0, "anything", |_| true).await?;
    let taker = background(
        platform,
        capsule.id,
        "exec python3 -c 'import time; kept = bytearray(150 << 20); time.sleep(10000)'",
    )
    .await?;
    let much = until(platform, capsule.id, 0, "150 MiB more", |point| point.mem_bytes > at_first.mem_bytes + 140 * MIB)
        .await?;
    platform.client.kill(capsule.id, &taker.to_string().parse()?, true).await?;
    let given_back = |point: &MetricPoint| point.mem_bytes + 100 * MIB < much.mem_bytes;
    until(platform, capsule.id, much.timestamp_ms, "100 MiB given back", given_back).await?;
    // Memory that is used again, also after a pause, holds what is written.
    let holds = "python3 -c 'text = b\"wrenn\" * (20 << 20); print(bytearray(text) == text)'";
    assert_eq!(platform.sh(capsule.id, holds).await?, "True\n");
    platform.pause(capsule.id).await?;
    platform.resume(capsule.id).await?;
    assert_eq!(platform.sh(capsule.id, holds).await?, "True\n");
    platform.destroy(capsule.id).await
}

/// Points of before a pause are there while it lasts, after it, and after a crash of the platform; nothing is measured of
/// what does not run.
pub async fn outlive_pauses_and_crashes(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let before = until(platform, id, 0, "anything", |_| true).await?;
    platform.pause(id).await?;
    assert!(points(platform, id).await?.contains(&before));
    // What was being measured when the pause began may still come.
    tokio::time::sleep(WHILE).await;
    let kept = points(platform, id).await?;
    assert!(kept.contains(&before));
    tokio::time::sleep(WHILE).await;
    assert_eq!(points(platform, id).await?, kept, "measured while it was paused");
    let last = *kept.last().ok_or("none")?;

    for crash in [false, true] {
        if crash {
            platform.kill()?;
            *platform = Platform::start("0").await?;
        } else {
            platform.resume(id).await?;
        }
        let next = until(platform, id, last.timestamp_ms, "a later time", |_| true).await?;
        assert!(next.timestamp_ms - last.timestamp_ms > 2_000, "no gap: {last:?} {next:?}");
        assert!(next.net_received_bytes >= last.net_received_bytes, "counted anew: {last:?} {next:?}");
        let all = points(platform, id).await?;
        assert!(all.starts_with(&kept) && all.is_sorted_by(|a, b| a.timestamp_ms < b.timestamp_ms));
    }
    let day = platform.client.metrics(id, Range::Day).await?.points;
    assert!(!day.is_empty() && day.len() < 4, "{day:?}");
    platform.destroy(id).await
}
