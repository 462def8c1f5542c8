//! What a crash of the platform does to capsules: nothing.

use crate::Verdict;
use crate::platform::{Platform, SETTLE};
use model::{CapsuleId, CapsuleStatus, EndReason};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// How long there is no platform.
const ABSENCE: Duration = Duration::from_secs(2);

/// Writes a line ten times a second.
const TICKER: &str =
    "nohup sh -c 'while :; do cut -d\" \" -f1 /proc/uptime >> /root/ticks; sleep 0.1; done' >/dev/null 2>&1 &";

/// How long the guest has run, by its own clock.
async fn uptime(platform: &Platform, id: CapsuleId) -> Result<Duration, Box<dyn std::error::Error>> {
    let text = platform.sh(id, "cut -d' ' -f1 /proc/uptime").await?;
    Ok(Duration::try_from_secs_f64(text.trim().parse()?)?)
}

/// `kill -9` of `wrenn up` with two running and one paused capsule, and a new one.
pub async fn kill_of_the_platform_stops_no_capsule(platform: &mut Platform) -> Verdict {
    let mut running = Vec::new();
    for _ in 0..2 {
        let id = platform.capsule().await?.id;
        running.push((id, uptime(platform, id).await?, Instant::now()));
    }
    let vmms = crate::host::vmms(&platform.dir);
    let paused = platform.capsule().await?.id;
    platform.sh(paused, "echo kept > /dev/shm/note").await?;
    platform.pause(paused).await?;

    platform.kill()?;
    tokio::time::sleep(ABSENCE).await;
    *platform = Platform::start("0").await?;
    let still = crate::host::vmms(&platform.dir);
    assert!(vmms.len() >= 2 && vmms.iter().all(|pid| still.contains(pid)), "{vmms:?} became {still:?}");

    for (id, before, since) in &running {
        assert_eq!(platform.client.get(*id).await?.status, CapsuleStatus::Running);
        // The clock of a VM stands while the VM does.
        let passed = since.elapsed();
        let counted = uptime(platform, *id).await?.saturating_sub(*before);
        assert!(counted + ABSENCE / 2 > passed, "{counted:?} in the guest, {passed:?} here");
    }
    platform.resume(paused).await?;
    assert_eq!(platform.sh(paused, "cat /dev/shm/note").await?, "kept\n");
    for id in running.into_iter().map(|(id, ..)| id).chain([paused]) {
        platform.sh(id, "true").await?;
        platform.destroy(id).await?;
    }
    Ok(())
}

/// A platform with another guest daemon: a capsule saved before gets it when it is resumed, and its processes go on.
pub async fn an_upgrade_reaches_what_was_paused_before(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    platform.sh(id, TICKER).await?;
    let ticker = platform.sh(id, "pgrep -f uptime | head -1").await?;
    platform.pause(id).await?;

    let daemon = std::env::var_os("WRENN_ENVD").ok_or("WRENN_ENVD is not set: run `cargo xtask test`")?;
    let other = tempfile::NamedTempFile::new()?;
    std::fs::copy(daemon, other.path())?;
    // What follows an ELF file's sections means nothing: the same program, and another file.
    std::fs::OpenOptions::new().append(true).open(other.path())?.write_all(b"another")?;
    let log = platform.dir.join("logs/wrenn.log");
    let size = "wc -c < /proc/$(pgrep -x envd)/exe";
    platform.kill()?;
    *platform =
        Platform::start_with(&[("WRENN_READY_VMS", OsStr::new("0")), ("WRENN_ENVD", other.path().as_os_str())]).await?;
    platform.resume(id).await?;
    assert_eq!(platform.sh(id, size).await?.trim(), other.path().metadata()?.len().to_string());
    assert_eq!(platform.sh(id, "pgrep -f uptime | head -1").await?, ticker);
    let counts = platform.sh(id, "wc -l < /root/ticks; sleep 1; wc -l < /root/ticks").await?;
    let counts: Vec<u32> = counts.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert!(counts.first() < counts.last(), "{counts:?}");

    // A second resume finds nothing to replace.
    let replaced = || std::fs::read_to_string(&log).map(|log| log.matches("guest daemon replaced").count());
    let first = replaced()?;
    assert!(first > 0);
    platform.pause(id).await?;
    platform.resume(id).await?;
    assert_eq!(replaced()?, first);
    platform.destroy(id).await?;
    platform.kill()?;
    *platform = Platform::start("0").await?;
    Ok(())
}

