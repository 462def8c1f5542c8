//! A random history of capsules, each compared with what it must hold: nothing is lost and nothing is invented, whatever
//! happens to them in whatever order.
//!
//! `WRENN_HISTORY_STEPS` and `WRENN_HISTORY_SEED` choose another one.

use crate::Verdict;
use crate::fork::{clones, sum};
use crate::host;
use crate::lifecycle::{KEEPER, start_keeper};
use crate::platform::{Platform, SETTLE};
use model::rest::{CreateCapsule, SaveTemplate};
use model::{CapsuleId, CapsuleStatus, EndReason};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;

const STEPS: u64 = 60;
/// Most capsules at a time.
const CAPSULES: usize = 4;
/// Name of the template that is made.
const KEPT: &str = "history";

/// A capsule as it must be.
#[derive(Debug)]
struct Expected {
    /// Of its memory and disk.
    digest: String,
    /// That digest at its last pause, to which it goes back when its VM is lost; none before its first.
    saved: Option<String>,
    paused: bool,
    born: Instant,
}

impl Expected {
    /// One that runs and was never paused.
    fn new(digest: String) -> Self {
        Self { digest, saved: None, paused: false, born: Instant::now() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Pause,
    Resume,
    Fork,
    /// A template is made of it, a capsule of that, and the template goes.
    Snapshot,
    Destroy,
    KillVmm,
    KillPlatform,
}

/// Writing, zeroing, pausing, resuming, cloning, keeping as a template and destroying, with VMMs and the platform
/// killed now and then.
pub async fn nothing_is_lost_or_invented(platform: &mut Platform) -> Verdict {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let steps = number("WRENN_HISTORY_STEPS").unwrap_or(STEPS);
    let seed = number("WRENN_HISTORY_SEED").unwrap_or_else(rand::random);
    let mut chance = StdRng::seed_from_u64(seed);
    let before = host::saved(&platform.dir);
    let mut capsules = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for step in 0..steps {
        if capsules.is_empty() {
            let id = platform.capsule().await?.id;
            start_keeper(platform, id, KEEPER).await?;
            capsules.insert(id, Expected::new(sum(platform, id).await?));
        }
        let chosen = choose(&capsules, &mut chance);
        *counts.entry(format!("{:?}", chosen.1)).or_insert(0) += 1;
        let taken = take(platform, &mut capsules, chosen, chance.random()).await;
        taken.map_err(|error| format!("step {step} of seed {seed}, {chosen:?}: {error}"))?;
    }
    for (id, expected) in &mut capsules {
        if std::mem::take(&mut expected.paused) {
            platform.resume(*id).await?;
        }
    }
    compare_all(platform, &capsules).await?;
    for id in capsules.into_keys() {
        platform.destroy(id).await?;
    }
    println!("  seed {seed}: {steps} steps, {counts:?}");
    host::saved_again(&platform.dir, &before).await
}

/// A capsule, and something that can be done to it: with the same seed the same, whatever ids capsules get.
fn choose(capsules: &BTreeMap<CapsuleId, Expected>, chance: &mut StdRng) -> (CapsuleId, Step) {
    let mut by_age: Vec<_> = capsules.iter().collect();
    by_age.sort_by_key(|(_, expected)| expected.born);
    loop {
        let Some((id, expected)) = by_age.iter().choose(chance) else { continue };
        let step = match chance.random_range(0..100) {
            0..35 => Step::Write,
            35..60 if expected.paused => Step::Resume,
            35..60 => Step::Pause,
            60..70 => Step::Fork,
            70..78 => Step::Snapshot,
            78..88 => Step::Destroy,
            88..95 => Step::KillVmm,
            _ => Step::KillPlatform,
        };
        let possible = match step {
            Step::Write | Step::KillVmm => !expected.paused,
            Step::Fork => !expected.paused && capsules.len() < CAPSULES,
            Step::Snapshot => capsules.len() < CAPSULES,
            Step::Destroy => capsules.len() > 1,
            _ => true,
        };
        if possible {
            return (**id, step);
        }
    }
}

/// Does it, and compares the capsules it touched.
async fn take(
    platform: &mut Platform,
    capsules: &mut BTreeMap<CapsuleId, Expected>,
    (id, step): (CapsuleId, Step),
    number: u32,
) -> Verdict {
    let expected = capsules.get_mut(&id).ok_or("no such capsule")?;
    match step {
        Step::Write => {
            let digest = platform.sh(id, &format!("echo step {number} > /root/in; cat /root/out")).await?;
            assert_eq!(digest.len(), 128);
            expected.digest = digest;
        }
        Step::Pause => {
            platform.pause(id).await?;
            expected.saved = Some(expected.digest.clone());
            expected.paused = true;
        }
        Step::Resume => {
            platform.resume(id).await?;
            expected.paused = false;
        }
        Step::Fork => {
            let like = Expected::new(expected.digest.clone());
            let clone = clones(platform, id, 1).await?.pop().ok_or("no clone")?;
            capsules.insert(clone, like);
            compare(platform, capsules, clone).await?;
        }
        Step::Snapshot => {
            let like = Expected::new(expected.digest.clone());
            let made = by_template(platform, id).await?;
            capsules.insert(made, like);
            compare(platform, capsules, made).await?;
            platform.client.delete_template(KEPT).await?;
        }
        Step::Destroy => {
            platform.destroy(id).await?;
            capsules.remove(&id);
        }
        Step::KillVmm => lose_vm(platform, capsules, id).await?,
        Step::KillPlatform => {
            platform.kill()?;
            *platform = Platform::start("0").await?;
            return compare_all(platform, capsules).await;
        }
    }
    compare(platform, capsules, id).await
}

/// A new capsule that goes on from this one, by way of a template.
async fn by_template(platform: &Platform, id: CapsuleId) -> Result<CapsuleId, Box<dyn Error>> {
    let wish = SaveTemplate { sandbox_id: id, name: Some(KEPT.to_owned()), memory: Some(true) };
    platform.client.save_template(&wish, true).await?;
    let wish = CreateCapsule { template: Some(KEPT.to_owned()), ..CreateCapsule::default() };
    let made = platform.client.create(&wish).await?.id;
    platform.reached(made, CapsuleStatus::Running).await.map(|capsule| capsule.id)
}

/// `kill -9` of its VMM: a capsule that was ever paused goes back to its last pause, another one is gone.
async fn lose_vm(platform: &Platform, capsules: &mut BTreeMap<CapsuleId, Expected>, id: CapsuleId) -> Verdict {
    kill_process(vmm_of(&platform.dir, id)?, Signal::KILL)?;
    let deadline = Instant::now() + SETTLE;
    let capsule = loop {
        let capsule = platform.client.get(id).await?;
        if capsule.status != CapsuleStatus::Running {
            break capsule;
        }
        if Instant::now() > deadline {
            return Err("nobody noticed".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let expected = capsules.get_mut(&id).ok_or("no such capsule")?;
    let status = if expected.saved.is_some() { CapsuleStatus::Paused } else { CapsuleStatus::Error };
    if (capsule.status, &capsule.reason) != (status, &Some(EndReason::VmCrash)) {
        return Err(format!("it is {} instead of {status}, reason {:?}", capsule.status, capsule.reason).into());
    }
    if let Some(digest) = expected.saved.clone() {
        (expected.digest, expected.paused) = (digest, true);
    } else {
        capsules.remove(&id);
    }
    Ok(())
}

/// The VMM of a running capsule, as agent and keeper wrote it down.
fn vmm_of(dir: &Path, id: CapsuleId) -> Result<Pid, Box<dyn Error>> {
    let read = |path: &Path| Ok::<Value, Box<dyn Error>>(serde_json::from_slice(&std::fs::read(path)?)?);
    let record = read(&dir.join(format!("pool/capsules/{id}/record.json")))?;
    let vm: Uuid = record["place"]["vm"].as_str().ok_or("it is in no VM")?.parse()?;
    let instance = std::fs::read_to_string(dir.join("instance"))?;
    let runtime = Path::new("/run/wrenn").join(instance.trim()).join(vm.simple().to_string());
    let keeper = read(&runtime.join("keeper.json"))?;
    let pid = keeper["vmm_pid"].as_i64().ok_or("its VMM has no pid")?;
    Pid::from_raw(i32::try_from(pid)?).ok_or_else(|| "its VMM has no pid".into())
}

async fn compare_all(platform: &Platform, capsules: &BTreeMap<CapsuleId, Expected>) -> Verdict {
    for id in capsules.keys() {
        compare(platform, capsules, *id).await?;
    }
    Ok(())
}

async fn compare(
    platform: &Platform,
    capsules: &BTreeMap<CapsuleId, Expected>,
    id: CapsuleId,
) -> Result<(), Box<dyn Error>> {
    match capsules.get(&id) {
        Some(expected) if !expected.paused => {
            let found = sum(platform, id).await?;
            if found == expected.digest { Ok(()) } else { Err(format!("{id} does not hold what it must").into()) }
        }
        _ => Ok(()),
    }
}
