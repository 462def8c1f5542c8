//! Disks larger than their template's.

use crate::Verdict;
use crate::platform::{Platform, SETTLE};
use client::Client;
use model::rest::{CreateCapsule, ForkCapsule, Forked, SaveTemplate};
use model::{CapsuleId, CapsuleStatus, Code};
use std::error::Error;

/// The template's disk has 5120.
const DISK_MB: u32 = 7_000;

/// MiB that the root file system has, and whether what was written is there.
const LOOK: &str = "df --output=size -B1M / | tail -1; cat /root/mark";

fn sized(disk_mb: u32, template: Option<&str>) -> CreateCapsule {
    CreateCapsule {
        disk_size_mb: Some(disk_mb.into()),
        template: template.map(str::to_owned),
        ..CreateCapsule::default()
    }
}

async fn created(client: &Client, wish: &CreateCapsule) -> Result<CapsuleId, Box<dyn Error>> {
    let capsule = client.settled(client.create(wish).await?.id, SETTLE).await?;
    if capsule.status != CapsuleStatus::Running {
        return Err(format!("it is {}: {:?}", capsule.status, capsule.reason).into());
    }
    assert_eq!(Some(i64::from(capsule.disk_size_mb)), wish.disk_size_mb);
    Ok(capsule.id)
}

/// The file system takes the disk but for its own tables.
async fn has(platform: &Platform, id: CapsuleId, disk_mb: u32) -> Verdict {
    let said = platform.sh(id, LOOK).await?;
    let mut lines = said.lines().map(str::trim);
    let size: u32 = lines.next().unwrap_or_default().parse()?;
    if size > disk_mb || size < disk_mb - disk_mb / 10 || lines.next() != Some("written") {
        return Err(format!("{id} has {said:?} of {disk_mb}").into());
    }
    Ok(())
}

/// A capsule's disk is as large as was asked for, in whatever way it goes on and whatever is made of it.
pub async fn are_as_large_as_asked_for(platform: &mut Platform) -> Verdict {
    let client = platform.client.clone();
    let id = created(&client, &sized(DISK_MB, None)).await?;
    platform.sh(id, "echo written > /root/mark; sync").await?;
    has(platform, id, DISK_MB).await?;
    platform.pause(id).await?;
    platform.resume(id).await?;
    has(platform, id, DISK_MB).await?;

    let forked = client.fork(id, &ForkCapsule::default()).await?;
    let Some(Forked::Capsule(clone)) = forked.into_iter().next() else { return Err("no clone".into()) };
    platform.reached(clone.id, CapsuleStatus::Running).await?;
    has(platform, clone.id, DISK_MB).await?;

    // With memory, and as a disk to boot from; each grown once more.
    for memory in [true, false] {
        let wish = SaveTemplate { sandbox_id: id, name: Some("large".to_owned()), memory: Some(memory) };
        let template = client.save_template(&wish, false).await?;
        assert_eq!(template.disk_size_mb, DISK_MB);
        let smaller = client.create(&sized(DISK_MB - 1, Some("large"))).await.err().ok_or("a disk got smaller")?;
        assert_eq!(smaller.code(), Some(Code::InvalidRequest), "{smaller}");
        let larger = created(&client, &sized(DISK_MB + 1_000, Some("large"))).await?;
        has(platform, larger, DISK_MB + 1_000).await?;
        platform.destroy(larger).await?;
        client.delete_template("large").await?;
    }
    client.pause(id, true).await?;
    platform.reached(id, CapsuleStatus::Paused).await?;
    platform.resume(id).await?;
    has(platform, id, DISK_MB).await?;
    for id in [id, clone.id] {
        platform.destroy(id).await?;
    }
    Ok(())
}
