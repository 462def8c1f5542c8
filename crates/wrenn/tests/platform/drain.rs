//! A host that is emptied for maintenance, and takes capsules again.

use crate::platform::{Platform, SETTLE};
use crate::{Verdict, host};
use model::rest::{Capsule, CreateCapsule};
use model::{CapsuleId, CapsuleStatus, Code, EndReason};
use std::error::Error;
use std::ffi::OsStr;
use std::time::{Duration, Instant};
use sys::spawn::{Spawn, Stream};

const LOOK: Duration = Duration::from_millis(100);

/// What runs and what just begins is paused, nothing starts, also after a crash; then everything goes on.
pub async fn empties_the_host_until_its_end(platform: &mut Platform) -> Verdict {
    let used = platform.capsule().await?.id;
    platform.sh(used, "echo kept > /dev/shm/note").await?;
    let saved = platform.capsule().await?.id;
    platform.pause(saved).await?;
    let begun = platform.client.create(&CreateCapsule::default()).await?.id;
    drain(platform, &[])?;
    assert!(host::vmms(&platform.dir).is_empty(), "VMs are left");
    for id in [used, begun] {
        let paused = paused(platform, id).await?;
        assert_eq!(paused.reason, Some(EndReason::HostDrained), "{paused:?}");
    }
    assert_eq!(platform.client.get(saved).await?.reason, Some(EndReason::User));
    nothing_starts(platform, used).await?;

    platform.kill()?;
    *platform = Platform::start_with(&[("WRENN_READY_VMS", OsStr::new("1"))]).await?;
    nothing_starts(platform, used).await?;
    assert!(host::vmms(&platform.dir).is_empty(), "VMs were made");

    drain(platform, &["--end"])?;
    let deadline = Instant::now() + SETTLE;
    while platform.client.resume(used, false).await.is_err() {
        assert!(Instant::now() < deadline, "it is not taken again");
        tokio::time::sleep(LOOK).await;
    }
    platform.reached(used, CapsuleStatus::Running).await?;
    assert_eq!(platform.sh(used, "cat /dev/shm/note").await?, "kept\n");
    for id in [saved, begun] {
        platform.resume(id).await?;
        platform.sh(id, "true").await?;
    }
    for id in [used, saved, begun] {
        platform.destroy(id).await?;
    }
    Ok(())
}

fn drain(platform: &Platform, arguments: &[&str]) -> Verdict {
    let mut drain = Spawn::new(env!("CARGO_BIN_EXE_wrenn"))
        .args(["drain", "--dir"])
        .arg(&platform.dir)
        .args(arguments)
        .inherit_env()
        .stdout(Stream::Null)
        .stderr(Stream::Inherit)
        .spawn()?;
    if drain.wait()?.success() { Ok(()) } else { Err("`wrenn drain` failed".into()) }
}

/// The server hears of it a moment later.
async fn paused(platform: &Platform, id: CapsuleId) -> Result<Capsule, Box<dyn Error>> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let capsule = platform.client.get(id).await?;
        if capsule.status == CapsuleStatus::Paused {
            return Ok(capsule);
        }
        if Instant::now() > deadline {
            return Err(format!("not paused: {capsule:?}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The server refuses it once it has heard; before that the host does.
async fn nothing_starts(platform: &Platform, saved: CapsuleId) -> Verdict {
    let deadline = Instant::now() + SETTLE;
    loop {
        match platform.client.create(&CreateCapsule::default()).await {
            Err(error) if error.code() == Some(Code::NoHosts) => break,
            Err(error) => return Err(error.into()),
            Ok(capsule) => {
                let failed = platform.reached(capsule.id, CapsuleStatus::Error).await?;
                let why = failed.reason.map(|reason| reason.to_string()).unwrap_or_default();
                assert!(why.contains("maintenance"), "{why}");
                platform.destroy(capsule.id).await?;
            }
        }
        assert!(Instant::now() < deadline, "the server does not hear of it");
        tokio::time::sleep(LOOK).await;
    }
    let refused = platform.client.resume(saved, false).await.err().ok_or("it was resumed")?;
    assert_eq!(refused.code(), Some(Code::NoHosts), "{refused}");
    Ok(())
}
