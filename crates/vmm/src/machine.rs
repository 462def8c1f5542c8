//! What a VMM can do, whichever it is.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use crate::firecracker::ApiError;
use crate::qmp::QmpError;
use crate::{BootSource, Command, Compatibility, MachineSpec, SpecError, Start, Tier};

/// A VMM found on this host.
#[async_trait]
pub trait Vmm: Debug + Send + Sync {
    /// Its isolation.
    fn tier(&self) -> Tier;

    /// Its name and version, for people: `qemu 7.2`.
    fn title(&self) -> String;

    /// Whether `kernel`, an ELF, gets through its start here. Takes up to [`crate::limits::PROBE_BOOT`]; remember the answer per host
    /// boot and version. An emulator depends on nothing of the host's, and is not tried. An error is no answer.
    async fn boots(&self, kernel: &Path) -> io::Result<bool>;

    /// What a state saved by it with guest kernel `kernel` (its version or digest) can be loaded by.
    fn compatibility(&self, kernel: &str) -> Compatibility;

    /// What this VMM needs on the kernel command line besides what all guests have.
    fn cmdline(&self) -> &'static str;

    /// Where the pages are, after a save, that differ from the memory file.
    fn dirty(&self) -> Dirty;

    /// The process to start for a machine. It waits, stopped, for [`Self::connect`].
    fn command(&self, spec: &MachineSpec, start: &Start) -> Result<Command, SpecError>;

    /// Reaches the process that runs in `runtime_dir`: as soon as it answers, or after `limit` not at all. Also how a machine
    /// is found again after a restart of ours. Give up early when the process ends.
    async fn connect(&self, runtime_dir: &Path, limit: Duration) -> Result<Box<dyn Machine>, MachineError>;
}

/// What the memory given to a save is a clone of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// What the machine began with.
    Start,
    /// What its last save wrote, which succeeded.
    Save,
}

/// A running VMM with one machine. All calls may be made again after a failure; one at a time is carried out.
#[async_trait]
pub trait Machine: Debug + Send + Sync {
    /// Lets a machine started with [`Start::Boot`] run.
    async fn boot(&self, spec: &MachineSpec, source: &BootSource) -> Result<(), MachineError>;

    /// Gives a machine started with [`Start::Load`] its device state, as saved with the memory it maps. It stays
    /// stopped. No time limit.
    async fn load(&self, spec: &MachineSpec, state: &Path) -> Result<(), MachineError>;

    /// Lets a stopped machine run.
    async fn resume(&self) -> Result<(), MachineError>;

    /// Stops the virtual CPUs and flushes the disks.
    async fn pause(&self) -> Result<(), MachineError>;

    /// Writes the device state of a stopped machine to the new file `state`. `memory` is a clone, as `since` says, for VMMs that
    /// write dirty pages themselves. No time limit. The machine stays stopped and usable.
    async fn save(&self, spec: &MachineSpec, state: &Path, memory: &Path, since: Since) -> Result<(), MachineError>;

    /// Makes the root disk longer, and tells the guest. Before a boot there is nothing to do but to make the file longer.
    async fn grow_disk(&self, spec: &MachineSpec, bytes: u64) -> Result<(), MachineError>;

    /// What it is doing.
    async fn status(&self) -> Result<Status, MachineError>;

    /// Waits until the machine stops by itself or the VMM is gone.
    async fn trouble(&self) -> Trouble;

    /// Ends the VMM without asking the guest.
    async fn quit(&self) -> Result<(), MachineError>;
}

/// Where the pages are that differ from the memory file, after a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dirty {
    /// In the VMM's private map, to be read through its pagemap.
    InProcess,
    /// Written into the clone by the VMM.
    Written,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Started, never run: not booted, or its state is not loaded yet.
    Waiting,
    /// Virtual CPUs run.
    Running,
    /// Stopped on request.
    Paused,
    /// Stopped by itself; the VMM's word for why.
    Stuck(String),
}

/// Why a machine no longer runs, unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The disk's file could not grow. The guest waits in the middle of that write; [`Machine::resume`] tries it again.
    OutOfSpace,
    /// The VMM ended, or no longer speaks.
    Gone,
}

/// How a command to a VMM failed.
#[derive(Debug, thiserror::Error)]
pub enum Control {
    /// QEMU.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Firecracker.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The machine's description, found unusable late.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The machine's directory.
    #[error("its directory cannot be used: {0}")]
    Directory(#[from] io::Error),
}

/// Why a machine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The control socket did not appear or did not answer in time.
    #[error("the VMM in {runtime_dir} does not answer: {source}")]
    Unreachable {
        /// The machine's directory.
        runtime_dir: PathBuf,
        /// The last error.
        source: io::Error,
    },
    /// The VMM ended, spoke nonsense, or refused.
    #[error("the VMM failed to {action}: {source}")]
    Control {
        /// What it was to do.
        action: &'static str,
        /// How it failed.
        source: Control,
    },
    /// A state file cannot be opened or created.
    #[error("cannot open device state {path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device state does not fit this machine, or is damaged.
    #[error("the VMM could not load the device state")]
    Load,
}
