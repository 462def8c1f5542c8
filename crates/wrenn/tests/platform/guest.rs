//! Commands and files of one capsule.

use crate::Verdict;
use crate::platform::Platform;
use client::Output;
use model::Code;
use model::rest::ExecRequest;
use std::collections::BTreeMap;

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
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
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
