//! What the driver sends, without a Firecracker.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use vmm::firecracker::Firecracker;
use vmm::{BootSource, Mac, MachineSpec, Memory, Nic, Since, Status, Vmm};

use super::Result;

type Transcript = Arc<Mutex<Vec<String>>>;

/// Takes every request down, answers `GET /` with a state and all others with success.
async fn listen(listener: UnixListener, transcript: Transcript) -> Result {
    loop {
        let (stream, _) = listener.accept().await?;
        // A connection without a request is somebody who only looked whether anybody listens.
        let _ = answer(stream, &transcript).await;
    }
}

async fn answer(stream: UnixStream, transcript: &Transcript) -> Result {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    stream.read_line(&mut request).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim().to_ascii_lowercase().split_once(':') {
            Some(("content-length", bytes)) => length = bytes.trim().parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request = request.trim_end_matches(" HTTP/1.1\r\n");
    let taken = format!("{request} {}", String::from_utf8(body)?);
    transcript.lock().unwrap_or_else(PoisonError::into_inner).push(taken.trim_end().to_owned());
    let answer = if request.starts_with("GET") {
        "HTTP/1.1 200 \r\nContent-Length: 19\r\n\r\n{\"state\":\"Running\"}"
    } else {
        "HTTP/1.1 204 \r\n\r\n"
    };
    Ok(stream.write_all(answer.as_bytes()).await?)
}

/// Says versions, as far as the driver asks for them.
fn stand_in(dir: &Path) -> Result<Firecracker> {
    use std::os::unix::fs::PermissionsExt as _;
    let program = dir.join("firecracker");
    let script = "#!/bin/sh\ncase $1 in --version) echo 'Firecracker v1.16.1';; *) echo v10.0.0;; esac\n";
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok(Firecracker::find(Some(&program))?)
}

#[tokio::test]
async fn requests_are_as_written_down() -> Result {
    let dir = tempfile::tempdir()?;
    let firecracker = stand_in(dir.path())?;
    let listener = UnixListener::bind(dir.path().join("firecracker.sock"))?;
    let transcript = Transcript::default();
    let server = tokio::spawn(listen(listener, Arc::clone(&transcript)));
    let spec = MachineSpec {
        vcpus: 2,
        memory_bytes: 512 << 20,
        memory: Memory::File("/pool/generation/memory".into()),
        root_disk: "/pool/vm/disk".into(),
        modules_disk: Some("/pool/modules".into()),
        network: Some(Nic { tap: "tap0".to_owned(), mac: Mac([2, 0xfc, 0, 0, 0, 5]) }),
        runtime_dir: dir.path().to_owned(),
        confinement: None,
    };
    let source = BootSource {
        kernel: "/pool/vmlinux".into(),
        initramfs: "/pool/initramfs".into(),
        cmdline: "console=ttyS0 quiet".to_owned(),
    };
    let machine = firecracker.connect(dir.path(), Duration::from_secs(10)).await?;
    machine.boot(&spec, &source).await?;
    assert_eq!(machine.status().await?, Status::Running);
    machine.pause().await?;
    for since in [Since::Start, Since::Start, Since::Save] {
        machine.save(&spec, Path::new("/new/state"), Path::new("/new/memory"), since).await?;
    }
    machine.load(&spec, Path::new("/pool/generation/state")).await?;
    let paged = MachineSpec { memory: Memory::Pager("pager.sock".into()), ..spec.clone() };
    machine.load(&paged, Path::new("/pool/generation/state")).await?;
    machine.resume().await?;
    assert_eq!(std::fs::read_link(dir.path().join("root"))?, spec.root_disk);
    server.abort();
    let transcript = transcript.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
    insta::assert_snapshot!(transcript);
    Ok(())
}
