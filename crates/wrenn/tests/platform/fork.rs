//! Clones of a running capsule: each goes on from the same moment, and none of them, nor their source, notices the others.

use crate::Verdict;
use crate::host;
use crate::lifecycle::{KEEPER, start_keeper};
use crate::platform::Platform;
use futures_util::future::try_join_all;
use model::rest::{ForkCapsule, Forked};
use model::{CapsuleId, Code};
use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime};

const CLONES: usize = 3;
/// How wrong a clock may be.
const SLACK: Duration = Duration::from_secs(1);

/// So many clones of it, all running.
pub async fn clones(platform: &Platform, id: CapsuleId, count: usize) -> Result<Vec<CapsuleId>, Box<dyn Error>> {
    let answers = platform.client.fork(id, &ForkCapsule { count: Some(i64::try_from(count)?) }).await?;
    let made = answers.into_iter().map(|clone| match clone {
        Forked::Capsule(capsule) => Ok(capsule.id),
        Forked::Error { code, message } => Err(format!("{code}: {message}").into()),
    });
    made.collect()
}

/// Digest of what [`KEEPER`] holds.
pub async fn sum(platform: &Platform, id: CapsuleId) -> Result<String, Box<dyn Error>> {
    platform.sh(id, "echo sum > /root/in; cat /root/out").await
}

/// Memory, disk and processes are there in every clone; from then on each has its own, and a name, an id and random
/// numbers of its own.
pub async fn clones_go_on_from_one_moment(platform: &mut Platform) -> Verdict {
    let before = host::saved(&platform.dir);
    let source = platform.capsule().await?.id;
    start_keeper(platform, source, KEEPER).await?;
    let digest = platform.sh(source, "echo step 1 > /root/in; cat /root/out").await?;

    // A command of the source's goes on through it.
    let count = "for i in $(seq 40); do echo $i; sleep 0.05; done";
    let (counted, forked) = tokio::join!(platform.sh(source, count), async {
        platform.sh(source, "true").await?;
        clones(platform, source, CLONES).await
    });
    assert_eq!(counted?.lines().count(), 40);
    let children = forked?;
    assert_eq!(children.len(), CLONES);
    for id in &children {
        assert_eq!(sum(platform, *id).await?, digest);
    }
    let family: Vec<CapsuleId> = children.iter().copied().chain([source]).collect();
    for question in ["hostname", "cat /etc/machine-id", "head -c 16 /dev/urandom | od -An -tx1"] {
        let answers = try_join_all(family.iter().map(|id| platform.sh(*id, question))).await?;
        assert_eq!(answers.iter().collect::<HashSet<_>>().len(), family.len(), "{question}: {answers:?}");
    }

    // What one of them does happens to no other.
    for (step, id) in family.iter().enumerate() {
        platform.sh(*id, &format!("echo step 10{step} > /root/in; cat /root/out")).await?;
    }
    let sums = try_join_all(family.iter().map(|id| sum(platform, *id))).await?;
    assert_eq!(sums.iter().collect::<HashSet<_>>().len(), family.len());

    // A clone is a capsule like any other: it can be saved, and cloned.
    let (first, last) = (children[0], children[CLONES - 1]);
    platform.pause(first).await?;
    platform.resume(first).await?;
    assert_eq!(sum(platform, first).await?, sums[0]);
    let grandchild = clones(platform, last, 1).await?[0];
    assert_eq!(sum(platform, grandchild).await?, sums[CLONES - 1]);

    for id in family.into_iter().chain([grandchild]) {
        platform.destroy(id).await?;
    }
    host::saved_again(&platform.dir, &before).await
}

/// However long a snapshot takes, the clocks of source and clone are right after it.
pub async fn clocks_are_right_after_a_long_snapshot(platform: &mut Platform) -> Verdict {
    let source = platform.capsule().await?.id;
    let instance = std::fs::read_to_string(platform.dir.join("instance"))?;
    let runtime = Path::new("/run/wrenn").join(instance.trim());
    std::fs::write(runtime.join("stop-at"), "snapshot.stopped")?;
    let held = runtime.join("stopped-at");
    let (forked, released) = tokio::join!(clones(platform, source, 1), async {
        while !held.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(SLACK * 4).await;
        std::fs::remove_file(&held)
    });
    released?;
    for id in forked?.into_iter().chain([source]) {
        let unix_time = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let before = unix_time()?;
        let guest = Duration::try_from_secs_f64(platform.sh(id, "date +%s.%N").await?.trim().parse()?)?;
        let after = unix_time()?;
        assert!(before < guest + SLACK && guest < after + SLACK, "{before:?} {guest:?} {after:?}");
        platform.destroy(id).await?;
    }
    Ok(())
}

/// Clones outlive a platform that is killed, and what a paused capsule cannot do is said.
pub async fn clones_outlive_a_killed_platform(platform: &mut Platform) -> Verdict {
    let source = platform.capsule().await?.id;
    start_keeper(platform, source, KEEPER).await?;
    let digest = platform.sh(source, "echo step 1 > /root/in; cat /root/out").await?;
    let children = clones(platform, source, 2).await?;
    platform.destroy(source).await?;
    platform.kill()?;
    *platform = Platform::start("0").await?;
    for id in &children {
        assert_eq!(sum(platform, *id).await?, digest);
    }
    // They began with one generation: neither takes it away from the other.
    let (first, second) = (children[0], children[1]);
    platform.pause(first).await?;
    let refused = platform.client.fork(first, &ForkCapsule::default()).await.err().ok_or("a paused one was cloned")?;
    assert_eq!(refused.code(), Some(Code::InvalidState), "{refused}");
    platform.pause(second).await?;
    platform.resume(first).await?;
    platform.resume(second).await?;
    for id in children {
        assert_eq!(sum(platform, id).await?, digest);
        platform.destroy(id).await?;
    }
    Ok(())
}
