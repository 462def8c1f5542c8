//! A random history of capsules, each compared with what it must hold: nothing is lost and nothing is invented, whatever
//! happens to them in whatever order.
//!
//! `WRENN_HISTORY_STEPS` and `WRENN_HISTORY_SEED` choose another one.

use crate::Verdict;
use crate::fork::{clones, sum};
use crate::host;
use crate::lifecycle::{KEEPER, start_keeper};
use crate::platform::Platform;
use model::CapsuleId;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::error::Error;

const STEPS: u64 = 60;
/// Most capsules at a time.
const CAPSULES: usize = 4;

/// A capsule as it must be.
#[derive(Debug, Clone)]
struct Expected {
    /// Of its memory and disk.
    digest: String,
    paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Pause,
    Resume,
    Fork,
    Destroy,
    KillPlatform,
}

/// Writing, zeroing, pausing, resuming, cloning and destroying, with the platform killed now and then.
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
            capsules.insert(id, Expected { digest: sum(platform, id).await?, paused: false });
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

/// A capsule, and something that can be done to it.
fn choose(capsules: &BTreeMap<CapsuleId, Expected>, chance: &mut StdRng) -> (CapsuleId, Step) {
    loop {
        let Some((id, expected)) = capsules.iter().choose(chance) else { continue };
        let step = match chance.random_range(0..100) {
            0..40 => Step::Write,
            40..65 if expected.paused => Step::Resume,
            40..65 => Step::Pause,
            65..80 => Step::Fork,
            80..95 => Step::Destroy,
            _ => Step::KillPlatform,
        };
        let possible = match step {
            Step::Write => !expected.paused,
            Step::Fork => !expected.paused && capsules.len() < CAPSULES,
            Step::Destroy => capsules.len() > 1,
            _ => true,
        };
        if possible {
            return (*id, step);
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
    match step {
        Step::Write => {
            let digest = platform.sh(id, &format!("echo step {number} > /root/in; cat /root/out")).await?;
            assert_eq!(digest.len(), 128);
            capsules.insert(id, Expected { digest, paused: false });
        }
        Step::Pause => {
            platform.pause(id).await?;
            set_paused(capsules, id, true);
        }
        Step::Resume => {
            platform.resume(id).await?;
            set_paused(capsules, id, false);
        }
        Step::Fork => {
            let like = capsules.get(&id).ok_or("no such capsule")?.clone();
            let clone = clones(platform, id, 1).await?.pop().ok_or("no clone")?;
            capsules.insert(clone, like);
            compare(platform, capsules, clone).await?;
        }
        Step::Destroy => {
            platform.destroy(id).await?;
            capsules.remove(&id);
        }
        Step::KillPlatform => {
            platform.kill()?;
            *platform = Platform::start("0").await?;
            return compare_all(platform, capsules).await;
        }
    }
    compare(platform, capsules, id).await
}

fn set_paused(capsules: &mut BTreeMap<CapsuleId, Expected>, id: CapsuleId, paused: bool) {
    capsules.entry(id).and_modify(|expected| expected.paused = paused);
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
