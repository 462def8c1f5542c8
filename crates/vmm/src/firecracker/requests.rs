//! Bodies of requests, as far as we use them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::spec::text;
use crate::{BootSource, Mac, MachineSpec, Memory, SpecError};

/// Name of the network card.
pub(super) const NIC: &str = "eth0";

/// A disk. Firecracker keeps the path in the device state and takes no other at a load, so it is a name in the machine's
/// directory, which is Firecracker's working directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) read_only: bool,
}

pub(super) const ROOT_DISK: Disk = Disk { name: "root", read_only: false };
pub(super) const MODULES_DISK: Disk = Disk { name: "modules", read_only: true };

#[derive(Debug, Serialize)]
pub(super) struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
    smt: bool,
    track_dirty_pages: bool,
}

impl MachineConfig {
    pub(super) fn of(spec: &MachineSpec) -> Self {
        Self { vcpu_count: spec.vcpus, mem_size_mib: spec.memory_bytes >> 20, smt: false, track_dirty_pages: true }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct KernelSource<'a> {
    kernel_image_path: &'a str,
    initrd_path: &'a str,
    boot_args: &'a str,
}

impl<'a> KernelSource<'a> {
    pub(super) fn of(source: &'a BootSource) -> Result<Self, SpecError> {
        Ok(Self {
            kernel_image_path: text(&source.kernel)?,
            initrd_path: text(&source.initramfs)?,
            boot_args: &source.cmdline,
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct BlockDevice {
    drive_id: &'static str,
    path_on_host: &'static str,
    /// The kernel command line names the root device; this would add another one.
    is_root_device: bool,
    is_read_only: bool,
    /// A guest's flush reaches the file.
    cache_type: &'static str,
}

impl From<Disk> for BlockDevice {
    fn from(disk: Disk) -> Self {
        Self {
            drive_id: disk.name,
            path_on_host: disk.name,
            is_root_device: false,
            is_read_only: disk.read_only,
            cache_type: "Writeback",
        }
    }
}

/// The file of a disk that is there.
#[derive(Debug, Serialize)]
pub(super) struct Drive {
    drive_id: &'static str,
    path_on_host: &'static str,
}

impl From<Disk> for Drive {
    fn from(disk: Disk) -> Self {
        Self { drive_id: disk.name, path_on_host: disk.name }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkInterface<'a> {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: &'a str,
    pub(super) guest_mac: Mac,
}

/// A balloon that nobody inflates: through it the guest's kernel names pages it does not use, and Firecracker gives them back to
/// the host (`docs/ballooning.md`, v1.16, free page reporting).
#[derive(Debug, Serialize)]
pub(super) struct Balloon {
    amount_mib: u64,
    deflate_on_oom: bool,
    free_page_reporting: bool,
}

impl Balloon {
    pub(super) const REPORTING: Self = Self { amount_mib: 0, deflate_on_oom: true, free_page_reporting: true };
}

/// `{}`.
#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) action_type: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct State {
    pub(super) state: &'static str,
}

/// Which pages a snapshot writes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) enum Pages {
    /// All.
    Full,
    /// Those that differ from the memory it began with, or, later, from its last snapshot.
    Diff,
}

#[derive(Debug, Serialize)]
pub(super) struct Create<'a> {
    pub(super) snapshot_type: Pages,
    pub(super) snapshot_path: &'a str,
    pub(super) mem_file_path: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct Load<'a> {
    snapshot_path: &'a str,
    mem_backend: MemoryBackend<'a>,
    track_dirty_pages: bool,
    resume_vm: bool,
    network_overrides: Vec<NetworkOverride<'a>>,
}

#[derive(Debug, Serialize)]
struct MemoryBackend<'a> {
    backend_type: &'static str,
    backend_path: &'a str,
}

#[derive(Debug, Serialize)]
struct NetworkOverride<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
}

impl<'a> Load<'a> {
    pub(super) fn of(spec: &'a MachineSpec, state: &'a Path) -> Result<Self, SpecError> {
        let (backend_type, backend_path) = match &spec.memory {
            Memory::File(file) => ("File", file),
            Memory::Pager(socket) => ("Uffd", socket),
        };
        let overrides = spec.network.iter().map(|nic| NetworkOverride { iface_id: NIC, host_dev_name: &nic.tap });
        Ok(Self {
            snapshot_path: text(state)?,
            mem_backend: MemoryBackend { backend_type, backend_path: text(backend_path)? },
            track_dirty_pages: true,
            resume_vm: false,
            network_overrides: overrides.collect(),
        })
    }
}

/// `GET /`.
#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    pub(super) state: String,
}
