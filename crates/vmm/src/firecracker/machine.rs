//! A running Firecracker.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use super::api::{Api, ApiError};
use super::handed::Handed;
use super::requests::{
    Action, Balloon, BlockDevice, Create, Disk, Drive, Instance, KernelSource, Load, MODULES_DISK, MachineConfig, NIC,
    NetworkInterface, Nothing, Pages, ROOT_DISK, State,
};
use crate::machine::{Control, Machine, MachineError, Since, Status, Trouble};
use crate::spec::text;
use crate::{BootSource, MachineSpec, limits};

/// In a machine's directory once a snapshot was asked for: what Firecracker holds for dirty from then on is what differs
/// from that snapshot, not from the memory it began with, and nobody knows how far one that failed has come: who has not what the
/// last one wrote gets all pages.
const ASKED_BEFORE: &str = "snapshot";

/// Names of files that are handed to it, or by it.
const STATE: &str = "state";
const MEMORY: &str = "memory";

/// A Firecracker process and the way to its API.
#[derive(Debug)]
pub(super) struct FirecrackerMachine {
    runtime_dir: PathBuf,
    api: Api,
}

impl FirecrackerMachine {
    /// Once it answers.
    pub(super) async fn reach(runtime_dir: &Path, limit: Duration) -> io::Result<Self> {
        let api = Api::of(runtime_dir)?;
        let answers = async {
            api.connect(limit).await?;
            api.get::<Instance>("/").await.map_err(io::Error::other)
        };
        tokio::time::timeout(limit, answers).await??;
        Ok(Self { runtime_dir: runtime_dir.to_owned(), api })
    }

    /// The disks under the names the device state has for them.
    fn name_disks(&self, spec: &MachineSpec) -> io::Result<()> {
        self.name(ROOT_DISK, &spec.root_disk)?;
        spec.modules_disk.as_ref().map_or(Ok(()), |disk| self.name(MODULES_DISK, disk))
    }

    fn name(&self, disk: Disk, path: &Path) -> io::Result<()> {
        let link = self.runtime_dir.join(disk.name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(path, link)
    }

    async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Control> {
        Ok(self.api.change_soon(Method::PUT, path, body).await?)
    }

    async fn configure(&self, spec: &MachineSpec, source: &BootSource) -> Result<(), Control> {
        self.name_disks(spec)?;
        self.put("/machine-config", &MachineConfig::of(spec)).await?;
        self.put("/boot-source", &KernelSource::of(source)?).await?;
        self.put("/drives/root", &BlockDevice::from(ROOT_DISK)).await?;
        if spec.modules_disk.is_some() {
            self.put("/drives/modules", &BlockDevice::from(MODULES_DISK)).await?;
        }
        if let Some(nic) = &spec.network {
            let nic = NetworkInterface { iface_id: NIC, host_dev_name: &nic.tap, guest_mac: nic.mac };
            self.put("/network-interfaces/eth0", &nic).await?;
        }
        self.put("/balloon", &Balloon::REPORTING).await?;
        self.put("/entropy", &Nothing {}).await
    }

    async fn restore(&self, spec: &MachineSpec, state: &Path) -> Result<(), Control> {
        self.name_disks(spec)?;
        let given;
        let state = match self.handed(spec) {
            None => state,
            Some(handed) => {
                let state = state.to_owned();
                given = blocking(move || handed.give(&state, STATE)).await?;
                &given
            }
        };
        Ok(self.api.change(Method::PUT, "/snapshot/load", &Load::of(spec, state)?).await?)
    }

    /// How files get to it and from it, if it cannot open ours.
    fn handed(&self, spec: &MachineSpec) -> Option<Handed> {
        spec.confinement.as_ref().map(|confinement| Handed::new(&self.runtime_dir, confinement.user))
    }

    async fn snapshot(&self, state: &Path, memory: &Path, since: Since) -> Result<(), Control> {
        // A new file or none: the directory may be the VMM's, and what is in there a link.
        let asked_before = match File::create_new(self.runtime_dir.join(ASKED_BEFORE)) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(error) => return Err(error.into()),
        };
        let snapshot_type = if asked_before && since == Since::Start { Pages::Full } else { Pages::Diff };
        let create = Create { snapshot_type, snapshot_path: text(state)?, mem_file_path: text(memory)? };
        Ok(self.api.change(Method::PUT, "/snapshot/create", &create).await?)
    }

