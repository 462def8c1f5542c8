//! Clones of a running capsule, a twentieth of whose memory has changed.

use crate::figure::{Figure, median};
use crate::floor::{Floor, PAGE};
use crate::platform::Platform;
use crate::{Measured, REST, ROUNDS};
use futures_util::future::try_join_all;
use hostlink::{AgentLink, Endpoint};
use model::CapsuleId;
use model::rest::{ForkCapsule, Forked};
use proto::hostagent::v1 as wire;
use std::error::Error;
use std::time::{Duration, Instant};
use uuid::Uuid;

const CLONES: usize = 8;

/// What changes: 26 MiB of the capsule's 512.
const CHANGED_PAGES: usize = (26 << 20) / PAGE;

/// Writes as much again and again, one pass each time it is told to.
const WRITER: &str = "mkfifo /root/in /root/out; nohup python3 -c '
import os
memory, n = bytearray(26 << 20), 0
while True:
    open(\"/root/in\").read()
    n += 1
    for page in range(0, len(memory), 4096):
        memory[page:page + 8] = n.to_bytes(8, \"little\")
    open(\"/root/out\", \"w\").write(\"done\")
' >/root/log 2>&1 &";
/// One pass.
const WRITE: &str = "echo > /root/in; cat /root/out";

/// How long the source stands still, beside what nobody can do without: on bare QEMU, saving the device state and copying
/// as many changed pages into a clone of the memory they differ from; and how long it takes until eight clones have run a
/// command.
pub async fn measure(platform: &Platform, floor: &Floor) -> Measured {
    let bare = floor.stopped([WRITER, WRITE]).await?;
    let places = floor.changed_pages(&bare, CHANGED_PAGES).await?;
    let source = platform.capsule().await?.id;
    platform.sh(source, WRITER).await?;
    let link = AgentLink::new(Endpoint::Unix(platform.dir.join("run/agent.sock")));
    let (mut devices, mut pages) = (Vec::new(), Vec::new());
    let (mut stood, mut eight, mut one) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        devices.push(floor.save_devices(&bare).await?);
        pages.push(floor.copy_pages(&places)?);
        tokio::time::sleep(REST).await;
        platform.sh(source, WRITE).await?;
        stood.push(snapshot(&link, source).await?);
        tokio::time::sleep(REST).await;
        one.push(clones(platform, source, 1).await?);
        eight.push(clones(platform, source, CLONES).await?);
    }
    platform.destroy(source).await?;
    floor.end(bare).await?;
    let (devices, pages) = (median(&devices), median(&pages));
    for (name, took) in [("device state", devices), ("changed pages", pages)] {
        eprintln!("  fork: {name:<16} {:>8.1} ms", took.as_secs_f64() * 1e3);
    }
    Ok(vec![
        Figure::ratio("fork.standstill", median(&stood), devices + pages, 2.0),
        // Clones cannot take longer side by side than one after another.
        Figure::ratio("fork.eight_to_exec", median(&eight), median(&one) * u32::try_from(CLONES)?, 1.0),
    ])
}

/// How long its source stood still.
async fn snapshot(link: &AgentLink, source: CapsuleId) -> Result<Duration, Box<dyn Error>> {
    let id = Uuid::now_v7().to_string();
    let request =
        wire::SnapshotSandboxRequest { sandbox_id: source.to_string(), snapshot_id: id.clone(), ..Default::default() };
    let taken = link.rpc().snapshot_sandbox(request).await?.into_owned();
    link.rpc().delete_snapshot(wire::DeleteSnapshotRequest { snapshot_id: id, ..Default::default() }).await?;
    Ok(Duration::from_micros(taken.standstill_us))
}

/// From the request until each clone has run a command.
async fn clones(platform: &Platform, source: CapsuleId, count: usize) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let clones = platform.client.fork(source, &ForkCapsule { count: Some(i64::try_from(count)?) }).await?;
    let ids = clones.into_iter().map(|clone| match clone {
        Forked::Capsule(capsule) => Ok(capsule.id),
        Forked::Error { message, .. } => Err(message),
    });
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    try_join_all(ids.iter().map(|id| platform.sh(*id, "true"))).await?;
    let took = began.elapsed();
    for id in ids {
        platform.destroy(id).await?;
    }
    tokio::time::sleep(REST).await;
    Ok(took)
}
