//! Processes over real HTTP.

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use support::{Daemon, Result, base64, eventually, frame, shell, text};

const START: &str = "process.Process/Start";
const CONNECT: &str = "process.Process/Connect";
const LIST: &str = "process.Process/List";

#[tokio::test]
async fn ends_are_reported_in_the_words_clients_know() -> Result {
    let daemon = Daemon::start()?;
    for (request, code, status, error) in [
        (json!({"process": {"cmd": "true"}}), 0, "exit status 0", ""),
        (json!({"process": {"cmd": "/bin/false"}}), 1, "exit status 1", "exit status 1"),
        (shell("exit 42"), 42, "exit status 42", "exit status 42"),
        (shell("kill -9 $$"), -1, "signal: killed", "signal: killed"),
        (shell("kill -15 $$"), -1, "signal: terminated", "signal: terminated"),
        (json!({"process": {"cmd": "/no/such/command"}}), 127, "exit status 127", "exit status 127"),
        (json!({"process": {"cmd": "/etc/passwd"}}), 126, "exit status 126", "exit status 126"),
    ] {
        let (_, frames) = daemon.launch(request.clone(), &[]).await?;
        let finished = frames.finish().await?;
        assert_eq!(finished.exit_code(), code, "{request}");
        assert_eq!(text(&finished.end["status"]), status, "{request}");
        assert_eq!(text(&finished.end["error"]), error, "{request}");
        assert_eq!(finished.end["exited"].as_bool().unwrap_or(false), code >= 0, "{request}");
        assert_eq!(finished.error, "", "{request}");
        assert_eq!(!finished.stderr.is_empty(), code > 100, "{request}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_however_slow_the_reader() -> Result {
    let daemon = Daemon::start()?;
    let (pid, frames) = daemon.launch(shell("seq 1 1500000; echo end >&2"), &[]).await?;
    // 10 MB do not fit into the queues on the way: as long as nobody reads, it cannot end.
    for _ in 0..20 {
        let list = daemon.rpc(LIST, json!({})).await??;
        assert_eq!(list["processes"][0]["pid"], pid);
    }
    let finished = frames.finish().await?;
    let mut expected = String::new();
    for number in 1..=1_500_000 {
        writeln!(expected, "{number}")?;
    }
    assert!(finished.stdout == expected.as_bytes(), "{} of {} bytes", finished.stdout.len(), expected.len());
    assert_eq!(finished.stderr, b"end\n");
    assert_eq!(finished.exit_code(), 0);
    Ok(())
}

#[tokio::test]
async fn a_process_outlives_its_client_and_is_found_by_tag() -> Result {
    let daemon = Daemon::start()?;
    let fifo = daemon.file("fifo");
    daemon.sh(&format!("mkfifo {fifo}")).await?;
    let mut request = shell(&format!("read line < {fifo}; echo got $line; exit 3"));
    request["tag"] = json!("proc-1");
    let (pid, frames) = daemon.launch(request, &[]).await?;
    drop(frames);
    let list = daemon.rpc(LIST, json!({})).await??;
    assert_eq!((&list["processes"][0]["pid"], &list["processes"][0]["tag"]), (&json!(pid), &json!("proc-1")));

    let selector = json!({"process": {"tag": "proc-1"}});
    let mut frames = daemon.stream(CONNECT, selector.clone(), &[]).await?;
    assert_eq!(frames.next().await?.ok_or("no start")?["event"]["start"]["pid"], pid);
    daemon.sh(&format!("echo word > {fifo}")).await?;
    let finished = frames.finish().await?;
    assert_eq!((finished.text().as_str(), finished.exit_code()), ("got word", 3));

    // Ended, but remembered for a while; for all else it is gone.
    let finished = daemon.stream(CONNECT, selector.clone(), &[]).await?.finish().await?;
    assert_eq!(finished.exit_code(), 3);
    assert_eq!(daemon.rpc(LIST, json!({})).await??, json!({}));
    let signal = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(daemon.rpc("process.Process/SendSignal", signal).await?, Err("not_found".into()));
    let unknown = daemon.stream(CONNECT, json!({"process": {"pid": 4_000_000}}), &[]).await?.finish().await?;
    assert_eq!(unknown.error, "not_found");
    Ok(())
}

/// The end of its shell may be told while the kernel still ends the others.
async fn whole_group_goes(daemon: &Daemon, pid: u64) -> Result {
    let left = format!("ps -o stat=,args= -g {pid} | grep -v '^Z' || true");
    eventually(async || Ok(daemon.sh(&left).await?.text().is_empty().then_some(()))).await
}

#[tokio::test]
async fn the_deadline_ends_the_process_and_then_the_stream() -> Result {
    let daemon = Daemon::start()?;
    let mut request = shell("sleep 60 | sleep 60");
    request["tag"] = json!("t");
    let (pid, frames) = daemon.launch(request, &[("connect-timeout-ms", "500")]).await?;
    let mut other = daemon.stream(CONNECT, json!({"process": {"tag": "t"}}), &[]).await?;
    other.next().await?;
    let finished = frames.finish().await?;
    assert_eq!((finished.exit_code(), finished.error.as_str()), (-1, "deadline_exceeded"));
    assert_eq!(text(&finished.end["error"]), "context deadline exceeded");
    assert_eq!(other.finish().await?.exit_code(), -1);
    // The whole pipeline is gone, not only the shell.
    whole_group_goes(&daemon, pid).await?;
    let error = daemon.stream(START, shell("true"), &[("connect-timeout-ms", "soon")]).await?.finish().await?.error;
    assert_eq!(error, "invalid_argument");
    Ok(())
}

#[tokio::test]
async fn input_arrives_whole_and_in_order() -> Result {
    let daemon = Daemon::start()?;
    let (pid, frames) = daemon.launch(json!({"process": {"cmd": "cat"}}), &[]).await?;
    let target = json!({"pid": pid});
    let mut expected = String::new();
    for number in 0..300 {
        let line = format!("line {number}\n");
        let input = json!({"process": target, "input": {"stdin": base64(line.as_bytes())}});
        assert_eq!(daemon.rpc("process.Process/SendInput", input).await?, Ok(json!({})));
        expected += &line;
    }
    let mut stream = vec![json!({"start": {"process": target}}), json!({"keepalive": {}})];
    for number in 300..600 {
        let line = format!("line {number}\n");
        stream.push(json!({"data": {"input": {"stdin": base64(line.as_bytes())}}}));
        expected += &line;
    }
    let body: Vec<u8> = stream.iter().flat_map(|message| frame(message).to_vec()).collect();
    let request = daemon
        .request(http::Method::POST, "/process.Process/StreamInput")
        .header("content-type", "application/connect+json");
    let reply = daemon.http(request, body).await?;
    assert_eq!(reply.body.first(), Some(&0), "{reply:?}");
    let close = || daemon.rpc("process.Process/CloseStdin", json!({"process": target}));
    assert_eq!(close().await?, Ok(json!({})));
    // Closing again does no harm; by now `cat` may have ended.
    let again = close().await?;
    assert!(again == Ok(json!({})) || again == Err("not_found".to_owned()), "{again:?}");
    let finished = frames.finish().await?;
    assert_eq!(finished.exit_code(), 0);
    assert_eq!(String::from_utf8(finished.stdout)?, expected);
    Ok(())
}

#[tokio::test]
async fn input_that_cannot_be_taken_is_refused() -> Result {
    let daemon = Daemon::start()?;
    let (pid, _frames) = daemon.launch(shell("sleep 60"), &[]).await?;
    let target = json!({"pid": pid});
    for (method, request, code) in [
        ("SendInput", json!({"process": target, "input": {"stdin": ""}}), "failed_precondition"),
        ("SendInput", json!({"process": target, "input": {"pty": ""}}), "failed_precondition"),
        ("SendInput", json!({"process": target}), "invalid_argument"),
        ("SendInput", json!({"input": {"pty": ""}}), "invalid_argument"),
        ("CloseStdin", json!({"process": target}), "failed_precondition"),
        ("Update", json!({"process": target, "pty": {"size": {"cols": 1, "rows": 1}}}), "failed_precondition"),
        ("SendSignal", json!({"process": target}), "invalid_argument"),
        ("SendInput", json!({"process": {"tag": "nobody"}, "input": {"stdin": ""}}), "not_found"),
    ] {
        let answer = daemon.rpc(&format!("process.Process/{method}"), request.clone()).await?;
        assert_eq!(answer, Err(code.into()), "{method} {request}");
    }
    Ok(())
}

#[tokio::test]
async fn a_terminal_has_a_size_and_takes_control_bytes() -> Result {
    let daemon = Daemon::start()?;
    let request = json!({
        "process": {"cmd": "/bin/sh", "args": ["-i"], "envs": {"PS1": "$ ", "TERM": "xterm"}},
        "pty": {"size": {"cols": 80, "rows": 24}},
    });
    let (pid, mut frames) = daemon.launch(request, &[]).await?;
    let send = async |bytes: &[u8]| {
        let input = json!({"process": {"pid": pid}, "input": {"pty": base64(bytes)}});
        daemon.rpc("process.Process/SendInput", input).await
    };
    frames.wait_for_pty("$ ").await?;
    send(b"stty size\n").await??;
    frames.wait_for_pty("24 80").await?;
    let resize = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 133, "rows": 50}}});
    daemon.rpc("process.Process/Update", resize).await??;
    send(b"stty size\n").await??;
    frames.wait_for_pty("50 133").await?;
    send(b"echo be''gin; sleep 60; echo never\n").await??;
    frames.wait_for_pty("begin").await?;
    send(&[3]).await??;
    frames.wait_for_pty("$ ").await?;
    assert_eq!(
        daemon.rpc("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await?,
        Err("failed_precondition".into())
    );
    send(&[4]).await??;
    let finished = frames.finish().await?;
    assert!(!finished.end.is_null(), "{finished:?}");
    assert!(!String::from_utf8_lossy(&finished.pty).contains("never\r\n"));
    Ok(())
}

