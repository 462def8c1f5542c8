//! Commands and files of one capsule.

use crate::Verdict;
use crate::platform::{Platform, SETTLE};
use client::Output;
use model::rest::ExecRequest;
use model::{CapsuleId, Code};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Long enough that a clock nobody set would show it.
const PAUSE: Duration = Duration::from_secs(20);
/// How far a guest's clock may be off here: on a busy machine it is set some time after its time was taken.
const CLOCK_SLACK_S: f64 = 2.0;

/// Exit codes, both outputs, environment, directory, user, binary output, time limit, background.
pub async fn runs_commands(platform: &mut Platform) -> Verdict {
    let capsule = platform.capsule().await?;
    let id = capsule.id;
    assert_eq!(platform.sh(id, "python3 -c 'print(6*7)'").await?, "42\n");
    assert_eq!(platform.sh(id, "hostname").await?.trim(), id.to_string());

    let mut request = ExecRequest {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), "printf '%s %s' \"$A\" \"$PWD\"; printf '\\377' >&2; exit 3".to_owned()],
        envs: BTreeMap::from([("A".to_owned(), "b c".to_owned())]),
        cwd: Some("/tmp".to_owned()),
        ..ExecRequest::default()
    };
    let result = platform.client.exec(id, &request).await?;
    let output = Output::of(&result).ok_or("unreadable output")?;
    assert_eq!(
        (result.exit_code, output.stdout.as_slice(), output.stderr.as_slice()),
        (3, &b"b c /tmp"[..], &[0xFF][..])
    );

    request.args = vec!["-c".to_owned(), "sleep 60".to_owned()];
    request.timeout_sec = Some(1);
    let refusal = platform.client.exec(id, &request).await.err().and_then(|error| error.code());
    assert_eq!(refusal, Some(Code::Timeout));

    request.timeout_sec = None;
    request.tag = Some("sleeper".to_owned());
    let started = platform.client.start(id, &request).await?;
    let listed = platform.client.processes(id).await?;
    assert!(listed.iter().any(|p| p.pid == started.pid && p.tag.as_deref() == Some("sleeper")), "{listed:?}");
    platform.client.kill(id, &"sleeper".parse()?, false).await?;
    // A signal is sent, not awaited (kill(2)): the process leaves the list when it has ended.
    while platform.client.processes(id).await?.iter().any(|p| p.pid == started.pid) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    platform.destroy(id).await
}

/// Up, down, listed, made, removed; and an error with its own code.
pub async fn moves_files(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    platform.client.write_file(id, "/root/new/deep/a.bin", std::io::Cursor::new(content.clone())).await?;
    let mut back = Vec::new();
    let mut download = platform.client.read_file(id, "/root/new/deep/a.bin").await?;
    while let Some(chunk) = download.chunk().await? {
        back.extend_from_slice(&chunk);
    }
    assert!(back == content, "the file came back different");
    platform.client.make_dir(id, "/root/dir").await?;
    let again = platform.client.make_dir(id, "/root/dir").await.err().and_then(|error| error.code());
    assert_eq!(again, Some(Code::Conflict));
    let entries = platform.client.list_dir(id, "/root/new", 2).await?;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["deep", "a.bin"]);
    platform.client.remove_file(id, "/root/new").await?;
    let gone = platform.client.read_file(id, "/root/new/deep/a.bin").await.err().and_then(|error| error.code());
    assert_eq!(gone, Some(Code::NotFound));
    platform.destroy(id).await
}

/// What a guest must be able to do for container tools.
pub async fn mounts_overlays(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let script = "mkdir -p /run/o/up /run/o/work /run/o/all
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/o/up,workdir=/run/o/work /run/o/all
        echo new > /run/o/all/hostname; cat /run/o/up/hostname; cmp /etc/passwd /run/o/all/passwd";
    assert_eq!(platform.sh(id, script).await?, "new\n");
    platform.destroy(id).await
}

