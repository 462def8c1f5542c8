//! The QEMU driver: with KVM, or with emulation only (TCG).
//!
//! Guest memory is a private file map, so it is neither saved nor loaded by QEMU: `xen-save-devices-state` writes what an
//! ordinary migration stream holds *except* RAM, and `migrate-incoming` takes that as a whole stream once the parts it
//! lacks are switched off (`suppress-vmdesc=on`, `send-configuration=off`). Files are passed as descriptors.
//!
//! There is no balloon: `ram_block_discard_range` punches a hole into the *file* even when the map is private, which
//! would take the page from every VM of that template.

mod arguments;
mod find;
mod machine;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sys::spawn::Spawn;

pub use find::FindError;

use self::machine::QemuMachine;
use tokio::time::Instant;

use crate::machine::MachineError;
use crate::qmp::Qmp;
use crate::{Command, Compatibility, Dirty, Machine, MachineSpec, SpecError, Start, Tier, Vmm, control, trial};

/// Name of the control socket in a machine's directory.
const SOCKET: &str = "qmp.sock";

/// Every version since 7.2 has it, so that states survive an upgrade of QEMU.
const MACHINE_TYPE: &str = "pc-i440fx-7.2";

/// Raised whenever the arguments change in a way a saved device state notices.
const LAYOUT: u32 = 1;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// An emulator.
    Tcg,
}

/// A QEMU on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    version: Version,
    accelerator: Accelerator,
    cpu: Cpu,
}

/// Version of a QEMU, major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// A named CPU model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpu {
    /// QEMU's `-cpu` argument.
    model: &'static str,
    /// What guests see: with KVM the model and a digest of the host's features, since QEMU leaves out those it lacks.
    class: String,
}

impl Qemu {
    fn trial(&self, kernel: &Path) -> Spawn {
        Spawn::new(&self.program)
            .args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-accel", "kvm", "-m", "256M"])
            .args(["-machine", MACHINE_TYPE, "-cpu", self.cpu.model, "-serial", "stdio"])
            .arg("-append")
            .arg(format!("{} {}", trial::CMDLINE, self.cmdline()))
            .arg("-kernel")
            .arg(kernel)
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn tier(&self) -> Tier {
        match self.accelerator {
            Accelerator::Kvm => Tier::QemuKvm,
            Accelerator::Tcg => Tier::QemuTcg,
        }
    }

    fn title(&self) -> String {
        format!("qemu {}.{}", self.version.0, self.version.1)
    }

    async fn boots(&self, kernel: &Path) -> io::Result<bool> {
        match self.accelerator {
            Accelerator::Tcg => Ok(true),
            Accelerator::Kvm => trial::boots(self.trial(kernel), &[]).await,
        }
    }

    fn compatibility(&self, kernel: &str) -> Compatibility {
        Compatibility {
            tier: self.tier(),
            format: format!("xen-devices-state.{LAYOUT}"),
            machine_type: MACHINE_TYPE.to_owned(),
            cpu_model: self.cpu.class.clone(),
            kernel: kernel.to_owned(),
        }
    }

    /// A triple fault ends a machine that is not to reboot. Emulated, the kernel's check that the timer interrupt works fails on a loaded host (KVM guests skip it by themselves); there
    /// is no speculation to be protected from; and its tests of its own ciphers take 0.3 s.
    fn cmdline(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "reboot=t",
            Accelerator::Tcg => "reboot=t no_timer_check mitigations=off cryptomgr.notests",
        }
    }

    fn dirty(&self) -> Dirty {
        Dirty::InProcess
    }

    fn command(&self, spec: &MachineSpec, start: &Start) -> Result<Command, SpecError> {
        let args = arguments::arguments(self, spec, start)?;
        Ok(Command {
            tier: self.tier(),
            program: self.program.clone(),
            args,
            cwd: spec.runtime_dir.clone(),
            jail: None,
        })
    }

    async fn connect(&self, runtime_dir: &Path, limit: Duration) -> Result<Box<dyn Machine>, MachineError> {
        let unreachable = |source| MachineError::Unreachable { runtime_dir: runtime_dir.to_owned(), source };
        let began = Instant::now();
        let dir = File::open(runtime_dir).map_err(unreachable)?;
        let stream = control::reach(&dir, SOCKET, limit).await.map_err(unreachable)?;
        let qmp = Qmp::open(stream, limit.saturating_sub(began.elapsed()))
            .await
            .map_err(|source| MachineError::Control { action: "accept a connection", source: source.into() })?;
        Ok(Box::new(QemuMachine::new(qmp, self.version)))
    }
}