/// VMs that end by themselves, one under the eyes of the agent and one while there is none: each is reported, its last
/// words are in the log, and nothing of it stays.
pub async fn vms_that_die_are_reported_with_their_last_words(platform: &mut Platform) -> Verdict {
    for unseen in [false, true] {
        let before = crate::host::vmms(&platform.dir);
        let id = platform.capsule().await?.id;
        let words = format!("last words of {id}");
        // Said once it has left the guest.
        let say = format!(
            "import os, termios; tty = os.open('/dev/console', os.O_WRONLY | os.O_NOCTTY); os.write(tty, b'{words}\\n'); termios.tcdrain(tty)"
        );
        platform.sh(id, &format!("python3 -c \"{say}\"")).await?;
        let vmms = crate::host::vmms(&platform.dir);
        let vmm = vmms.iter().find(|pid| !before.contains(pid)).ok_or("the capsule has no VMM")?;
        let vmm = Pid::from_raw(vmm.cast_signed()).ok_or("no pid")?;
        if unseen {
            platform.kill()?;
        }
        kill_process(vmm, Signal::KILL)?;
        let killed_at = chrono::Utc::now();
        if unseen {
            *platform = Platform::start("0").await?;
        }
        let deadline = Instant::now() + SETTLE;
        let capsule = loop {
            let capsule = platform.client.get(id).await?;
            if capsule.status != CapsuleStatus::Running {
                break capsule;
            }
            assert!(Instant::now() < deadline, "nobody noticed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((capsule.status, capsule.reason), (CapsuleStatus::Error, Some(EndReason::VmCrash)));
        // Row 19 of the conformance checks: the event comes within a second.
        let late = capsule.last_updated - killed_at;
        assert!(unseen || late <= chrono::TimeDelta::seconds(1), "reported after {late}");
        let log = std::fs::read_to_string(platform.dir.join("logs/wrenn.log"))?;
        let reported = log.lines().any(|line| line.contains("a VM ended by itself") && line.contains(&words));
        assert!(reported, "{words} not in the log");
        let (record, vms) = (platform.dir.join(format!("pool/capsules/{id}")), platform.dir.join("pool/vms"));
        let files = || std::fs::read_dir(&vms).map_or(0, Iterator::count);
        let new = |pid: &u32| !before.contains(pid);
        let processes = || crate::host::vmms(&platform.dir).iter().any(new);
        while record.exists() || files() > before.len() || processes() {
            assert!(Instant::now() < deadline, "something of it is left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Records that cannot be read: what they name stays as it is, until they are put back.
pub async fn a_damaged_record_loses_nothing(platform: &mut Platform) -> Verdict {
    let (running, paused) = (platform.capsule().await?.id, platform.capsule().await?.id);
    for id in [running, paused] {
        platform.sh(id, "echo kept > /dev/shm/note").await?;
    }
    platform.pause(paused).await?;
    let vmms = crate::host::vmms(&platform.dir);

    platform.kill()?;
    let records = [running, paused].map(|id| platform.dir.join(format!("pool/capsules/{id}/record.json")));
    let whole: Vec<Vec<u8>> = records.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    for record in &records {
        std::fs::write(record, "{\"id\":")?;
    }
    *platform = Platform::start("0").await?;
    let refused = platform.sh(running, "true").await.err().ok_or("ran a command without a record")?;
    assert!(refused.to_string().contains("damaged"), "{refused}");
    assert!(platform.resume(paused).await.is_err());
    assert_eq!(platform.client.get(running).await?.status, CapsuleStatus::Running);
    assert_eq!(platform.client.get(paused).await?.status, CapsuleStatus::Paused);

    platform.kill()?;
    for (record, bytes) in records.iter().zip(whole) {
        std::fs::write(record, bytes)?;
    }
    *platform = Platform::start("0").await?;
    // The paused one's may have been ending still when they were counted.
    let still = crate::host::vmms(&platform.dir);
    assert!(!still.is_empty() && still.iter().all(|pid| vmms.contains(pid)), "{vmms:?} became {still:?}");
    platform.resume(paused).await?;
    for id in [running, paused] {
        assert_eq!(platform.sh(id, "cat /dev/shm/note").await?, "kept\n");
        platform.destroy(id).await?;
    }
    Ok(())
}
