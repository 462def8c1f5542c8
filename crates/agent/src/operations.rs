//! The four operations on a capsule, as the machine asks for them. Each either reaches its stable point or leaves
//! the capsule where it was. The stable point is on the disk before anything it replaces is given up.

use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::points;
use crate::record::{Place, Record};
use crate::registry::Registry;
use crate::snapshots::{Snapshot, SnapshotWish, Taken};
use crate::told::Purpose;
use crate::vm::{Standstill, Vm};
use lifecycle::agent::Operation;
use memory::{Generation, Seal};
use model::{CapsuleId, EndReason};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The end of an operation.
pub struct Outcome {
    /// Which.
    pub operation: Operation,
    /// Where the capsule is now; `None` = gone.
    pub result: Result<Option<Place>, Failure>,
    /// Its VM, when it has one; else, after a failure, why not.
    pub vm: Result<Vm, EndReason>,
}

impl Outcome {
    /// Of an operation that panicked. Its VM, if it had one, belongs to nobody now and is ended by the next start.
    pub fn panicked(error: &tokio::task::JoinError) -> Self {
        let failure = Failure::Host { step: "operation", why: error.to_string() };
        Self { operation: Operation::Destroy, result: Err(failure), vm: Err(EndReason::VmCrash) }
    }
}

/// Performs it.
pub async fn run(
    operation: Operation,
    host: Arc<Host>,
    record: Record,
    vm: Option<Vm>,
    discard_memory: bool,
) -> Outcome {
    points::pass(&host, begun(operation)).await;
    let (result, vm) = match operation {
        Operation::Create => started(&host, &record, create(&host, &record).await).await,
        Operation::Resume if discard_memory => started(&host, &record, reboot(&host, &record).await).await,
        Operation::Resume => started(&host, &record, resume(&host, &record).await).await,
        Operation::Pause => match vm {
            Some(vm) => pause(&host, &record, vm, discard_memory).await,
            None => (Err(Failure::Unknown), Err(EndReason::VmCrash)),
        },
        Operation::Destroy => {
            if let Some(vm) = vm {
                vm.end(&host).await;
            }
            points::pass(&host, "destroy.ended").await;
            free_generation(&host, &record.place, None);
            points::pass(&host, "destroy.freed").await;
            (remove(&host, record.id).await.map(|()| None), Err(EndReason::User))
        }
    };
    Outcome { operation, result, vm }
}

fn begun(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "create.begun",
        Operation::Pause => "pause.begun",
        Operation::Resume => "resume.begun",
        Operation::Destroy => "destroy.begun",
    }
}

type Ended = (Result<Option<Place>, Failure>, Result<Vm, EndReason>);

/// Writes down that it runs; a VM that cannot be found again after a restart is not kept.
async fn started(host: &Arc<Host>, record: &Record, vm: Result<Vm, Failure>) -> Ended {
    let mut vm = match vm {
        Ok(vm) => vm,
        Err(failure) => return not_started(failure),
    };
    let place = vm.place(&record.place);
    points::pass(host, "start.woken").await;
    match save(host, Record { place: place.clone(), reason: None, ..record.clone() }).await {
        Ok(()) => {
            vm.recorded();
            points::pass(host, "start.recorded").await;
            (Ok(Some(place)), Ok(vm))
        }
        Err(failure) => {
            vm.end(host).await;
            not_started(failure)
        }
    }
}

fn not_started(failure: Failure) -> Ended {
    let why = EndReason::StartFailed(failure.to_string());
    (Err(failure), Err(why))
}

/// Replaces the capsule's record, durably.
pub async fn save(host: &Host, record: Record) -> Result<(), Failure> {
    let records = host.records.clone();
    let saved = tokio::task::spawn_blocking(move || records.save(&record)).await;
    saved.map_err(Failure::at("saving the record"))?.map_err(Failure::at("saving the record"))
}

/// Forgets a capsule whose record cannot be read. What it had is nobody's then, and is freed by the next start.
pub async fn forget_damaged(host: &Host, registry: &Registry, id: CapsuleId) -> Result<(), Failure> {
    remove(host, id).await?;
    registry.forget(id);
    Ok(())
}

async fn remove(host: &Host, id: CapsuleId) -> Result<(), Failure> {
    let records = host.records.clone();
    let removed = tokio::task::spawn_blocking(move || records.remove(id)).await;
    removed.map_err(Failure::at("removing the record"))?.map_err(Failure::at("removing the record"))
}

