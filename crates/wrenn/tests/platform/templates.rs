//! Capsules kept as templates, with their memory or as disks, and paused without it.

use crate::Verdict;
use crate::fork::sum;
use crate::host;
use crate::lifecycle::{KEEPER, start_keeper};
use crate::platform::Platform;
use model::rest::{Capsule, CreateCapsule, SaveTemplate, Template, TemplateKind};
use model::{CapsuleId, CapsuleStatus, Code};
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;

async fn save(platform: &Platform, id: CapsuleId, name: &str, memory: bool) -> Result<Template, Box<dyn Error>> {
    let wish = SaveTemplate { sandbox_id: id, name: Some(name.to_owned()), memory: Some(memory) };
    Ok(platform.client.save_template(&wish, true).await?)
}

async fn made_of(platform: &Platform, template: &str) -> Result<Capsule, Box<dyn Error>> {
    let wish = CreateCapsule { template: Some(template.to_owned()), ..CreateCapsule::default() };
    let id = platform.client.create(&wish).await?.id;
    platform.reached(id, CapsuleStatus::Running).await
}

async fn boot_id(platform: &Platform, id: CapsuleId) -> Result<String, Box<dyn Error>> {
    platform.sh(id, "cat /proc/sys/kernel/random/boot_id").await
}

/// Memory, processes and disk of a running and of a paused capsule, in any number of new ones, also after the source is
/// gone and the platform was killed.
pub async fn capsules_go_on_from_a_kept_one(platform: &mut Platform) -> Verdict {
    let before = host::saved(&platform.dir);
    let source = platform.capsule().await?.id;
    start_keeper(platform, source, KEEPER).await?;
    let digest = platform.sh(source, "echo step 1 > /root/in; cat /root/out").await?;
    let template = save(platform, source, "kept", true).await?;
    assert_eq!((template.kind, template.platform), (TemplateKind::Snapshot, false));
    assert!(template.size_bytes > 0);
    assert_eq!(sum(platform, source).await?, digest, "the source goes on");
    let first = made_of(platform, "kept").await?.id;
    assert_eq!(sum(platform, first).await?, digest);
    assert_ne!(platform.sh(first, "hostname").await?, platform.sh(source, "hostname").await?);

    // Replaced by one of a paused capsule that went further.
    let digest = platform.sh(first, "echo step 2 > /root/in; cat /root/out").await?;
    platform.pause(first).await?;
    save(platform, first, "kept", true).await?;
    for id in [source, first] {
        platform.destroy(id).await?;
    }
    platform.kill()?;
    *platform = Platform::start("0").await?;
    let second = made_of(platform, "kept").await?.id;
    assert_eq!(sum(platform, second).await?, digest);

    platform.client.delete_template("kept").await?;
    let refused = made_of(platform, "kept").await.err().ok_or("a deleted template was used")?;
    assert!(refused.to_string().contains("not found"), "{refused}");
    assert_eq!(sum(platform, second).await?, digest, "a deleted template takes nothing from its capsules");
    platform.pause(second).await?;
    platform.resume(second).await?;
    assert_eq!(sum(platform, second).await?, digest);
    platform.destroy(second).await?;
    host::saved_again(&platform.dir, &before).await
}

/// What is on the disk is there, what was in memory is not.
pub async fn disks_are_kept_without_memory(platform: &mut Platform) -> Verdict {
    let before = host::saved(&platform.dir);
    let source = platform.capsule().await?.id;
    platform.sh(source, "echo on disk > /root/file; echo in memory > /dev/shm/file").await?;
    let template = save(platform, source, "disk", false).await?;
    assert_eq!(template.kind, TemplateKind::Base);
    let look = "cat /root/file; ls /dev/shm";
    let wish = CreateCapsule { template: Some("disk".to_owned()), memory_mb: Some(256), ..CreateCapsule::default() };
    let of_other_size = platform.client.create(&wish).await?.id;
    platform.reached(of_other_size, CapsuleStatus::Running).await?;
    assert_eq!(platform.sh(of_other_size, look).await?, "on disk\n");
    platform.destroy(of_other_size).await?;
    platform.client.delete_template("disk").await?;

    let (boot, hostname) = (boot_id(platform, source).await?, platform.sh(source, "hostname").await?);
    platform.client.pause(source, true).await?;
    platform.reached(source, CapsuleStatus::Paused).await?;
    platform.resume(source).await?;
    assert_eq!(platform.sh(source, look).await?, "on disk\n");
    assert_ne!(boot_id(platform, source).await?, boot);
    assert_eq!(platform.sh(source, "hostname").await?, hostname);

    // Its VM is lost: it goes back to the disk that was saved.
    platform.sh(source, "echo lost > /root/file; sync").await?;
    for pid in host::vmms(&platform.dir) {
        let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("no process")?;
        kill_process(pid, Signal::KILL)?;
    }
    let lost = loop {
        let capsule = platform.client.get(source).await?;
        if capsule.status != CapsuleStatus::Running {
            break capsule;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(lost.status, CapsuleStatus::Paused, "{:?}", lost.reason);
    platform.resume(source).await?;
    assert_eq!(platform.sh(source, look).await?, "on disk\n");
    let missing = platform.client.delete_template("disk").await.err().ok_or("it was deleted twice")?;
    assert_eq!(missing.code(), Some(Code::NotFound));
    platform.destroy(source).await?;
    host::saved_again(&platform.dir, &before).await
}
