//! A root file system as Alpine has it: one static program for every command, no C library of Debian's, no bash.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use http::Method;
use serde_json::json;
use support::{Daemon, Result, base64, eventually, shell, text};
use sys::spawn::Spawn;

/// `BusyBox` and the files a distribution without anything else has.
fn root() -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let path = |name: &str| root.path().join(name);
    for directory in ["bin", "etc", "home/app", "root", "tmp"] {
        fs::create_dir_all(path(directory))?;
    }
    fs::copy("/bin/busybox", path("bin/busybox"))?;
    let commands = Spawn::new(path("bin/busybox")).arg("--list").output()?.stdout;
    for command in String::from_utf8(commands)?.lines().filter(|command| *command != "busybox") {
        symlink("busybox", path("bin").join(command))?;
    }
    fs::write(path("etc/passwd"), "root:x:0:0:root:/root:/bin/ash\napp:x:1000:1000::/home/app:/bin/ash\n")?;
    fs::write(path("etc/group"), "root:x:0:\napp:x:1000:\nmore:x:1001:app\n")?;
    std::os::unix::fs::chown(path("home/app"), Some(1000), Some(1000))?;
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(root)
}

#[tokio::test]
async fn everything_works_without_glibc_and_bash() -> Result {
    let mut daemon = Daemon::in_root(root()?)?;
    assert_eq!(daemon.sh("echo $0 $HOME; ls -d /lib* 2>/dev/null").await?.text(), "/bin/sh /root");
    daemon.as_user("app")?;
    assert_eq!(daemon.sh("id -un; id -G; pwd; echo $USER").await?.text(), "app\n1000 1001\n/home/app\napp");
    assert_eq!(daemon.sh("no-such-command").await?.exit_code(), 127);
    // What the E2B SDKs start.
    let bash = json!({ "process": { "cmd": "/bin/bash", "args": ["-l", "-c", "echo $0"] }, "stdin": false });
    assert_eq!(daemon.launch(bash, &[]).await?.1.finish().await?.text(), "/bin/sh");

    let upload = daemon.request(Method::POST, "/files?path=a/b&username=app");
    let reply = daemon.http(upload.header("content-type", "application/octet-stream"), "content").await?;
    assert!(reply.status.is_success(), "{reply:?}");
    assert_eq!(daemon.sh("cat a/b; stat -c ' %U:%G' a a/b").await?.text(), "content app:app\n app:app");
    let stat = daemon.rpc("filesystem.Filesystem/Stat", json!({ "path": "a/b" })).await?.unwrap();
    assert_eq!((text(&stat["entry"]["owner"]), text(&stat["entry"]["path"])), ("app".into(), "/home/app/a/b".into()));

    let pty = json!({ "process": { "cmd": "/bin/ash" }, "pty": { "size": { "cols": 99, "rows": 9 } }, "tag": "t" });
    let (pid, mut frames) = daemon.launch(pty, &[]).await?;
    let input = |text: &str| json!({ "process": { "tag": "t" }, "input": { "pty": base64(text.as_bytes()) } });
    daemon.rpc("process.Process/SendInput", input("stty size; tty\n")).await?.unwrap();
    assert!(frames.wait_for_pty("/dev/pts/").await?.contains("9 99"));

    // Its daemon dies, and a new one goes on with it.
    let old = daemon.supervised_pid()?;
    assert!(daemon.sh("true").await?.end["exited"].as_bool().unwrap_or_default());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(old.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )?;
    eventually(async || Ok(daemon.supervised_pid().ok().filter(|new| *new != old))).await?;
    let connect = json!({ "process": { "pid": pid } });
    let mut frames = daemon.stream("process.Process/Connect", connect, &[]).await?;
    daemon.rpc("process.Process/SendInput", input("echo $((40+2))x; exit 4\n")).await?.unwrap();
    frames.wait_for_pty("42x").await?;
    assert_eq!(frames.finish().await?.exit_code(), 4);
    assert_eq!(daemon.launch(shell("exit 5"), &[]).await?.1.finish().await?.exit_code(), 5);
    Ok(())
}