/// A new VM: as a clone of the snapshot it is to begin as, or of its class's generation.
async fn create(host: &Arc<Host>, record: &Record) -> Result<Vm, Failure> {
    if let Some(generation) = snapshot_to_restore(host, record).await? {
        let vm = Vm::restore(host, &record.class, generation, Uuid::now_v7()).await?;
        return wake(host, record, vm, Purpose::Clone).await;
    }
    let vm = if let Some(vm) = host.ready.take(host, &record.class) {
        vm
    } else {
        let generation = host.classes.generation(host, &record.class).await?;
        Vm::restore(host, &record.class, generation, Uuid::now_v7()).await?
    };
    let started = wake(host, record, vm, Purpose::Clone).await;
    host.ready.refill(host, &record.class);
    started
}

/// The memory a capsule is to begin with, if it begins as a snapshot that has any. A template whose memory cannot be loaded here
/// any more boots from its disk, as one without memory does.
async fn snapshot_to_restore(host: &Arc<Host>, record: &Record) -> Result<Option<Arc<Generation>>, Failure> {
    let Some(id) = record.snapshot else { return Ok(None) };
    let snapshot = host.snapshots.get(id).ok_or(Failure::Snapshot(id))?;
    let generation = host.open_generation(snapshot.generation).await?;
    let is_template = record.class.template == id;
    if is_template && (!generation.has_memory() || host.compatible(&generation).is_err()) {
        return Ok(None);
    }
    if !snapshot.class.has_size_of(&record.class) {
        return Err(Failure::Invalid(format!("snapshot {id} is of another size")));
    }
    host.compatible(&generation)?;
    Ok(Some(generation))
}

/// The capsule's own generation, back in a VM.
async fn resume(host: &Arc<Host>, record: &Record) -> Result<Vm, Failure> {
    let generation = saved(host, record).await?;
    if !generation.has_memory() {
        return reboot(host, record).await;
    }
    host.compatible(&generation)?;
    let vm = Vm::restore(host, &record.class, generation, Uuid::now_v7()).await?;
    wake(host, record, vm, Purpose::Resume).await
}

/// The capsule's disk in a machine that boots.
async fn reboot(host: &Arc<Host>, record: &Record) -> Result<Vm, Failure> {
    let generation = saved(host, record).await?;
    let disk = generation.disk_path().ok_or_else(|| Failure::at("booting")("the generation has no disk"))?;
    let vm = Vm::boot(host, &record.class, &disk, Uuid::now_v7()).await?;
    wake(host, record, vm, Purpose::Resume).await
}

async fn saved(host: &Arc<Host>, record: &Record) -> Result<Arc<Generation>, Failure> {
    match record.place {
        Place::Paused { generation } => host.open_generation(generation).await,
        _ => Err(Failure::State(record.status())),
    }
}

/// Lets it run and gives it its identity; ends it when that fails.
async fn wake(host: &Arc<Host>, record: &Record, mut vm: Vm, purpose: Purpose) -> Result<Vm, Failure> {
    points::pass(host, "start.restored").await;
    match vm.wake(host, record, purpose).await {
        Ok(()) => Ok(vm),
        Err(failure) => {
            let failure = vm.explain(failure);
            vm.end(host).await;
            Err(failure)
        }
    }
}

/// Saves it and ends its VM; a failure leaves it running.
async fn pause(host: &Arc<Host>, record: &Record, mut vm: Vm, discard_memory: bool) -> Ended {
    host.proxy.evict(record.id);
    let labels = BTreeMap::from([("capsule".to_owned(), record.id.to_string())]);
    match save_generation(host, record, &mut vm, labels, discard_memory).await {
        Ok(place) => {
            points::pass(host, "pause.recorded").await;
            // The capsule is safe on the disk; nobody has to wait until its VM is gone.
            let owner = host.clone();
            host.tasks.spawn(async move { vm.end(&owner).await });
            (Ok(Some(place)), Err(EndReason::User))
        }
        Err(failure) => match vm.carry_on(record).await {
            Ok(()) => (Err(failure), Ok(vm)),
            Err(second) => {
                tracing::error!(capsule = %record.id, failure = %second, "could not go on after a failed pause");
                let why = if vm.alive() { EndReason::VmCrash } else { vm.exited().await };
                vm.end(host).await;
                (Err(failure), Err(why))
            }
        },
    }
}

