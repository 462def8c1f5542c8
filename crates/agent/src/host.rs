//! What all capsules of a host share.

use crate::classes::Classes;
use crate::drain::Drain;
use crate::events::Outbox;
use crate::failure::Failure;
use crate::limits;
use crate::metrics::Metrics;
use crate::proxy::Guests;
use crate::ready::Ready;
use crate::record::{Class, Records};
use crate::shared::now_ms;
use crate::snapshots::{self, Snapshots};
use crate::space::Room;
use crate::vm_dirs::Dirs;
use hostlink::SandboxEvent;
use image::Artifacts;
use keeper::Launcher;
use keeper::cgroup::CgroupSpec;
use memory::{Generation, Shelf};
use network::Network;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use vmm::{BootSource, Tier, Vmm};

/// Kernel command line of every guest, before what its VMM adds. `panic=-1`: a guest that panics ends its VM at
/// once.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1";

/// The environment of all capsules.
pub struct Host {
    /// Starts keepers.
    pub keepers: Launcher,
    /// Sockets of VMs; short, because a socket's path has 107 bytes.
    pub runtime: PathBuf,
    /// Control group that holds those of all VMMs.
    pub groups: String,
    /// What guests boot from.
    pub artifacts: Artifacts,
    /// Disks.
    pub pool: disk::Pool,
    /// Networks.
    pub network: Network,
    /// Saved memory.
    pub shelf: Shelf,
    /// Capsules across restarts.
    pub records: Records,
    /// Events for the control plane.
    pub events: Outbox,
    /// How VMs are run.
    pub vmm: Arc<dyn Vmm>,
    /// All there are: what was begun with one goes on with it.
    pub vmms: Vec<Arc<dyn Vmm>>,
    /// Generations new capsules begin with.
    pub classes: Classes,
    /// Generations kept for clones to come.
    pub snapshots: Snapshots,
    /// Where that is written down.
    pub snapshot_files: snapshots::Files,
    /// VMs that may be saved at a time.
    pub saves: Semaphore,
    /// VMs that may be made at a time.
    pub starts: Semaphore,
    /// VMs that wait.
    pub ready: Ready,
    /// What capsules use.
    pub metrics: Metrics,
    /// The way to the guests' ports.
    pub proxy: edge::Proxy<Guests>,
    /// Whether it is to be empty.
    pub drain: Drain,
    /// Room on the disk.
    pub room: watch::Sender<Room>,
    /// Background work, awaited at the end.
    pub tasks: TaskTracker,
    /// Cancelled when the agent ends.
    pub stopping: CancellationToken,
}

/// What a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Logical processors.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Disk space for capsules in MiB, used and unused.
    pub disk_mb: u64,
}

impl Host {
    /// Directory of the VMs' files.
    pub fn vms_dir(&self) -> PathBuf {
        self.pool.path().join("vms")
    }

    /// Directory of the VMs' sockets.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// Nothing in it: the file system of VMMs that run.
    pub fn empty_dir(&self) -> PathBuf {
        self.runtime.join("empty")
    }

    /// Control group of a VMM. Its vCPUs may use what they are sold as; what it does beside them gets half a CPU.
    pub fn group(&self, vm: Uuid, class: &Class) -> CgroupSpec {
        let limits = keeper::cgroup::Limits {
            memory_bytes: Some((u64::from(class.memory_mb) << 20) + limits::VMM_MEMORY),
            cpu_milli: Some(u64::from(class.vcpus) * 1000 + 500),
            pids: Some(limits::VMM_THREADS),
        };
        CgroupSpec { parent: self.groups.clone(), name: vm.simple().to_string(), limits }
    }

    /// `firecracker`, `qemu-kvm` or `qemu-tcg`.
    pub fn isolation(&self) -> String {
        self.vmm.tier().to_string()
    }

    /// What saved memory must have been made by to be loaded here.
    pub fn compatibility(&self) -> String {
        self.vmm.compatibility(&self.artifacts.kernel_key).to_string()
    }

    /// Refuses saved memory of another compatibility class.
    pub fn compatible(&self, generation: &Generation) -> Result<(), Failure> {
        let (saved, here) = (generation.manifest().compatibility.clone(), self.compatibility());
        if saved == here { Ok(()) } else { Err(Failure::Incompatible { saved, here }) }
    }

    /// What a guest boots.
    pub fn boot_source(&self) -> BootSource {
        BootSource {
            kernel: self.artifacts.kernel_elf.clone(),
            initramfs: self.artifacts.initramfs.clone(),
            cmdline: format!("{CMDLINE} {}", self.vmm.cmdline()),
        }
    }

