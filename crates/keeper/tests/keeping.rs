//! What a keeper does for its VMM, with small programs in the VMM's place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keeper::cgroup::{self, CgroupSpec, Limits};
use keeper::{Cause, End, ExitRecord, KeeperSpec, LaunchError, Launcher};
use rustix::process::{Pid, Signal, kill_process};
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
        let keeper = Launcher::new(program()).launch(&spec(dir.path(), script)).await?;
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
    let Err(LaunchError::NotStarted(why)) = Launcher::new(program()).launch(&missing).await else {
        return Err("it started".into());
    };
    assert!(why.contains("No such file"), "{why}");
    assert_eq!(ExitRecord::of(dir.path())?.map(|exit| exit.cause), Some(Cause::StartFailed));
    Ok(())
}

#[tokio::test]
async fn a_keeper_that_waits_is_the_next_one() -> Result {
    let dir = tempfile::tempdir()?;
    let [wrapper, started] = ["wrapper", "started"].map(|name| dir.path().join(name));
    let lines =
        ["#!/bin/sh", &format!("echo $$ >> {}", started.display()), &format!("exec {} $1", program().display())];
    fs::write(&wrapper, lines.join("\n"))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700))?;
    let launcher = Launcher::new(wrapper);
    let spec = spec(dir.path(), "exit 0");
    // As many pids as there were starts: there is one at a time, and one that was ended while it waited keeps nobody.
    let mut kept = Vec::new();
    for (waiting, killed) in [(false, false), (true, false), (true, true), (true, false)] {
        let before = starts(&started)?.len();
        for _ in 0..if waiting { 2 } else { 0 } {
            launcher.prepare()?;
        }
        while waiting && starts(&started)?.len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if killed {
            let waits = Pid::from_raw(starts(&started)?[before].cast_signed()).ok_or("no pid")?;
            kill_process(waits, Signal::KILL)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let keeper = launcher.launch(&spec).await?;
        kept.push(keeper.running().keeper_pid);
        assert_eq!(keeper.wait_exit().await?.end, End::Code(0));
    }
    let all = starts(&started)?;
    assert_eq!(kept, [all[0], all[1], all[3], all[4]]);
    assert_eq!(all.len(), 5);
    Ok(())
}

fn starts(path: &Path) -> Result<Vec<u32>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    Ok(text.lines().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

#[test]
fn a_keeper_that_is_told_nothing_or_half_does_nothing() -> Result {
    let dir = tempfile::tempdir()?;
    for (told, success) in [("", true), (dir.path().to_str().unwrap(), true), ("/no/such\n", false)] {
        let mut keeper = Command::new(program()).arg("keeper").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        keeper.stdin.take().ok_or("no stdin")?.write_all(told.as_bytes())?;
        let output = keeper.wait_with_output()?;
        let says = String::from_utf8(output.stderr)?;
        assert_eq!((output.status.success(), says.is_empty()), (success, success), "{told:?}: {says}");
    }
    assert_eq!(fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_restarted_agent_finds_the_keeper_and_ends_it() -> Result {
    let dir = tempfile::tempdir()?;
    let first = Launcher::new(program()).launch(&spec(dir.path(), "echo up; exec sleep 1000")).await?;
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
    let keeper = Launcher::new(program()).launch(&spec).await?;
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
    let keeper = Launcher::new(program()).launch(&spec(dir.path(), script)).await?;
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
    let keeper = Launcher::new(program()).launch(&spec).await?;
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
    let keeper = Launcher::new(program()).launch(&spec).await?;
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
    let exit = Launcher::new(program()).launch(&spec).await?.wait_exit().await?;
    assert_eq!(exit.console_tail, expected);
    holder.kill()?;
    holder.wait()?;
    Ok(())
}
