//! Clones of a running capsule, a twentieth of whose memory has changed.

use crate::figure::{Figure, median};
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

/// Writes 26 MiB of the capsule's 512 again and again, one pass each time it is told to.
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

/// How long the source stands still, beside what taking its device state and changed memory takes; and how long it takes
/// until eight clones have run a command.
pub async fn measure(platform: &Platform) -> Measured {
    let source = platform.capsule().await?.id;
    platform.sh(source, WRITER).await?;
    let link = AgentLink::new(Endpoint::Unix(platform.dir.join("run/agent.sock")));
    let (mut whole, mut taking, mut eight, mut one) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        platform.sh(source, "echo > /root/in; cat /root/out").await?;
        let (all, part) = snapshot(&link, source).await?;
        whole.push(all);
        taking.push(part);
        tokio::time::sleep(REST).await;
        one.push(clones(platform, source, 1).await?);
        eight.push(clones(platform, source, CLONES).await?);
    }
    platform.destroy(source).await?;
    Ok(vec![
        Figure::ratio("fork.standstill", median(&whole), median(&taking), 2.0),
        // Clones cannot take longer side by side than one after another.
        Figure::ratio("fork.eight_to_exec", median(&eight), median(&one) * u32::try_from(CLONES)?, 1.0),
    ])
}

async fn snapshot(link: &AgentLink, source: CapsuleId) -> Result<(Duration, Duration), Box<dyn Error>> {
    let id = Uuid::now_v7().to_string();
    let request =
        wire::SnapshotSandboxRequest { sandbox_id: source.to_string(), snapshot_id: id.clone(), ..Default::default() };
    let taken = link.rpc().snapshot_sandbox(request).await?.into_owned();
    link.rpc().delete_snapshot(wire::DeleteSnapshotRequest { snapshot_id: id, ..Default::default() }).await?;
    Ok((Duration::from_micros(taken.standstill_us), Duration::from_micros(taken.taking_us)))
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
