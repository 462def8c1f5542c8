//! The four operations on a capsule, as the machine asks for them. Each either reaches its stable point or leaves
//! the capsule where it was. The stable point is on the disk before anything it replaces is given up.

use crate::environment::{Environment, GuestOf, VirtualMachine};
use crate::failure::Failure;
use crate::record::{Place, Record};
use crate::registry::Registry;
use crate::snapshots::{Snapshot, SnapshotWish, Taken};
use crate::told::Purpose;
use crate::vm::Standstill;
use lifecycle::agent::Operation;
use model::{CapsuleId, EndReason};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The end of an operation.
pub struct Outcome<V> {
    /// Which.
    pub operation: Operation,
    /// Where the capsule is now; `None` = gone.
    pub result: Result<Option<Place>, Failure>,
    /// Its VM, when it has one; else, after a failure, why not.
    pub vm: Result<V, EndReason>,
}

impl<V> Outcome<V> {
    /// Of an operation that panicked. Its VM, if it had one, belongs to nobody now and is ended by the next start.
    pub fn panicked(error: &tokio::task::JoinError) -> Self {
        let failure = Failure::Host { step: "operation", why: error.to_string() };
        Self { operation: Operation::Destroy, result: Err(failure), vm: Err(EndReason::VmCrash) }
    }
}

