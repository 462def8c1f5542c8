//! A daemon dies or is replaced under its processes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Daemon, Frames, Result, base64, bytes, eventually, shell};

/// A daemon with the processes of Appendix B under it.
struct Scene {
    daemon: Daemon,
    /// Pids by tag.
    pids: Vec<(&'static str, u64)>,
    /// The stream of the producer, half read.
    producer: Frames,
    read: Vec<u8>,
}

/// Says 200,000 numbers, waits for a word and says it.
const PRODUCER: &str = "i=0; while [ $i -lt 200000 ]; do echo $i; i=$((i+1)); done; read word; echo $word; exit 3";

impl Scene {
    async fn set() -> Result<Self> {
        let daemon = Daemon::supervised()?;
        let mut pids = Vec::new();
        let pty =
            json!({ "process": { "cmd": "/bin/sh" }, "pty": { "size": { "cols": 80, "rows": 24 } }, "tag": "shell" });
        let (pid, mut frames) = daemon.launch(pty, &[]).await?;
        daemon.rpc("process.Process/SendInput", pty_input("echo a$((1+1))b\n")).await?.unwrap();
        frames.wait_for_pty("a2b").await?;
        pids.push(("shell", pid));
        let count = "i=0; while true; do i=$((i+1)); echo $i > count; sleep 0.01; done";
        let counter =
            json!({ "process": { "cmd": "/bin/sh", "args": ["-c", count], "cwd": daemon.path() }, "tag": "counter" });
        pids.push(("counter", daemon.launch(counter, &[]).await?.0));
        let producer = json!({ "process": { "cmd": "/bin/sh", "args": ["-c", PRODUCER] }, "tag": "producer" });
        let (pid, mut producer) = daemon.launch(producer, &[]).await?;
        pids.push(("producer", pid));
        let mut read = Vec::new();
        while read.len() < 100_000 {
            read.extend(stdout(&producer.next().await?.unwrap()));
        }
        Ok(Self { daemon, pids, producer, read })
    }

    /// Kills the daemon and waits for the next one.
    async fn kill(&self) -> Result<u32> {
        let old = self.daemon.supervised_pid()?;
        kill_process(Pid::from_raw(old.cast_signed()).unwrap(), Signal::KILL)?;
        eventually(async || Ok(self.daemon.supervised_pid().ok().filter(|new| *new != old))).await
    }

    async fn count(&self) -> Result<u64> {
        let file = self.daemon.file("count");
        eventually(async || Ok(std::fs::read_to_string(&file)?.trim().parse().ok())).await
    }

    async fn listed(&self) -> Result<Vec<(String, u64)>> {
        let list = self.daemon.rpc("process.Process/List", json!({})).await?.unwrap();
        let row = |process: &Value| (support::text(&process["tag"]), process["pid"].as_u64().unwrap_or(0));
        Ok(list["processes"].as_array().into_iter().flatten().map(row).collect())
    }