#[tokio::test]
async fn whoever_attaches_by_tag_sees_what_a_terminal_said_last() -> Result {
    let daemon = Daemon::start()?;
    let fifo = daemon.file("fifo");
    daemon.sh(&format!("mkfifo {fifo}")).await?;
    let script = format!("echo before; seq 1 100000; echo after; read line < {fifo}; echo $line");
    let mut request = shell(&script);
    (request["pty"], request["tag"]) = (json!({"size": {"cols": 80, "rows": 24}}), json!("term"));
    let (pid, mut frames) = daemon.launch(request, &[]).await?;
    frames.wait_for_pty("before").await?;
    drop(frames);

    // Said while nobody is there, or while somebody is: it comes once.
    let by_tag = json!({"process": {"tag": "term"}});
    daemon.stream(CONNECT, by_tag.clone(), &[]).await?.wait_for_pty("after").await?;
    let mut again = daemon.stream(CONNECT, by_tag.clone(), &[]).await?;
    let mut by_pid = daemon.stream(CONNECT, json!({"process": {"pid": pid}}), &[]).await?;
    again.next().await?;
    by_pid.next().await?;
    daemon.sh(&format!("echo word > {fifo}")).await?;
    assert_eq!(String::from_utf8(by_pid.finish().await?.pty)?, "word\r\n");
    let again = String::from_utf8(again.finish().await?.pty)?;
    assert_eq!(again.len(), 256 * 1024 + "word\r\n".len());
    assert!(again.ends_with("\n99999\r\n100000\r\nafter\r\nword\r\n"), "{}", &again[again.len() - 60..]);
    let late = daemon.stream(CONNECT, by_tag, &[]).await?.finish().await?;
    assert_eq!(String::from_utf8(late.pty)?, again[again.len() - 16 * 1024..]);
    assert_eq!(late.end["exited"], true);
    Ok(())
}

