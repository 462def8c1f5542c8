//! The Firecracker driver.
//!
//! Firecracker maps a memory file privately at a load, and a snapshot of the kind `Diff` writes the pages that differ from it
//! into a file of the same size in place: into a clone of that memory file, which is whole then. A booted machine begins with
//! zeros, so the same holds for a file without content. The pages it loaded itself count as written
//! (`docs/snapshotting/snapshot-support.md`, v1.16).

mod api;
mod find;
mod machine;
mod requests;
pub mod uffd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

pub use api::ApiError;
pub use find::{FindError, Version};

use self::machine::FirecrackerMachine;
use crate::machine::MachineError;
use crate::{Command, Compatibility, Machine, MachineSpec, SpecError, Start, Tier, Vmm};

/// Raised whenever the devices change in a way a saved state notices.
const LAYOUT: u32 = 1;

/// A Firecracker on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    program: PathBuf,
    version: Version,
    /// Version of the device states it writes; minor ones of a major are read by later programs.
    snapshot_version: String,
    /// Digest of the processor's kind and features: guests see them all.
    cpu: String,
}

#[async_trait]
impl Vmm for Firecracker {
    fn tier(&self) -> Tier {
        Tier::Firecracker
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
        // Without the search for buses and keyboards it does not have.
        "pci=off i8042.noaux i8042.nomux i8042.dumbkbd"
    }

    fn command(&self, spec: &MachineSpec, start: &Start) -> Result<Command, SpecError> {
        spec.check()?;
        if let Start::Boot(source) = start {
            source.check()?;
        }
        Ok(Command {
            program: self.program.clone(),
            args: ["--api-sock", api::SOCKET, "--level", "Warn"].map(str::to_owned).into(),
            cwd: spec.runtime_dir.clone(),
            user: spec.confinement.as_ref().map(|confinement| confinement.user),
        })
    }

    async fn connect(&self, runtime_dir: &Path, limit: Duration) -> Result<Box<dyn Machine>, MachineError> {
        let reached = FirecrackerMachine::reach(runtime_dir, limit).await;
        let machine =
            reached.map_err(|source| MachineError::Unreachable { runtime_dir: runtime_dir.to_owned(), source })?;
        Ok(Box::new(machine))
    }
}
