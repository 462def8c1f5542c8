//! Finding the QEMU of this host and what it can do.

use std::path::Path;

use super::{Accelerator, Cpu, Qemu, Version};
use crate::program::{self, ProgramError};

const PROGRAM: &str = "qemu-system-x86_64";

/// Oldest version that emulates AVX2 (x86-64-v3) and has [`super::MACHINE_TYPE`].
const OLDEST: Version = Version(7, 2);

/// Why there is no usable QEMU.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It cannot be asked.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Too old.
    #[error("QEMU {}.{} is too old, {}.{} is needed", .0.0, .0.1, OLDEST.0, OLDEST.1)]
    TooOld(Version),
}

impl Qemu {
    /// The QEMU at `program`, or in `PATH`, with the given accelerator, which is not tried. Blocks for some 50 ms.
    pub fn find(program: Option<&Path>, accelerator: Accelerator) -> Result<Self, FindError> {
        let program = program.unwrap_or(Path::new(PROGRAM));
        let version = program::version(program, "--version", version_in)?;
        if version < OLDEST {
            return Err(FindError::TooOld(version));
        }
        Ok(Self { program: program.to_owned(), version, accelerator, cpu: cpu(accelerator) })
    }

    /// The same with another accelerator.
    #[must_use]
    pub fn with(&self, accelerator: Accelerator) -> Self {
        Self { accelerator, cpu: cpu(accelerator), ..self.clone() }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }
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