    /// What must hold with the next daemon.
    async fn verify(self) -> Result {
        let expected: Vec<_> = self.pids.iter().map(|(tag, pid)| ((*tag).to_owned(), *pid)).collect();
        assert_eq!(self.listed().await?, expected);
        let before = self.count().await?;
        eventually(async || Ok((self.count().await? > before).then_some(()))).await?;
        let connect = |tag: &str| json!({ "process": { "tag": tag } });
        let daemon = &self.daemon;

        let mut shell = daemon.stream("process.Process/Connect", connect("shell"), &[]).await?;
        daemon.rpc("process.Process/SendInput", pty_input("echo c$((2+3))d; exit 7\n")).await?.unwrap();
        shell.wait_for_pty("c5d").await?;
        assert_eq!(shell.finish().await?.exit_code(), 7);

        // The former daemon may have read some more than it delivered; what it had not read comes now, without a gap.
        let producer = daemon.stream("process.Process/Connect", connect("producer"), &[]).await?;
        let word = json!({ "process": { "tag": "producer" }, "input": { "stdin": base64(b"word\n") } });
        daemon.rpc("process.Process/SendInput", word).await?.unwrap();
        let finished = producer.finish().await?;
        assert_eq!(finished.exit_code(), 3);
        let lines: Vec<String> = (0..200_000).map(|number| number.to_string()).chain(["word\n".to_owned()]).collect();
        let all = lines.join("\n");
        assert!(all.as_bytes().starts_with(&self.read));
        assert!(all.as_bytes().ends_with(&finished.stdout), "something was lost or came twice");

        let kill = json!({ "process": { "tag": "counter" }, "signal": "SIGNAL_SIGKILL" });
        let counter = daemon.stream("process.Process/Connect", connect("counter"), &[]).await?;
        daemon.rpc("process.Process/SendSignal", kill).await?.unwrap();
        assert_eq!(counter.finish().await?.end["status"], "signal: killed");
        assert_eq!(self.listed().await?, []);
        Ok(())
    }
}

fn pty_input(text: &str) -> Value {
    json!({ "process": { "tag": "shell" }, "input": { "pty": base64(text.as_bytes()) } })
}

fn stdout(message: &Value) -> Vec<u8> {
    bytes(&message["event"]["data"]["stdout"])
}

#[tokio::test]
async fn processes_do_not_notice_the_death_of_their_daemon() -> Result {
    let mut scene = Scene::set().await?;
    scene.kill().await?;
    assert!(
        async {
            while let Some(message) = scene.producer.next().await? {
                scene.read.extend(stdout(&message));
            }
            Result::Ok(())
        }
        .await
        .is_err(),
        "the stream went on"
    );
    scene.verify().await
}

#[tokio::test]
async fn processes_do_not_notice_that_their_daemon_is_replaced() -> Result {
    let mut scene = Scene::set().await?;
    let old = scene.daemon.supervised_pid()?;
    let upgrade = || scene.daemon.request(Method::POST, "/upgrade");
    for wrong in [&b"no program"[..], b"#!/bin/sh\necho 1", b"#!/bin/sh\nexit 1"] {
        let reply = scene.daemon.http(upgrade(), wrong.to_vec()).await?;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    }
    assert_eq!(scene.daemon.supervised_pid()?, old);
    let binary = std::fs::read(env!("CARGO_BIN_EXE_envd"))?;
    assert_eq!(scene.daemon.http(upgrade(), binary).await?.status, StatusCode::NO_CONTENT);
    while let Ok(Some(message)) = scene.producer.next().await {
        scene.read.extend(stdout(&message));
    }
    eventually(async || Ok(scene.daemon.supervised_pid().ok().filter(|new| *new != old))).await?;
    scene.verify().await
}

#[tokio::test]
async fn an_upgrade_that_does_not_serve_is_taken_back() -> Result {
    let daemon = Daemon::supervised()?;
    let (pid, _) = daemon.launch(shell("sleep 60"), &[]).await?;
    let upgrade = daemon.request(Method::POST, "/upgrade");
    let reply = daemon.http(upgrade, &b"#!/bin/sh\n[ \"$1\" = --version ] && echo envd 9"[..]).await?;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{reply:?}");
    let binary = std::fs::read(env!("CARGO_BIN_EXE_envd"))?;
    eventually(async || Ok((std::fs::read(daemon.path().join("envd"))? == binary).then_some(()))).await?;
    let list = eventually(async || Ok(daemon.rpc("process.Process/List", json!({})).await.ok())).await?.unwrap();
    assert_eq!(list["processes"][0]["pid"], pid);
    Ok(())
}

#[tokio::test]
async fn ends_meanwhile_are_told_and_closed_inputs_stay_closed() -> Result {
    let daemon = Daemon::supervised()?;
    let tagged =
        |tag: &str, script: &str| json!({ "process": { "cmd": "/bin/sh", "args": ["-c", script] }, "tag": tag });
    let (_, first) = daemon.launch(tagged("ended", "echo said; exit 5"), &[]).await?;
    assert_eq!(first.finish().await?.exit_code(), 5);
    let release = daemon.file("release");
    daemon.launch(tagged("meanwhile", &format!("while [ ! -e {release} ]; do sleep 0.01; done; exit 6")), &[]).await?;
    daemon
        .launch(tagged("left", "(sleep 0.3; echo late; sleep 0.3; echo alive > left) & exit 8"), &[])
        .await?
        .1
        .next()
        .await?;
    daemon.launch(tagged("reader", "cat; exit 9"), &[]).await?;
    daemon.launch(tagged("hasty", "sleep 60"), &[("connect-timeout-ms", "1500")]).await?;
    let closed = daemon.rpc("process.Process/CloseStdin", json!({ "process": { "tag": "meanwhile" } })).await?;
    assert!(closed.is_ok());
    // Stopped, the supervisor cannot start the next daemon before the process has ended.
    let old = daemon.supervised_pid()?;
    daemon.stop_supervisor(true)?;
    kill_process(Pid::from_raw(old.cast_signed()).unwrap(), Signal::KILL)?;
    std::fs::write(&release, "")?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.stop_supervisor(false)?;
    let connect = |tag: &str| json!({ "process": { "tag": tag } });
    for (tag, code) in [("ended", 5), ("meanwhile", 6), ("left", 8)] {
        let stream =
            eventually(async || Ok(daemon.stream("process.Process/Connect", connect(tag), &[]).await.ok())).await?;
        let finished = stream.finish().await?;
        assert_eq!(finished.exit_code(), code, "{tag}: {finished:?}");
    }
    let hasty = daemon.stream("process.Process/Connect", connect("hasty"), &[]).await?.finish().await?;
    assert_eq!((hasty.end["status"].as_str(), hasty.error.as_str()), (Some("signal: killed"), "deadline_exceeded"));
    let reader = daemon.stream("process.Process/Connect", connect("reader"), &[]).await?;
    assert!(daemon.rpc("process.Process/CloseStdin", connect("reader")).await?.is_ok());
    assert_eq!(reader.finish().await?.exit_code(), 9);
    Ok(())
}

#[tokio::test]
async fn inputs_closed_at_the_same_moment_all_end() -> Result {
    let daemon = Daemon::supervised()?;
    for _ in 0..20 {
        let cats = futures_util::future::try_join_all(
            (0..8).map(|_| async { daemon.launch(json!({ "process": { "cmd": "/bin/cat" } }), &[]).await }),
        )
        .await?;
        let close = |pid: u64| daemon.rpc("process.Process/CloseStdin", json!({ "process": { "pid": pid } }));
        futures_util::future::try_join_all(cats.iter().map(|(pid, _)| close(*pid))).await?;
        for (pid, frames) in cats {
            let end = tokio::time::timeout(Duration::from_secs(20), frames.finish()).await;
            assert_eq!(end.map_err(|_| format!("{pid} still reads"))??.exit_code(), 0);
        }
    }
    Ok(())
}