/// Performs it.
pub async fn run<H: Environment>(
    operation: Operation,
    host: Arc<H>,
    record: Record,
    vm: Option<H::Vm>,
    discard_memory: bool,
) -> Outcome<H::Vm> {
    host.pass(begun(operation)).await;
    let (result, vm) = match operation {
        Operation::Create => started(&host, create(&host, &record).await).await,
        Operation::Resume if discard_memory => started(&host, reboot(&host, &record).await).await,
        Operation::Resume => started(&host, resume(&host, &record).await).await,
        Operation::Pause => match vm {
            Some(vm) => pause(&host, &record, vm, discard_memory).await,
            None => (Err(Failure::Unknown), Err(EndReason::VmCrash)),
        },
        Operation::Destroy => destroy(&host, &record, vm).await,
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

type Ended<V> = (Result<Option<Place>, Failure>, Result<V, EndReason>);

/// A VM whose guest knows who it is.
struct Woken<H: Environment> {
    vm: H::Vm,
    place: Place,
    /// The capsule's record with that place.
    draft: H::Draft,
}

/// Writes down that it runs; a VM that cannot be found again after a restart is not kept.
async fn started<H: Environment>(host: &Arc<H>, woken: Result<Woken<H>, Failure>) -> Ended<H::Vm> {
    let Woken { mut vm, place, draft } = match woken {
        Ok(woken) => woken,
        Err(failure) => return not_started(failure),
    };
    host.pass("start.woken").await;
    match host.commit_record(draft).await {
        Ok(()) => {
            vm.recorded();
            host.pass("start.recorded").await;
            (Ok(Some(place)), Ok(vm))
        }
        Err(failure) => {
            vm.end(host).await;
            not_started(failure)
        }
    }
}

fn not_started<V>(failure: Failure) -> Ended<V> {
    let why = EndReason::StartFailed(failure.to_string());
    (Err(failure), Err(why))
}

/// Forgets a capsule whose record cannot be read. What it had is nobody's then, and is freed by the next start.
pub async fn forget_damaged<H: Environment>(
    host: &Arc<H>,
    registry: &Registry<GuestOf<H>>,
    id: CapsuleId,
) -> Result<(), Failure> {
    host.remove_record(id).await?;
    registry.forget(id);
    Ok(())
}

/// A new VM: as a clone of the snapshot it is to begin as, or of its class's generation.
async fn create<H: Environment>(host: &Arc<H>, record: &Record) -> Result<Woken<H>, Failure> {
    if let Some(generation) = snapshot_to_restore(host, record).await? {
        let vm = H::Vm::restore(host, &record.class, generation, Uuid::now_v7()).await?;
        return wake(host, record, vm, Purpose::Clone).await;
    }
    let vm = host.begin(&record.class).await?;
    let started = wake(host, record, vm, Purpose::Clone).await;
    host.refill(&record.class);
    started
}

/// The memory a capsule is to begin with, if it begins as a snapshot that has any. A template whose memory cannot be loaded here
/// any more boots from its disk, as one without memory does.
async fn snapshot_to_restore<H: Environment>(
    host: &Arc<H>,
    record: &Record,
) -> Result<Option<Arc<H::Generation>>, Failure> {
    let Some(id) = record.snapshot else { return Ok(None) };
    let snapshot = host.snapshots().get(id).ok_or(Failure::Snapshot(id))?;
    let generation = host.open_generation(snapshot.generation).await?;
    let is_template = record.class.template == id;
    if is_template && (!H::has_memory(&generation) || host.compatible(&generation).is_err()) {
        return Ok(None);
    }
    if !snapshot.class.has_size_of(&record.class) {
        return Err(Failure::Invalid(format!("snapshot {id} is of another size")));
    }
    host.compatible(&generation)?;
    Ok(Some(generation))
}

/// The capsule's own generation, back in a VM.
async fn resume<H: Environment>(host: &Arc<H>, record: &Record) -> Result<Woken<H>, Failure> {
    let generation = saved(host, record).await?;
    if !H::has_memory(&generation) {
        return reboot(host, record).await;
    }
    host.compatible(&generation)?;
    let vm = H::Vm::restore(host, &record.class, generation, Uuid::now_v7()).await?;
    wake(host, record, vm, Purpose::Resume).await
}

/// The capsule's disk in a machine that boots.
async fn reboot<H: Environment>(host: &Arc<H>, record: &Record) -> Result<Woken<H>, Failure> {
    let generation = saved(host, record).await?;
    let vm = H::Vm::reboot(host, &record.class, generation, Uuid::now_v7()).await?;
    wake(host, record, vm, Purpose::Resume).await
}

async fn saved<H: Environment>(host: &Arc<H>, record: &Record) -> Result<Arc<H::Generation>, Failure> {
    match record.place {
        Place::Paused { generation } => host.open_generation(generation).await,
        _ => Err(Failure::State(record.status())),
    }
}

/// Lets it run and gives it its identity, and meanwhile writes what the capsule's record is to be; ends it when one of them
/// fails.
async fn wake<H: Environment>(
    host: &Arc<H>,
    record: &Record,
    mut vm: H::Vm,
    purpose: Purpose,
) -> Result<Woken<H>, Failure> {
    host.pass("start.restored").await;
    let place = vm.place(&record.place);
    let draft = host.draft_record(Record { place: place.clone(), reason: None, ..record.clone() });
    match tokio::join!(vm.wake(host, record, purpose), draft) {
        (Ok(()), Ok(draft)) => Ok(Woken { vm, place, draft }),
        (Err(failure), _) | (_, Err(failure)) => {
            let failure = vm.explain(failure);
            vm.end(host).await;
            Err(failure)
        }
    }
}

/// Saves it and ends its VM; a failure leaves it running.
async fn pause<H: Environment>(host: &Arc<H>, record: &Record, mut vm: H::Vm, discard_memory: bool) -> Ended<H::Vm> {
    host.evict(record.id);
    let labels = BTreeMap::from([("capsule".to_owned(), record.id.to_string())]);
    match save_generation(host, record, &mut vm, labels, discard_memory).await {
        Ok(place) => {
            host.pass("pause.recorded").await;
            // The capsule is safe on the disk; nobody has to wait until its VM is gone.
            let owner = host.clone();
            host.tasks().spawn(async move { vm.end(&owner).await });
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

/// Its end is on the disk before anything of it goes; a failure leaves it where it was.
async fn destroy<H: Environment>(host: &Arc<H>, record: &Record, vm: Option<H::Vm>) -> Ended<H::Vm> {
    if let Err(failure) = host.remove_record(record.id).await {
        return (Err(failure), vm.ok_or(EndReason::User));
    }
    host.pass("destroy.recorded").await;
    host.evict(record.id);
    if let Some(vm) = vm {
        vm.end(host).await;
    }
    host.pass("destroy.ended").await;
    free_generation(host, &record.place, None);
    (Ok(None), Err(EndReason::User))
}

/// Keeps a snapshot of a capsule, which runs in this VM or is paused. One with this id is left as it is: it was asked for
/// twice.
pub async fn snapshot<H: Environment>(
    host: &Arc<H>,
    record: &Record,
    vm: Option<&mut H::Vm>,
    wish: SnapshotWish,
) -> Result<Taken, Failure> {
    let SnapshotWish { id, discard_memory } = wish;
    match host.snapshots().get(id) {
        Some(known) if known.capsule == record.id => {
            let size_bytes = host.size_bytes(known.generation).await?;
            return Ok(Taken { size_bytes, ..Taken::default() });
        }
        Some(_) => return Err(Failure::Invalid(format!("snapshot {id} is another capsule's"))),
        None => {}
    }
    let _space = host.admit()?;
    let labels = BTreeMap::from([("snapshot".to_owned(), id.to_string())]);
    let (generation, standstill) = if let Some(vm) = vm {
        vm.snapshot(host, labels, discard_memory).await?
    } else {
        let source = saved(host, record).await?;
        (host.duplicate(source, labels, discard_memory).await?, Standstill::default())
    };
    host.pass("snapshot.saved").await;
    let snapshot = Snapshot { id, capsule: record.id, generation, class: record.class.clone() };
    host.save_snapshot(snapshot.clone()).await.inspect_err(|_| drop(host.remove_generation(generation)))?;
    host.snapshots().add(snapshot);
    host.pass("snapshot.recorded").await;
    Ok(Taken { standstill, size_bytes: host.size_bytes(generation).await? })
}

/// Gives a snapshot up, and what was made of it as a template; its generation goes once no clone needs it. Giving up an unknown
/// one succeeds.
pub async fn forget_snapshot<H: Environment>(host: &Arc<H>, id: Uuid) -> Result<(), Failure> {
    host.remove_snapshot(id).await?;
    let snapshot = host.snapshots().remove(id);
    // Nothing new is made of it from here on.
    host.forget_template(id).await;
    let Some(snapshot) = snapshot else { return Ok(()) };
    host.remove_generation(snapshot.generation).map_err(Failure::at("removing the snapshot"))
}

async fn save_generation<H: Environment>(
    host: &Arc<H>,
    record: &Record,
    vm: &mut H::Vm,
    labels: BTreeMap<String, String>,
    discard_memory: bool,
) -> Result<Place, Failure> {
    let generation = vm.save(host, labels, discard_memory).await?;
    let place = Place::Paused { generation };
    host.pass("pause.saved").await;
    if let Err(failure) = host.save_record(Record { place: place.clone(), ..record.clone() }).await {
        let _ = host.remove_generation(generation);
        return Err(failure);
    }
    Ok(place)
}

/// Frees what the old place needed and the new one does not. Called once the new one is durable.
pub fn free<H: Environment>(host: &Arc<H>, old: &Place, new: &Place) {
    free_generation(host, old, generation_of(new));
}

fn free_generation<H: Environment>(host: &Arc<H>, old: &Place, keep: Option<Uuid>) {
    let is_shared = |id| host.is_of_class(id) || host.snapshots().owns(id);
    let Some(id) = generation_of(old).filter(|id| Some(*id) != keep && !is_shared(*id)) else { return };
    if let Err(error) = host.remove_generation(id) {
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
