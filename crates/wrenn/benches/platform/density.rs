//! Many small capsules at a time.

use crate::Measured;
use crate::figure::Figure;
use crate::platform::Platform;
use futures_util::future::try_join_all;
use model::CapsuleId;
use model::rest::CreateCapsule;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

const CAPSULES: usize = 50;
const MEMORY_MB: u32 = 128;

/// How long the slowest takes to run a command while all of them run, and what one of them costs the host in memory that
/// it shares with nobody.
pub async fn measure(platform: &Platform) -> Measured {
    let mut ids = Vec::new();
    // The first one boots what the others are clones of.
    ids.push(capsule(platform).await?);
    let before = vmms(&platform.dir)?;
    let began = Instant::now();
    while ids.len() < CAPSULES {
        let more = (CAPSULES - ids.len()).min(10);
        ids.extend(try_join_all((0..more).map(|_| capsule(platform))).await?);
    }
    let created = began.elapsed();
    let answers = try_join_all(ids.iter().map(|id| async {
        let asked = Instant::now();
        platform.sh(*id, "true").await.map(|_| asked.elapsed())
    }));
    let slowest = answers.await?.into_iter().max().unwrap_or_default();
    let clones: Vec<u32> = vmms(&platform.dir)?.into_iter().filter(|pid| !before.contains(pid)).collect();
    let pss_kib = clones.iter().map(|pid| pss_kib(*pid)).sum::<Result<u64, _>>()?;
    for id in ids {
        platform.destroy(id).await?;
    }
    let count = u32::try_from(clones.len().max(1))?;
    Ok(vec![
        Figure::limit("density.slowest_of_50", slowest, Duration::from_secs(10)),
        Figure::limit("density.create_each", created / count, Duration::from_secs(1)),
        Figure::at_most("density.pss_each", megabytes(pss_kib) / f64::from(count), "MB", f64::from(MEMORY_MB)),
    ])
}

async fn capsule(platform: &Platform) -> Result<CapsuleId, Box<dyn Error>> {
    let small = CreateCapsule { memory_mb: Some(MEMORY_MB.into()), ..CreateCapsule::default() };
    let id = platform.client.create(&small).await?.id;
    platform.reached(id, model::CapsuleStatus::Running).await?;
    Ok(id)
}

/// Processes of this platform's VMMs.
fn vmms(dir: &Path) -> Result<Vec<u32>, Box<dyn Error>> {
    let text = dir.display().to_string();
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains(&text) && line.starts_with("qemu-system") {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Memory of a process, a page that several share counted in parts (`proc_pid_smaps(5)`).
fn pss_kib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[allow(clippy::cast_precision_loss)]
fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1.024e-3
}
