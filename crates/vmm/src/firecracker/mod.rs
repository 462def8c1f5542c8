//! The Firecracker driver.
//!
//! Firecracker maps a memory file privately at a load, and a snapshot of the kind `Diff` writes the pages that differ from it
//! into a file of the same size in place: into a clone of that memory file, which is whole then. A booted machine begins with
//! zeros, so the same holds for a file without content. The pages it loaded itself count as written
//! (`docs/snapshotting/snapshot-support.md`, v1.16).

mod api;
mod find;
mod handed;
mod machine;
mod requests;
pub mod uffd;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sys::spawn::Spawn;

pub use api::ApiError;
pub use find::{FindError, Version};

use self::machine::FirecrackerMachine;
use crate::machine::MachineError;
use crate::{
    Command, Compatibility, Confinement, Dirty, Jail, Machine, MachineSpec, Memory, SpecError, Start, Tier, Vmm, trial,
};

/// Raised whenever the devices change in a way a saved state notices.
const LAYOUT: u32 = 1;

/// Devices it may want (`docs/jailer.md`, v1.16).
const DEVICES: [&str; 3] = ["/dev/kvm", "/dev/net/tun", "/dev/urandom"];
/// The one it needs where its memory is brought to it.
const USERFAULTFD: &str = "/dev/userfaultfd";

/// A Firecracker on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    program: PathBuf,
    version: Version,
    /// Version of the device states it writes; minor ones of a major are read by later programs.
    snapshot_version: String,
    /// Directories it loads libraries from, if it does.
    libraries: Vec<PathBuf>,
    /// Digest of the processor's kind and features: guests see them all.
    cpu: String,
}

impl Firecracker {
    /// What it opens in its life, and no more.
    fn jail(&self, confinement: &Confinement, spec: &MachineSpec, start: &Start) -> Jail {
        let memory = match (start, &spec.memory) {
            (Start::Boot(source), _) => vec![source.kernel.clone(), source.initramfs.clone()],
            (Start::Load, Memory::File(path) | Memory::Pager(path)) => vec![path.clone()],
        };
        let read = [&self.program].into_iter().chain(&self.libraries).chain(&spec.modules_disk).cloned().chain(memory);
        let pager = matches!(spec.memory, Memory::Pager(_)).then_some(USERFAULTFD);
        let devices = DEVICES.into_iter().chain(pager).map(PathBuf::from).filter(|device| device.exists());
        Jail {
            user: confinement.user,
            root: confinement.root.clone(),
            own: vec![spec.runtime_dir.clone(), spec.root_disk.clone()],
            read: read.collect(),
            devices: devices.collect(),
        }
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn tier(&self) -> Tier {
        Tier::Firecracker
    }

    fn title(&self) -> String {
        format!("firecracker {}", self.version)
    }

    async fn boots(&self, kernel: &Path) -> io::Result<bool> {
        let machine = serde_json::json!({
            "boot-source": { "kernel_image_path": kernel, "boot_args": format!("{} {}", trial::CMDLINE, self.cmdline()) },
            "drives": [],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
        });
        let vmm = Spawn::new(&self.program).args(["--no-api", "--level", "Warn", "--config-file", "/dev/stdin"]);
        trial::boots(vmm, machine.to_string().as_bytes()).await
    }

    fn compatibility(&self, kernel: &str) -> Compatibility {
        Compatibility {
            tier: self.tier(),
            format: format!("{}.{LAYOUT}", self.snapshot_version),
            machine_type: "firecracker".to_owned(),
            cpu_model: self.cpu.clone(),
            kernel: kernel.to_owned(),
        }
    }

    fn cmdline(&self) -> &'static str {
        // Without the search for buses and keyboards it does not have; its keyboard controller can do nothing but end the machine in
        // order (a triple fault would be a failure).
        "reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd"
    }

    fn dirty(&self) -> Dirty {
        Dirty::Written
    }

    fn command(&self, spec: &MachineSpec, start: &Start) -> Result<Command, SpecError> {
        spec.check()?;
        if let Start::Boot(source) = start {
            source.check()?;
        }
        Ok(Command {
            tier: self.tier(),
            program: self.program.clone(),
            args: ["--api-sock", api::SOCKET, "--level", "Warn"].map(str::to_owned).into(),
            cwd: spec.runtime_dir.clone(),
            jail: spec.confinement.as_ref().map(|confinement| self.jail(confinement, spec, start)),
        })
    }

    async fn connect(&self, runtime_dir: &Path, limit: Duration) -> Result<Box<dyn Machine>, MachineError> {
        let reached = FirecrackerMachine::reach(runtime_dir, limit).await;
        let machine =
            reached.map_err(|source| MachineError::Unreachable { runtime_dir: runtime_dir.to_owned(), source })?;
        Ok(Box::new(machine))
    }
}