    /// The same by way of its own directory.
    async fn snapshot_handed(
        &self,
        handed: Handed,
        memory_bytes: u64,
        state: &Path,
        memory: &Path,
        since: Since,
    ) -> Result<(), Control> {
        let (taker, base) = (handed.clone(), memory.to_owned());
        let (theirs, pages) = blocking(move || Ok((handed.offer(STATE)?, handed.give(&base, MEMORY)?))).await?;
        self.snapshot(&theirs, &pages, since).await?;
        let (state, memory) = (state.to_owned(), memory.to_owned());
        let take = move || {
            let state = OpenOptions::new().write(true).create_new(true).mode(0o600).open(state)?;
            taker.take(STATE, &state, limits::STATE_BYTES)?;
            let memory = OpenOptions::new().write(true).open(memory)?;
            taker.take(MEMORY, &memory, memory_bytes)?;
            // Shorter, it would be the host's error to see.
            memory.set_len(memory_bytes)
        };
        Ok(blocking(take).await?)
    }

    async fn set_state(&self, state: &'static str, action: &'static str) -> Result<(), MachineError> {
        let changed = self.api.change_soon(Method::PATCH, "/vm", &State { state }).await;
        changed.map_err(failed(action))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn failed<E: Into<Control>>(action: &'static str) -> impl FnOnce(E) -> MachineError {
    move |source| MachineError::Control { action, source: source.into() }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    async fn boot(&self, spec: &MachineSpec, source: &BootSource) -> Result<(), MachineError> {
        self.configure(spec, source).await.map_err(failed("take the machine's description"))?;
        let start = Action { action_type: "InstanceStart" };
        self.put("/actions", &start).await.map_err(failed("boot"))
    }

    async fn load(&self, spec: &MachineSpec, state: &Path) -> Result<(), MachineError> {
        self.restore(spec, state).await.map_err(failed("load"))
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.set_state("Resumed", "resume").await
    }

    async fn pause(&self) -> Result<(), MachineError> {
        self.set_state("Paused", "pause").await
    }

    async fn save(&self, spec: &MachineSpec, state: &Path, memory: &Path, since: Since) -> Result<(), MachineError> {
        let saved = match self.handed(spec) {
            None => self.snapshot(state, memory, since).await,
            Some(handed) => self.snapshot_handed(handed, spec.memory_bytes, state, memory, since).await,
        };
        saved.map_err(failed("save"))
    }

    async fn grow_disk(&self, spec: &MachineSpec, bytes: u64) -> Result<(), MachineError> {
        let grown = OpenOptions::new().write(true).open(&spec.root_disk).and_then(|disk| disk.set_len(bytes));
        grown.map_err(failed("grow its disk"))?;
        // Naming the file again makes it look at its length.
        let drive = Drive::from(ROOT_DISK);
        let told = self.api.change_soon(Method::PATCH, "/drives/root", &drive).await;
        told.map_err(failed("tell its guest of the disk's growth"))
    }

    async fn status(&self) -> Result<Status, MachineError> {
        let instance: Result<Instance, ApiError> = self.api.get("/").await;
        let instance = instance.map_err(failed("tell its status"))?;
        Ok(match instance.state.as_str() {
            "Not started" => Status::Waiting,
            "Running" => Status::Running,
            "Paused" => Status::Paused,
            _ => Status::Stuck(instance.state),
        })
    }

    /// A disk that cannot grow is the guest's error to see: there is nothing to wait for but the end.
    async fn trouble(&self) -> Trouble {
        if let Ok(mut connection) = self.api.connect(Duration::ZERO).await {
            // It says nothing unasked: this returns when it is gone.
            let _ = connection.read_u8().await;
        }
        Trouble::Gone
    }

    /// There is no request for it; the keeper ends the process.
    async fn quit(&self) -> Result<(), MachineError> {
        Ok(())
    }
}
