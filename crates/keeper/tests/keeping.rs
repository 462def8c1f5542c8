//! What a keeper does for its VMM, with small programs in the VMM's place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use keeper::cgroup::{self, CgroupSpec, Limits};
use keeper::{Cause, End, ExitRecord, KeeperSpec, LaunchError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_wrenn-keeper"))
}

fn spec(dir: &Path, script: &str) -> KeeperSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let command =
        vmm::Command { tier: vmm::Tier::default(), program: "/bin/sh".into(), args, cwd: dir.to_owned(), jail: None };
    KeeperSpec { dir: dir.to_owned(), command, network_namespace: None, cgroup: None, oom_score_adj: 0, pager: None }
}

#[tokio::test]
async fn ends_are_recorded_with_their_cause() -> Result {
    let dir = tempfile::tempdir()?;
    for (script, end, cause) in [
        ("echo bye; echo oops >&2", End::Code(0), Cause::Finished),
        ("echo bye; echo oops >&2; exit 3", End::Code(3), Cause::Crashed),
        ("echo bye; echo oops >&2; kill -SEGV $$", End::Signal(11), Cause::Crashed),
    ] {
        let keeper = keeper::launch(program(), &spec(dir.path(), script)).await?;
        let exit = keeper.wait_exit().await?;
        assert_eq!((exit.end, exit.cause), (end, cause));
        assert_eq!((exit.console_tail.as_str(), exit.errors_tail.as_str()), ("bye\n", "oops\n"));
        assert_eq!(ExitRecord::of(dir.path())?, Some(exit));
        assert!(keeper::attach(dir.path())?.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_cannot_run_is_reported() -> Result {
    let dir = tempfile::tempdir()?;
    let mut missing = spec(dir.path(), "");
    missing.command.program = "/no/such/vmm".into();
    let Err(LaunchError::NotStarted(why)) = keeper::launch(program(), &missing).await else {
        return Err("it started".into());
    };
    assert!(why.contains("No such file"), "{why}");
    assert_eq!(ExitRecord::of(dir.path())?.map(|exit| exit.cause), Some(Cause::StartFailed));
    Ok(())
}

#[tokio::test]
async fn a_restarted_agent_finds_the_keeper_and_ends_it() -> Result {
    let dir = tempfile::tempdir()?;
    let first = keeper::launch(program(), &spec(dir.path(), "echo up; exec sleep 1000")).await?;
    let found = keeper::attach(dir.path())?.ok_or("not found")?;
    assert_eq!(found.running(), first.running());
    let exit = found.kill().await?;
    assert_eq!((exit.end, exit.cause), (End::Signal(9), Cause::Requested));
    assert_eq!(first.wait_exit().await?, exit);

    // A process that was given the same id later is not taken for it.
    let stale = keeper::Running { keeper_pid: std::process::id(), keeper_start: 1, ..first.running() };
    fs::write(dir.path().join("keeper.json"), serde_json::to_vec(&stale)?)?;
    assert!(keeper::attach(dir.path())?.is_none());
    Ok(())
}

#[tokio::test]
async fn the_vmm_dies_with_its_keeper() -> Result {
    let dir = tempfile::tempdir()?;
    let mut spec = spec(dir.path(), "exec sleep 1000");
    // As another user, since changing the user takes the death signal away if that was set before.
    let root = dir.path().join("root");
    std::fs::create_dir(&root)?;
    let programs = ["/bin", "/lib", "/lib64", "/usr"].map(std::path::PathBuf::from);
    spec.command.jail = Some(vmm::Jail {
        user: vmm::User { uid: 65534, gid: 65534 },
        root,
        own: Vec::new(),
        read: programs.into_iter().filter(|dir| dir.exists()).collect(),
        devices: Vec::new(),
    });
    spec.command.cwd = "/".into();
    let keeper = keeper::launch(program(), &spec).await?;
    let vmm = rustix::process::Pid::from_raw(keeper.vmm_pid().cast_signed()).ok_or("no pid")?;
    let pidfd = rustix::process::pidfd_open(vmm, rustix::process::PidfdFlags::NONBLOCK)?;
    let killed = rustix::process::Pid::from_raw(keeper.running().keeper_pid.cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(killed, rustix::process::Signal::KILL)?;
    assert_eq!(keeper.wait_exit().await?.cause, Cause::KeeperLost);
    let end = sys::readiness::watch(pidfd, tokio::io::Interest::READABLE)?;
    let _ended = tokio::time::timeout(Duration::from_secs(30), end.readable()).await??;
    Ok(())
}

#[tokio::test]
async fn the_console_keeps_the_end_and_follows() -> Result {
    let dir = tempfile::tempdir()?;
    // More than is kept, then a line once the reader is there.
    let script =
        "head -c 300000 /dev/zero | tr '\\0' x; echo; echo ready; until [ -e go ]; do sleep 0.01; done; echo live";
    let keeper = keeper::launch(program(), &spec(dir.path(), script)).await?;
    loop {
        let mut early = keeper::console(dir.path()).await?;
        let mut seen = String::new();
        if early.head.dropped_bytes > 0 && early.output.read_line(&mut seen).await? > 0 && seen.len() > 200_000 {
            break;
        }
    }
    let mut console = keeper::console(dir.path()).await?;
    assert_eq!(console.head.running, keeper.running());
    fs::write(dir.path().join("go"), "")?;
    let mut output = String::new();
    console.output.read_to_string(&mut output).await?;
    assert!(output.ends_with("ready\nlive\n"), "…{}", &output[output.len().saturating_sub(40)..]);
    keeper.wait_exit().await?;
    Ok(())
}

#[tokio::test]
async fn a_vmm_is_limited_and_leaves_no_group() -> Result {
    let dir = tempfile::tempdir()?;
    let parent = format!("wrenn-test-{}", std::process::id());
    let limits = Limits { memory_bytes: Some(64 << 20), cpu_milli: Some(1000), pids: Some(64) };
    // It starts another one that would outlive it, which no VMM does.
    let script = "until [ -e go ]; do sleep 0.01; done; sleep 1000 >/dev/null 2>&1 & exec tail /dev/zero";
    let mut spec = spec(dir.path(), script);
    spec.cgroup = Some(CgroupSpec { parent: parent.clone(), name: "vm".to_owned(), limits });
    let keeper = keeper::launch(program(), &spec).await?;
    // It joins behind the caller's back.
    let of_vmm = format!("/proc/{}/cgroup", keeper.vmm_pid());
    while fs::read_to_string(&of_vmm)?.lines().filter(|line| line.ends_with(&format!("/{parent}/vm"))).count()
        < joined()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cgroup::sweep(&parent), ["vm".to_owned()].into(), "a group in use stays");
    fs::write(dir.path().join("go"), "")?;
    let exit = keeper.wait_exit().await?;
    assert_eq!((exit.end, exit.cause), (End::Signal(9), Cause::HostOom));
    let gone = async {
        while !cgroup::sweep(&parent).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await?;
    cgroup::remove_parent(&parent)?;
    Ok(())
}

/// Lines of `/proc/PID/cgroup` that name the group: one on version 2, else one for each controller (cgroups(7)).
fn joined() -> usize {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 1 } else { 3 }
}

#[tokio::test]
async fn a_killed_keeper_leaves_no_group_either() -> Result {
    let dir = tempfile::tempdir()?;
    let parent = format!("wrenn-test-killed-{}", std::process::id());
    let mut spec = spec(dir.path(), "exec sleep 1000");
    spec.cgroup = Some(CgroupSpec { parent: parent.clone(), name: "vm".to_owned(), limits: Limits::default() });
    let keeper = keeper::launch(program(), &spec).await?;
    while !fs::read_to_string(format!("/proc/{}/cgroup", keeper.vmm_pid()))?.contains(&parent) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let killed = rustix::process::Pid::from_raw(keeper.running().keeper_pid.cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(killed, rustix::process::Signal::KILL)?;
    assert_eq!(keeper.kill().await?.cause, Cause::KeeperLost);
    cgroup::remove_parent(&parent)?;
    Ok(())
}

#[tokio::test]
async fn a_vmm_enters_its_network_namespace() -> Result {
    let (dir, here) = (tempfile::tempdir()?, fs::read_link("/proc/self/ns/net")?);
    let mut holder = sys::spawn::Spawn::new("unshare")
        .args(["--net", "cat"])
        .inherit_env()
        .stdin(sys::spawn::Stream::Pipe)
        .spawn()?;
    let namespace = format!("/proc/{}/ns/net", holder.pid());
    // The process is there before its namespace is.
    while fs::read_link(&namespace)? == here {
        tokio::task::yield_now().await;
    }
    let mut spec = spec(dir.path(), "readlink /proc/self/ns/net");
    spec.network_namespace = Some(namespace.clone().into());
    let expected = format!("{}\n", fs::read_link(&namespace)?.display());
    let exit = keeper::launch(program(), &spec).await?.wait_exit().await?;
    assert_eq!(exit.console_tail, expected);
    holder.kill()?;
    holder.wait()?;
    Ok(())
}