    /// Waits until a VM may be made, and keeps others waiting until it is dropped: more at a time would only make all of them slow.
    /// What a guest does in its time holds nobody up.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, Failure> {
        tokio::select! {
            turn = self.starts.acquire() => turn.map_err(|_| Failure::Stopping),
            () = self.stopping.cancelled() => Err(Failure::Stopping),
        }
    }

    /// Starts the keeper of the next VM, once this one's start is over.
    pub fn keeper_ahead(self: &Arc<Self>) {
        let host = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(limits::KEEPER_PAUSE) => {}
                () = host.stopping.cancelled() => return,
            }
            match tokio::task::spawn_blocking(move || host.keepers.prepare()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "no keeper could be started ahead"),
                Err(error) => tracing::error!(%error, "no keeper could be started ahead"),
            }
        });
    }

    /// The VMM of this tier, if it is here.
    pub fn vmm_of(&self, tier: Tier) -> Option<Arc<dyn Vmm>> {
        self.vmms.iter().find(|vmm| vmm.tier() == tier).cloned()
    }

    /// Whether there is such a template here.
    pub fn has_template(&self, template: Uuid) -> bool {
        template == model::TemplateId::MINIMAL.uuid() || self.snapshots.get(template).is_some()
    }

    /// Root disk of a template.
    pub async fn template_disk(&self, template: Uuid) -> Result<PathBuf, Failure> {
        if template == model::TemplateId::MINIMAL.uuid() {
            return Ok(self.artifacts.root_disk.clone());
        }
        let snapshot = self.snapshots.get(template).ok_or(Failure::Template(template))?;
        let generation = self.open_generation(snapshot.generation).await?;
        generation.disk_path().ok_or(Failure::Template(template))
    }

    /// Opens a generation of the shelf.
    pub async fn open_generation(&self, id: Uuid) -> Result<Arc<Generation>, Failure> {
        let path = self.shelf.path(id);
        let opened = tokio::task::spawn_blocking(move || Generation::open(&path)).await;
        opened
            .map_err(Failure::at("opening the generation"))?
            .map(Arc::new)
            .map_err(Failure::at("opening the generation"))
    }

    /// Makes a VM's directories and its disk.
    pub async fn clone_disk(&self, source: &Path, vm: Uuid) -> Result<(), Failure> {
        let (source, dirs) = (source.to_owned(), Dirs::of(self, vm));
        let work = move || {
            dirs.create().map_err(|error| error.to_string())?;
            disk::clone_file(&source, &dirs.disk()).map_err(|error| error.to_string())
        };
        let cloned = tokio::task::spawn_blocking(work).await;
        cloned.map_err(Failure::at("cloning the disk"))?.map_err(Failure::at("cloning the disk"))?;
        Ok(())
    }

    /// Begins or ends emptying this host; its capsules see to themselves. VMs that wait are for capsules to come.
    pub async fn set_draining(self: &Arc<Self>, on: bool) -> Result<(), Failure> {
        const STEP: &str = "writing down whether the host is to be empty";
        let host = self.clone();
        let set = tokio::task::spawn_blocking(move || {
            let is_news = host.drain.set(on)?;
            if is_news {
                host.events.add(&changed())?;
            }
            Ok::<_, io::Error>(is_news)
        });
        let is_news = set.await.map_err(Failure::at(STEP))?.map_err(Failure::at(STEP))?;
        match (is_news, on) {
            (true, true) => drop(self.ready.clear(self).await),
            (true, false) => self.ready.refill(self, &Class::usual()),
            (false, _) => {}
        }
        Ok(())
    }

    /// Versions a capsule runs on.
    pub fn versions(&self) -> BTreeMap<String, String> {
        [
            ("kernel_version", self.artifacts.kernel_release.clone()),
            ("vmm_version", self.vmm.title()),
            ("agent_version", env!("CARGO_PKG_VERSION").to_owned()),
            // Of the same release: the guest's is replaced by the host's when it starts.
            ("envd_version", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// What this host has.
    pub fn capacity(&self) -> Capacity {
        let system = rustix::system::sysinfo();
        let memory = u64::from(system.mem_unit) * system.totalram as u64;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Capacity {
            cpu_cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory_mb: memory >> 20,
            disk_mb: self.pool.size_bytes().unwrap_or(0) >> 20,
        }
    }

    /// A full disk as callers see it.
    pub fn no_space(error: disk::AdmitError) -> Failure {
        match error {
            disk::AdmitError::NoSpace { needed_bytes, free_bytes } => {
                Failure::Space { needed_mb: needed_bytes >> 20, free_mb: free_bytes >> 20 }
            }
            disk::AdmitError::Io(source) => Failure::at("asking for disk space")(source),
        }
    }
}

/// Has the control plane look at this host.
fn changed() -> SandboxEvent {
    SandboxEvent {
        id: Uuid::now_v7(),
        sandbox_id: String::new(),
        event: hostlink::callback::HOST_CHANGED.to_owned(),
        status: String::new(),
        reason: String::new(),
        timestamp_ms: now_ms(),
    }
}

/// A secret of 128 random bits.
pub fn random_token() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