#[tokio::test]
async fn the_user_decides_ids_groups_home_and_environment() -> Result {
    let mut daemon = Daemon::start()?;
    let environment = daemon.sh("env | sort; pwd; ulimit -c; cat /proc/self/oom_score_adj; nice").await?.text();
    assert!(environment.contains("HOME=/root\nLOGNAME=root\n"), "{environment}");
    assert!(environment.ends_with("100\n0"), "{environment}");
    daemon.as_user("nobody")?;
    let finished = daemon.launch(json!({"process": {"cmd": "id", "cwd": "/"}}), &[]).await?.1.finish().await?;
    assert_eq!(finished.text(), "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)");
    daemon.as_user("no-such-user")?;
    assert_eq!(daemon.stream(START, shell("true"), &[]).await?.finish().await?.error, "unauthenticated");
    assert_eq!(daemon.rpc("filesystem.Filesystem/Stat", json!({"path": "/"})).await?, Err("unauthenticated".into()));
    Ok(())
}

#[tokio::test]
async fn a_missing_directory_is_refused() -> Result {
    let daemon = Daemon::start()?;
    let request = json!({"process": {"cmd": "true", "cwd": "/no/such"}});
    assert_eq!(daemon.stream(START, request, &[]).await?.finish().await?.error, "invalid_argument");
    Ok(())
}

