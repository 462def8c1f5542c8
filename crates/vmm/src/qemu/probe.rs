//! Finding the QEMU of this host and what it can do.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use sys::spawn::{Spawn, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Accelerator, Cpu, Qemu, Version};
use crate::limits;
use crate::program::{self, ProgramError};

const PROGRAM: &str = "qemu-system-x86_64";

/// Oldest version that emulates AVX2 (x86-64-v3) and has [`super::MACHINE_TYPE`].
const OLDEST: Version = Version(7, 2);

/// What a kernel without root disk says when it got through its own start.
const BOOTED: &[u8] = b"Unable to mount root fs";

/// Why there is no usable QEMU.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be asked.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Too old.
    #[error("QEMU {}.{} is too old, {}.{} is needed", .0.0, .0.1, OLDEST.0, OLDEST.1)]
    TooOld(Version),
}

impl Qemu {
    /// The QEMU at `program`, or in `PATH`, with the given accelerator, which is not tried. Blocks for some 50 ms.
    pub fn find(program: Option<&Path>, accelerator: Accelerator) -> Result<Self, ProbeError> {
        let program = program.unwrap_or(Path::new(PROGRAM));
        let version = program::version(program, "--version", version_in)?;
        if version < OLDEST {
            return Err(ProbeError::TooOld(version));
        }
        Ok(Self { program: program.to_owned(), version, accelerator, cpu: cpu(accelerator) })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }
}

/// The strongest QEMU of this host: with KVM if `kernel` (a bzImage) really boots with it, else with emulation. Takes up to
/// [`limits::PROBE_BOOT`]; remember the result per host boot and QEMU version.
pub async fn probe(program: Option<&Path>, kernel: &Path) -> Result<Qemu, ProbeError> {
    let qemu = Qemu::find(program, Accelerator::Kvm)?;
    if kvm_boots(&qemu, kernel, limits::PROBE_BOOT).await {
        return Ok(qemu);
    }
    let accelerator = Accelerator::Tcg;
    Ok(Qemu { accelerator, cpu: cpu(accelerator), ..qemu })
}

/// Whether `kernel` gets through its start under KVM before `deadline` is over. A device node proves nothing: there are hosts
/// whose `/dev/kvm` opens and creates machines in which Linux hangs.
pub async fn kvm_boots(qemu: &Qemu, kernel: &Path, deadline: Duration) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let booted = tokio::time::timeout(deadline, try_kvm(qemu, kernel)).await;
    match &booted {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => tracing::info!("the guest kernel did not boot with KVM"),
        Ok(Err(error)) => tracing::info!(%error, "QEMU cannot use KVM"),
        Err(_) => tracing::info!(?deadline, "the guest kernel hangs with KVM"),
    }
    matches!(booted, Ok(Ok(true)))
}

/// A process that does not outlive its owner.
struct Ended(sys::spawn::Process);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn try_kvm(qemu: &Qemu, kernel: &Path) -> io::Result<bool> {
    let process = Spawn::new(&qemu.program)
        .inherit_env()
        .args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-accel", "kvm", "-m", "256M"])
        .args(["-machine", super::MACHINE_TYPE, "-cpu", qemu.cpu.model, "-serial", "stdio"])
        .args(["-append", "console=ttyS0 panic=-1 reboot=t", "-kernel"])
        .arg(kernel)
        .stdout(Stream::Pipe)
        .spawn()?;
    let mut process = Ended(process);
    let stdout: OwnedFd = process.0.take_stdout().ok_or(io::ErrorKind::BrokenPipe)?.into();
    let mut console = pipe::Receiver::from_owned_fd(stdout)?;
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

/// `QEMU emulator version 7.2.22 (Debian …)`.
fn version_in(output: &str) -> Option<Version> {
    let mut parts = output.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some(Version(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// EPYC without what no QEMU emulates, so that guests see the same processor whichever version runs them. It has AVX2 (images
/// for x86-64-v3 run) and RDRAND (without it the first `getrandom` of a guest blocks for a second), and Linux does not
/// isolate page tables on AMD processors, which costs an emulated one a full TLB flush per system call.
const EMULATED: &str = "EPYC-v3,enforce=on,rdseed=off,sha-ni=off,fxsr-opt=off,misalignsse=off,3dnowprefetch=off,osvw=off,topoext=off,\
    perfctr-core=off,clzero=off,xsaveerptr=off,ibpb=off,nrip-save=off,xsavec=off,xsaves=off";

/// With KVM the oldest named model that has the processor's important features.
fn cpu(accelerator: Accelerator) -> Cpu {
    match accelerator {
        Accelerator::Tcg => Cpu { model: EMULATED, class: "EPYC-v3.1".to_owned() },
        Accelerator::Kvm => {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let line = |key: &str| info.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            let flags = line("flags");
            let modern = ["avx2", "bmi2", "fma", "movbe", "rdrand"]
                .iter()
                .all(|wanted| flags.split(' ').any(|flag| flag == *wanted));
            let model = match (modern, line("vendor_id").contains("AuthenticAMD")) {
                (true, true) => "EPYC-v1",
                (true, false) => "Haswell-v2",
                (false, _) => "Nehalem-v1",
            };
            Cpu { model, class: format!("{model}@{:08x}", crc32fast::hash(flags.as_bytes())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (output, version) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", Some(Version(7, 2))),
            ("QEMU emulator version 10.0.0\n", Some(Version(10, 0))),
            ("QEMU emulator version x", None),
            ("", None),
        ] {
            assert_eq!(version_in(output), version, "{output}");
        }
    }
}
