//! Machines that are saved and restored, with a guest that checks its own memory and disk.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use support::{Host, Result, UID};
use vmm::{MachineError, Status, Trouble};

const ROUNDS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rounds_of_pause_and_resume_lose_nothing() -> Result {
    let host = Host::new()?;
    let started = Instant::now();
    let mut guest = host.boot("round-0").await?;
    let mut step = guest.next_step().await?;
    println!("boot to first step: {:?}", started.elapsed());
    for round in 1..=ROUNDS {
        let started = Instant::now();
        let (generation, report) = host.save(&guest).await?;
        let saved = started.elapsed();
        let last = guest.end(step).await?;
        generation.verify()?;

        let started = Instant::now();
        let name = format!("round-{round}");
        guest = host.restore(&name, &generation).await?;
        assert_eq!(guest.machine().status().await?, Status::Paused);
        let loaded = started.elapsed();
        guest.machine().resume().await?;
        println!("round {round}: saved in {saved:?} {report:?}, loaded in {loaded:?}");
        let next = guest.next_step().await?;
        assert!((last + 1..=last + 2).contains(&next), "the guest goes on where it was: {next} after {last}");
        // Further steps read, write and zero pages of this generation and of those before it.
        step = guest.next_step().await?;
    }
    guest.end(step).await?;
    Ok(())
}

/// By `proc_pid_status(5)`: whoever breaks out of the guest is nobody, somewhere where nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_vmm_has_no_rights() -> Result {
    let host = Host::new()?;
    let mut guest = host.boot("confined").await?;
    let step = guest.next_step().await?;
    let process = format!("/proc/{}", guest.keeper.vmm_pid());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let ids = [UID; 4].map(|id| id.to_string()).join("\t");
    let expected = [
        format!("Uid:\t{ids}"),
        format!("Gid:\t{ids}"),
        format!("CapPrm:\t{:016x}", 0),
        format!("CapEff:\t{:016x}", 0),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
    ];
    for line in expected {
        assert!(status.lines().any(|found| found == line), "{line:?} is not in {status}");
    }
    assert_eq!(fs::read_dir(format!("{process}/root/"))?.count(), 0);
    guest.end(step).await?;
    Ok(())
}

/// A VMM that gave its rights up does not hear of its keeper's death.
#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_without_rights_ends_with_its_keeper() -> Result {
    for found_again in [false, true] {
        let host = Host::new()?;
        let guest = host.boot("orphan").await?;
        let vmm = format!("/proc/{}/status", guest.keeper.vmm_pid());
        while !fs::read_to_string(&vmm)?.contains(&format!("Uid:\t{UID}\t")) {
            tokio::task::yield_now().await;
        }
        let keeper = Pid::from_raw(guest.keeper.running().keeper_pid.cast_signed()).ok_or("no pid")?;
        kill_process(keeper, Signal::KILL)?;
        assert_eq!(guest.keeper.wait_exit().await?.cause, keeper::Cause::KeeperLost);
        if found_again {
            assert!(keeper::attach(&guest.spec.runtime_dir)?.is_none());
        } else {
            guest.keeper.kill().await?;
        }
        assert!(fs::read_to_string(&vmm).map_or(true, |status| status.contains("State:\tZ")), "it lives");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_on_after_a_snapshot_and_every_clone_is_the_same() -> Result {
    let host = Host::new()?;
    let mut original = host.boot("original").await?;
    let first_step = original.next_step().await?;
    let (first, _) = host.save(&original).await?;
    original.reattach(&host).await?;
    assert_eq!(original.machine().status().await?, Status::Paused);
    original.machine().resume().await?;
    original.next_step().await?;
    let later_step = original.next_step().await?;
    // Against the same base again: the map is still of the memory it booted with.
    let (second, _) = host.save(&original).await?;
    original.machine().quit().await?;
    assert_eq!(original.keeper.wait_exit().await?.cause, keeper::Cause::Finished);

    let mut clones = Vec::new();
    for (name, generation, step) in [("a", &first, first_step), ("b", &first, first_step), ("c", &second, later_step)] {
        let clone = host.restore(name, generation).await?;
        clone.machine().resume().await?;
        clones.push((clone, step));
    }
    for (clone, step) in &mut clones {
        assert!(clone.next_step().await? > *step);
        clone.next_step().await?;
    }
    // Clones write to nothing they share.
    first.verify()?;
    second.verify()?;
    for (clone, step) in clones {
        clone.end(step).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_fit_is_refused() -> Result {
    let host = Host::new()?;
    let mut guest = host.boot("source").await?;
    let step = guest.next_step().await?;
    let (generation, _) = host.save(&guest).await?;
    guest.end(step).await?;
    let damaged = Arc::new(memory::Generation::open(generation.dir())?);
    let state = fs::read(damaged.state_path())?;
    fs::write(damaged.state_path(), &state[..state.len() / 2])?;
    let error = host.restore("copy", &damaged).await.err().ok_or("a half state was loaded")?;
    assert!(matches!(error.downcast_ref(), Some(MachineError::Load)), "{error}");
    Ok(())
}

/// A file system with room for `kib` KiB, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let size = std::ffi::CString::new(format!("size={kib}k"))?;
        rustix::mount::mount(c"tmpfs", dir.path(), c"tmpfs", rustix::mount::MountFlags::empty(), size.as_c_str())?;
        Ok(Self(dir))
    }

    fn grow(&self, kib: u32) -> Result {
        let size = std::ffi::CString::new(format!("size={kib}k"))?;
        Ok(rustix::mount::mount_remount(self.0.path(), rustix::mount::MountFlags::empty(), size.as_c_str())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_guest_until_there_is_room() -> Result {
    let host = Host::new()?;
    let room = SmallDisk::mount(64)?;
    let mut guest = host.boot_with_disk("full", &room.0.path().join("disk.img")).await?;
    let trouble = tokio::time::timeout(support::PATIENCE, guest.machine().trouble()).await?;
    assert_eq!(trouble, Trouble::OutOfSpace);
    assert_eq!(guest.machine().status().await?, Status::Stuck("io-error".to_owned()));
    room.grow(8 << 10)?;
    guest.machine().resume().await?;
    guest.next_step().await?;
    let step = guest.next_step().await?;
    guest.end(step).await?;
    Ok(())
}