#[tokio::test]
async fn a_silent_process_sends_keep_alives() -> Result {
    let daemon = Daemon::start()?;
    let (_, frames) = daemon.launch(shell("sleep 2.5"), &[("keepalive-ping-interval", "1")]).await?;
    let finished = frames.finish().await?;
    assert_eq!((finished.keepalives, finished.exit_code()), (2, 0));
    Ok(())
}

#[tokio::test]
async fn an_end_does_not_wait_for_those_left_behind_nor_harm_them() -> Result {
    let daemon = Daemon::start()?;
    let file = daemon.file("late");
    // The grandchild keeps stdout, and writes to it after the end was reported.
    let script = format!("(sleep 3; echo late; echo alive > {file}) & echo early");
    let finished = tokio::time::timeout(Duration::from_secs(3), daemon.sh(&script)).await??;
    assert_eq!((finished.text().as_str(), finished.exit_code()), ("early", 0));
    eventually(async || Ok(std::fs::read_to_string(&file).ok().filter(|text| text == "alive\n"))).await?;
    Ok(())
}

#[tokio::test]
async fn a_kill_reaches_the_whole_group_and_a_term_only_the_process() -> Result {
    let daemon = Daemon::start()?;
    let (pid, frames) =
        daemon.launch(shell("trap 'echo caught; exit 7' TERM; echo ready; sleep 60 & wait"), &[]).await?;
    let mut frames = frames;
    frames.next().await?;
    let signal = |name: &str| json!({"process": {"pid": pid}, "signal": name});
    daemon.rpc("process.Process/SendSignal", signal("SIGNAL_SIGTERM")).await??;
    let finished = frames.finish().await?;
    assert_eq!((finished.text().as_str(), finished.exit_code()), ("caught", 7));

    let (pid, frames) = daemon.launch(shell("sleep 60 | sleep 60"), &[]).await?;
    let signal = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    daemon.rpc("process.Process/SendSignal", signal).await??;
    assert_eq!(text(&frames.finish().await?.end["status"]), "signal: killed");
    whole_group_goes(&daemon, pid).await?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_starts_and_two_hundred_at_once_leave_nothing() -> Result {
    const LANES: usize = 8;
    let mut daemon = Daemon::start()?;
    // Otherwise the test's own connections, kept for reuse, would count.
    daemon.headers.insert("connection", "close".parse()?);
    let daemon = daemon;
    let run = async |count: usize| {
        let lane = async || {
            for _ in 0..count / LANES {
                let request = json!({ "process": { "cmd": "/bin/true" } });
                let (_, frames) = daemon.launch(request, &[]).await?;
                assert_eq!(frames.finish().await?.end["exited"], true);
            }
            Result::Ok(())
        };
        futures_util::future::try_join_all((0..LANES).map(|_| lane())).await
    };
    let settled = async || {
        let holdings = daemon.holdings()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok((holdings == daemon.holdings()? && holdings.1 == 0).then_some(holdings))
    };
    run(LANES * 25).await?;
    let before = eventually(settled).await?;
    run(10_000).await?;
    let sleepers: Vec<_> =
        futures_util::future::try_join_all((0..200).map(|_| async {
            daemon.launch(json!({ "process": { "cmd": "/bin/sleep", "args": ["600"] } }), &[]).await
        }))
        .await?;
    let list = daemon.rpc("process.Process/List", json!({})).await?.unwrap_or_default();
    assert_eq!(list["processes"].as_array().map(Vec::len), Some(200));
    for (pid, _) in &sleepers {
        let kill = json!({ "process": { "pid": pid }, "signal": "SIGNAL_SIGKILL" });
        assert!(daemon.rpc("process.Process/SendSignal", kill).await?.is_ok());
    }
    for (_, frames) in sleepers {
        assert_eq!(frames.finish().await?.end["status"], "signal: killed");
    }
    assert_eq!(eventually(settled).await?, before, "open descriptors, children");
    Ok(())
}