/// Keeps a snapshot of a capsule, which runs in this VM or is paused. One with this id is left as it is: it was asked for
/// twice.
pub async fn snapshot(
    host: &Arc<Host>,
    record: &Record,
    vm: Option<&mut Vm>,
    wish: SnapshotWish,
) -> Result<Taken, Failure> {
    let SnapshotWish { id, discard_memory } = wish;
    match host.snapshots.get(id) {
        Some(known) if known.capsule == record.id => {
            let size_bytes = host.open_generation(known.generation).await?.allocated_bytes();
            return Ok(Taken { size_bytes, ..Taken::default() });
        }
        Some(_) => return Err(Failure::Invalid(format!("snapshot {id} is another capsule's"))),
        None => {}
    }
    let _space = host.pool.admit(limits::ADMIT_DISK).map_err(Host::no_space)?;
    let labels = BTreeMap::from([("snapshot".to_owned(), id.to_string())]);
    let (generation, standstill) = match vm {
        Some(vm) if discard_memory => vm.snapshot_disk(host, labels).await?,
        Some(vm) => vm.snapshot(host, labels).await?,
        None => (duplicate(host, record, labels, discard_memory).await?, Standstill::default()),
    };
    points::pass(host, "snapshot.saved").await;
    let snapshot = Snapshot { id, capsule: record.id, generation: generation.id(), class: record.class.clone() };
    let owner = host.clone();
    let added = tokio::task::spawn_blocking(move || owner.snapshots.add(snapshot)).await;
    let added = added.map_err(Failure::at("saving the snapshot")).flatten();
    added.inspect_err(|_| drop(host.shelf.remove(generation.id())))?;
    points::pass(host, "snapshot.recorded").await;
    Ok(Taken { standstill, size_bytes: generation.allocated_bytes() })
}

/// What a paused capsule was saved as, in a generation that does not go with it.
async fn duplicate(
    host: &Arc<Host>,
    record: &Record,
    labels: BTreeMap<String, String>,
    discard_memory: bool,
) -> Result<Generation, Failure> {
    let source = saved(host, record).await?;
    // What it was told of the daemon in its memory stays true.
    let labels =
        source.manifest().labels.clone().into_iter().filter(|(key, _)| key != "capsule").chain(labels).collect();
    let seal = Seal { compatibility: source.manifest().compatibility.clone(), labels };
    let dir = host.shelf.dir().to_owned();
    let made = tokio::task::spawn_blocking(move || match source.disk_path().filter(|_| discard_memory) {
        Some(disk) => Generation::of_disk(&dir, &disk, seal),
        None => source.duplicate(&dir, seal),
    });
    made.await.map_err(Failure::at("copying what was saved"))?.map_err(Failure::at("copying what was saved"))
}

/// Gives a snapshot up.
pub async fn forget_snapshot(host: &Arc<Host>, id: Uuid) -> Result<(), Failure> {
    let owner = host.clone();
    let removed = tokio::task::spawn_blocking(move || owner.snapshots.remove(&owner, id)).await;
    removed.map_err(Failure::at("removing the snapshot"))??;
    host.ready.forget(host, id).await;
    host.classes.forget(host, id);
    Ok(())
}

async fn save_generation(
    host: &Arc<Host>,
    record: &Record,
    vm: &mut Vm,
    labels: BTreeMap<String, String>,
    discard_memory: bool,
) -> Result<Place, Failure> {
    let saved = if discard_memory { vm.save_disk(host, labels).await } else { vm.save(host, labels).await };
    let generation = saved?.id();
    let place = Place::Paused { generation };
    points::pass(host, "pause.saved").await;
    if let Err(failure) = save(host, Record { place: place.clone(), ..record.clone() }).await {
        let _ = host.shelf.remove(generation);
        return Err(failure);
    }
    Ok(place)
}

/// Frees what the old place needed and the new one does not. Called once the new one is durable.
pub fn free(host: &Host, old: &Place, new: &Place) {
    free_generation(host, old, generation_of(new));
}

fn free_generation(host: &Host, old: &Place, keep: Option<Uuid>) {
    let is_shared = |id| host.classes.owns(id) || host.snapshots.owns(id);
    let Some(id) = generation_of(old).filter(|id| Some(*id) != keep && !is_shared(*id)) else { return };
    if let Err(error) = host.shelf.remove(id) {
        tracing::warn!(generation = %id, %error, "could not be removed; the next start does it");
    }
}

/// The generation this place needs.
pub fn generation_of(place: &Place) -> Option<Uuid> {
    match place {
        Place::Running { base, .. } => *base,
        Place::Paused { generation } => Some(*generation),
        Place::Lost => None,
    }
}
