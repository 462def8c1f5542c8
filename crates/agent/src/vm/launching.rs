//! The processes of a VM: starting them, and finding them again.

use super::ending;
use crate::failure::Failure;
use crate::host::Host;
use crate::laps::Laps;
use crate::limits;
use crate::points;
use crate::record::{Class, Record};
use crate::vm_dirs::Dirs;
use keeper::{Keeper, KeeperSpec};
use memory::{Base, Pin};
use network::Slot;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use vmm::{Confinement, Mac, Machine, MachineSpec, Memory, Nic, Start, User, Vmm};

/// Keeper and VMM, and the way to it.
pub(super) struct Running {
    pub(super) keeper: Keeper,
    pub(super) vmm: Arc<dyn Vmm>,
    pub(super) machine: Box<dyn Machine>,
}

/// What [`Vm::attach`] needs of the processes and files of a VM.
pub(super) async fn reach(
    host: &Arc<Host>,
    record: &Record,
    id: Uuid,
    base: Option<Uuid>,
) -> Result<(Running, Base, Option<Pin>), Failure> {
    let dirs = Dirs::of(host, id);
    let keeper = keeper::attach(&dirs.runtime).map_err(Failure::at("finding the keeper"))?;
    let keeper = keeper.ok_or_else(|| Failure::at("finding the keeper")("it ended"))?;
    let command = keeper.spec().map_err(Failure::at("reading what the keeper was told"))?.command;
    let missing = || Failure::at("reaching the VMM")(format_args!("there is no {} here any more", command.tier));
    let vmm = host.vmm_of(command.tier).ok_or_else(missing)?;
    // Where it was started: an agent of another version may have had another place for that.
    let machine = connect(&*vmm, &keeper, &command.cwd, limits::VMM_ANSWER).await?;
    let (base, pin) = if let Some(id) = base {
        (Base::Generation(host.open_generation(id).await?), host.shelf.pin(id))
    } else {
        let bytes = u64::from(record.class.memory_mb) << 20;
        (Base::Zero { memory: dirs.files.join("memory"), bytes }, None)
    };
    Ok((Running { keeper, vmm, machine }, base, pin))
}

/// Reaches the VMM, for as long as it lives.
async fn connect(vmm: &dyn Vmm, keeper: &Keeper, runtime: &Path, limit: Duration) -> Result<Box<dyn Machine>, Failure> {
    tokio::select! {
        connected = vmm.connect(runtime, limit) => connected.map_err(Failure::at("reaching the VMM")),
        exit = keeper.wait_exit() => Err(exit.map_or_else(Failure::at("reaching the VMM"), |exit| {
            Failure::at("reaching the VMM")(ending::describe(&exit))
        })),
    }
}

/// Starts keeper and VMM.
pub(super) async fn launch(
    host: &Arc<Host>,
    class: &Class,
    slot: &Slot,
    base: &Base,
    id: Uuid,
    how: &Start,
    laps: &mut Laps,
) -> Result<Running, Failure> {
    let spec = spec(host, class, slot, base, id);
    let command = host.vmm.command(&spec, how).map_err(Failure::at("describing the VM"))?;
    let keeper_spec = KeeperSpec {
        dir: Dirs::of(host, id).runtime,
        command,
        network_namespace: Some(slot.namespace_path()),
        cgroup: Some(host.group(id, class)),
        oom_score_adj: limits::VMM_OOM_SCORE,
        pager: None,
    };
    let keeper = host.keepers.launch(&keeper_spec).await.map_err(Failure::at("starting the keeper"))?;
    laps.lap("keeper");
    host.keeper_ahead();
    points::pass(host, "start.launched").await;
    match connect(&*host.vmm, &keeper, &spec.runtime_dir, limits::VMM_START).await {
        Ok(machine) => {
            laps.lap("vmm");
            Ok(Running { keeper, vmm: host.vmm.clone(), machine })
        }
        Err(failure) => {
            // Whether it is gone is for the caller to see.
            let _ = keeper.kill().await;
            Err(failure)
        }
    }
}

/// The machine of a VM.
pub(super) fn spec(host: &Host, class: &Class, slot: &Slot, base: &Base, id: Uuid) -> MachineSpec {
    let dirs = Dirs::of(host, id);
    let number = limits::VMM_USERS + slot.number();
    MachineSpec {
        vcpus: class.vcpus,
        memory_bytes: u64::from(class.memory_mb) << 20,
        memory: Memory::File(base.memory_path()),
        root_disk: dirs.disk(),
        modules_disk: Some(host.artifacts.modules_disk.clone()),
        network: Some(Nic { tap: network::TAP.to_owned(), mac: Mac(network::GUEST_MAC) }),
        runtime_dir: dirs.vmm(),
        confinement: Some(Confinement { user: User { uid: number, gid: number }, root: host.empty_dir() }),
    }
}
