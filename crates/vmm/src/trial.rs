//! Whether a guest kernel really boots. A device node proves nothing: there are hosts whose `/dev/kvm` opens and creates machines in
//! which Linux hangs.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use sys::spawn::{Process, Spawn, Stream};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use crate::limits;

/// What virtualisation needs.
const KVM: &str = "/dev/kvm";

/// For a kernel that has nothing but a console, and ends its machine when it panics; before what its VMM adds. Where machines are nested,
/// each letter takes its time: only the panic is to be said.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// What a kernel without root disk says when it got through its own start.
const BOOTED: &[u8] = b"Unable to mount root fs";

/// A process that does not outlive its owner.
struct Ended(Process);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a VMM that starts a kernel with [`CMDLINE`], its console on standard output, brings it through its start within
/// [`limits::PROBE_BOOT`]. `told` is what it reads.
pub(crate) async fn boots(vmm: Spawn, told: &[u8]) -> io::Result<bool> {
    if !Path::new(KVM).exists() {
        return Ok(false);
    }
    let Ok(booted) = tokio::time::timeout(limits::PROBE_BOOT, watch(vmm, told)).await else {
        tracing::info!(limit = ?limits::PROBE_BOOT, "the guest kernel hangs with KVM");
        return Ok(false);
    };
    if matches!(booted, Ok(false)) {
        tracing::info!("the guest kernel did not boot with KVM");
    }
    booted
}

async fn watch(vmm: Spawn, told: &[u8]) -> io::Result<bool> {
    let mut process = Ended(vmm.inherit_env().stdin(Stream::Pipe).stdout(Stream::Pipe).spawn()?);
    if let Some(mut stdin) = process.0.take_stdin() {
        match stdin.write_all(told) {
            // It ended before it was told: what it said is read all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let stdout: OwnedFd = process.0.take_stdout().ok_or(io::ErrorKind::BrokenPipe)?.into();
    let mut console = Receiver::from_owned_fd(stdout)?;
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    while output.len() < limits::PROBE_OUTPUT_BYTES {
        let count = console.read(&mut buffer).await?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        output.extend_from_slice(chunk);
        if output.windows(BOOTED.len()).any(|window| window == BOOTED) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kernel_boots_when_it_says_so() -> io::Result<()> {
        for (script, boots) in [
            ("cat; echo 'Kernel panic: Unable to mount root fs on'; exec sleep 1000", true),
            ("cat | grep told && echo Unable to mount root fs", true),
            ("echo Unable to find; echo to mount root fs", false),
            ("exit 1", false),
            ("yes | head -c 1000000; echo Unable to mount root fs", false),
        ] {
            assert_eq!(watch(Spawn::new("/bin/sh").args(["-c", script]), b"told\n").await?, boots, "{script}");
        }
        let deaf = Spawn::new("/bin/sh").args(["-c", "exec 0<&-; echo Unable to mount root fs"]);
        assert!(watch(deaf, &vec![b' '; 1 << 20]).await?, "more than a pipe holds, and nobody reads it");
        assert!(watch(Spawn::new("/no/such/vmm"), &[]).await.is_err());
        Ok(())
    }
}