/// A pause cuts the calls under way and keeps their processes; the first command afterwards sees the right time.
pub async fn goes_on_after_a_pause(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let sleep = ExecRequest { cmd: "sleep".to_owned(), args: vec!["1000".to_owned()], ..ExecRequest::default() };
    let cut = tokio::time::timeout(Duration::from_secs(30), platform.client.exec(id, &sleep));
    let paused = async {
        while platform.client.processes(id).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        platform.pause(id).await
    };
    let (cut, paused) = tokio::join!(cut, paused);
    paused?;
    assert!(cut?.is_err(), "the call was not cut");
    tokio::time::sleep(PAUSE).await;
    platform.resume(id).await?;
    let before = unix_time()?;
    let inside: f64 = platform.sh(id, "date +%s.%N").await?.trim().parse()?;
    let after = unix_time()?;
    assert!((before - CLOCK_SLACK_S..after + CLOCK_SLACK_S).contains(&inside), "{before} {inside} {after}");
    assert!(platform.client.processes(id).await?.iter().any(|process| process.cmd == "sleep"));
    platform.destroy(id).await
}

/// `kill -9` of the guest daemon: processes keep their pids and go on, and the next daemon knows them.
pub async fn outlives_its_daemon(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let counter = ExecRequest {
        cmd: "/bin/sh".to_owned(),
        args: vec![
            "-c".to_owned(),
            "i=0; while sleep 0.05; do i=$((i+1)); echo $i; echo $i > /run/count; done".to_owned(),
        ],
        tag: Some("counter".to_owned()),
        ..ExecRequest::default()
    };
    let started = platform.client.start(id, &counter).await?;
    // The command's own answer goes with the daemon.
    let _ = platform.sh(id, "pkill -9 -x envd; sleep 1").await;
    let listed = platform.client.processes(id).await?;
    assert!(listed.iter().any(|p| p.pid == started.pid && p.tag.as_deref() == Some("counter")), "{listed:?}");
    let count = "a=$(cat /run/count); sleep 1; b=$(cat /run/count); echo $((b > a)); pgrep -x -c envd";
    assert_eq!(platform.sh(id, count).await?, "1\n1\n");
    platform.client.kill(id, &"counter".parse()?, false).await?;
    while platform.client.processes(id).await?.iter().any(|p| p.pid == started.pid) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    platform.destroy(id).await
}

/// A server on the guest's loopback interface is reachable through the platform, and again after a resume.
pub async fn offers_loopback_servers(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let server = ExecRequest {
        cmd: "python3".to_owned(),
        args: ["-m", "http.server", "--directory", "/etc", "--bind", "127.0.0.1", "8000"].map(str::to_owned).into(),
        ..ExecRequest::default()
    };
    platform.client.start(id, &server).await?;
    hostname_page(platform, id).await?;
    platform.pause(id).await?;
    platform.resume(id).await?;
    hostname_page(platform, id).await?;
    platform.destroy(id).await
}

/// Asks port 8000 for the file `hostname` until it answers with it.
async fn hostname_page(platform: &Platform, id: CapsuleId) -> Verdict {
    let request = || {
        let url = format!("{}/hostname", platform.base_url);
        reqwest::Client::new().get(url).header("Host", format!("8000-{id}.localhost")).timeout(SETTLE).send()
    };
    let deadline = Instant::now() + SETTLE;
    loop {
        let answer = request().await?;
        let (status, page) = (answer.status(), answer.text().await?);
        if status.is_success() {
            assert_eq!(page.trim(), id.to_string());
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{status}: {page}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Capsules made from one memory have nothing in common that ought to be secret.
pub async fn differs_from_its_siblings(platform: &mut Platform) -> Verdict {
    let script = "cat /proc/sys/kernel/random/uuid /etc/machine-id; head -c 16 /dev/urandom | sha256sum; hostname
        python3 -c 'import os; print(os.urandom(16))'";
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let id = platform.capsule().await?.id;
        let lines = platform.sh(id, script).await?;
        assert_eq!(lines.lines().count(), 5);
        for line in lines.lines() {
            assert!(seen.insert(line.to_owned()), "{line} twice");
        }
        platform.destroy(id).await?;
    }
    Ok(())
}

fn unix_time() -> Result<f64, std::time::SystemTimeError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
