//! What capsules need of the host they are on and of the VM they run in: by these two alone do actors, operations and
//! adoption touch the world. [`Host`](crate::host::Host) and [`Vm`](crate::vm::Vm) are the real ones; a simulator brings
//! its own.

use crate::drain::Switch;
use crate::failure::Failure;
use crate::laps::Laps;
use crate::record::{Class, Place, Record};
use crate::snapshots::{Snapshot, Snapshots};
use crate::told::Purpose;
use crate::vm::Standstill;
use hostlink::SandboxEvent;
use model::{CapsuleId, EndReason};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Handles on the guests of an environment's VMs.
pub type GuestOf<H> = <<H as Environment>::Vm as VirtualMachine>::Guest;

/// A host, as its capsules need it. What is said to be durable has outlived the agent and the machine once it succeeded;
/// what failed may or may not be there.
pub trait Environment: Sized + Send + Sync + 'static {
    /// What capsules run in.
    type Vm: VirtualMachine<Host = Self>;
    /// An opened generation: memory, device state and disk of one moment.
    type Generation: Send + Sync;
    /// A network of a VM's own.
    type Slot: Send;
    /// The next record of a capsule.
    type Draft: Send;

    /// Unix time in milliseconds.
    fn now_ms() -> u64;

    /// Passes the point called `name`, at which a test may hold the operation or end the agent.
    fn pass(&self, name: &'static str) -> impl Future<Output = ()> + Send;

    /// Whether the host is to be empty.
    fn draining(&self) -> &Switch;

    /// Work that nobody waits for until the agent ends.
    fn tasks(&self) -> &TaskTracker;

    /// Writes the capsule's next record, durably, which counts once it is committed; dropped, it is as if it had not been.
    fn draft_record(&self, record: Record) -> impl Future<Output = Result<Self::Draft, Failure>> + Send;

    /// Puts the draft in the place of the capsule's record, durably.
    fn commit_record(&self, draft: Self::Draft) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Replaces the capsule's record, durably.
    fn save_record(&self, record: Record) -> impl Future<Output = Result<(), Failure>> + Send {
        async { self.commit_record(self.draft_record(record).await?).await }
    }

    /// Removes the capsule's record, durably. Removing an unknown one succeeds.
    fn remove_record(&self, id: CapsuleId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Tells the control plane, durably.
    fn report(&self, event: SandboxEvent) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The snapshots that are known.
    fn snapshots(&self) -> &Snapshots;

    /// Writes a snapshot's file, durably; one that failed is not there.
    fn save_snapshot(&self, snapshot: Snapshot) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes a snapshot's file, durably. Removing an unknown one succeeds.
    fn remove_snapshot(&self, id: Uuid) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Opens a generation.
    fn open_generation(&self, id: Uuid) -> impl Future<Output = Result<Arc<Self::Generation>, Failure>> + Send;

    /// Whether it has memory; else it is a disk to boot from.
    fn has_memory(generation: &Self::Generation) -> bool;

    /// Bytes a generation takes on the disk, shared parts included.
    fn size_bytes(&self, id: Uuid) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// A generation of its own with the same contents, or its disk alone.
    fn duplicate(
        &self,
        generation: Arc<Self::Generation>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> impl Future<Output = Result<Uuid, Failure>> + Send;

    /// Gives up what was made of a template that is gone: its size classes, and VMs that wait.
    fn forget_template(self: &Arc<Self>, id: Uuid) -> impl Future<Output = ()> + Send;

    /// Refuses a generation whose memory cannot be loaded here.
    fn compatible(&self, generation: &Self::Generation) -> Result<(), Failure>;

    /// Removes a generation, now or when the last VM that began with it ends.
    fn remove_generation(&self, id: Uuid) -> io::Result<()>;

    /// Removes every generation that is not among these; says which.
    fn collect_generations(&self, wanted: &[Uuid]) -> io::Result<Vec<Uuid>>;

    /// Keeps every generation there is until the agent ends: nobody knows who needs it.
    fn keep_generations(&self);

    /// Takes over the generations of size classes; says which they are.
    fn adopt_classes(self: &Arc<Self>) -> impl Future<Output = Vec<Uuid>> + Send;

    /// Whether a generation belongs to a size class.
    fn is_of_class(&self, generation: Uuid) -> bool;

    /// A stopped VM as a clone of its class's generation: one that waits, or a new one.
    fn begin(self: &Arc<Self>, class: &Class) -> impl Future<Output = Result<Self::Vm, Failure>> + Send;

    /// One that waited may have been taken: makes what is missing, in the background.
    fn refill(self: &Arc<Self>, class: &Class);

    /// Space for what a VM may write, until it is dropped.
    fn admit(&self) -> Result<impl Send, Failure>;

    /// Ends proxied connections to the capsule.
    fn evict(&self, capsule: CapsuleId);
}

/// A VM, as capsules need it.
pub trait VirtualMachine: Sized + Send + Sync + 'static {
    /// Where it runs.
    type Host: Environment<Vm = Self>;
    /// What callers are given of its guest.
    type Guest: Clone + Send + Sync + 'static;

    /// A stopped VM with a generation's memory, state and disk.
    fn restore(
        host: &Arc<Self::Host>,
        class: &Class,
        generation: Arc<<Self::Host as Environment>::Generation>,
        id: Uuid,
    ) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// A VM that boots with a clone of a generation's disk.
    fn reboot(
        host: &Arc<Self::Host>,
        class: &Class,
        generation: Arc<<Self::Host as Environment>::Generation>,
        id: Uuid,
    ) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// The VM of a running capsule, found again after a restart of the agent. A failure gives the slot back.
    fn attach(
        host: &Arc<Self::Host>,
        record: &Record,
        id: Uuid,
        slot: <Self::Host as Environment>::Slot,
        base: Option<Uuid>,
    ) -> impl Future<Output = Result<Self, (Failure, <Self::Host as Environment>::Slot)>> + Send;

    /// Frees what is left of a VM that cannot be found again; says how it ended.
    fn discard(
        host: &Arc<Self::Host>,
        id: Uuid,
        slot: Option<<Self::Host as Environment>::Slot>,
    ) -> impl Future<Output = EndReason> + Send;

    /// Where a capsule in this VM is, which was there before.
    fn place(&self, before: &Place) -> Place;

    /// Puts the record's egress policy in force.
    fn apply_policy(&mut self, record: &Record) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Handles on its guest.
    fn guest(&self, life: u64) -> Self::Guest;

    /// How long the steps of its start took.
    fn laps(&self) -> &Laps;

    /// Its record has been written.
    fn recorded(&mut self);

    /// Lets it run and tells its guest who it is.
    fn wake(
        &mut self,
        host: &Arc<Self::Host>,
        record: &Record,
        purpose: Purpose,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Adds how the VMM ended, if it has.
    fn explain(&self, failure: Failure) -> Failure;

    /// Whether its VMM lives.
    fn alive(&self) -> bool;

    /// Waits for the end of its VMM and says why it came. May be given up at any time.
    fn exited(&self) -> impl Future<Output = EndReason> + Send;

    /// Stops it and writes a generation, of its disk alone if so wished. It stays stopped, whatever comes of it.
    fn save(
        &mut self,
        host: &Arc<Self::Host>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> impl Future<Output = Result<Uuid, Failure>> + Send;

    /// Writes a generation, of its disk alone if so wished, and goes on, also after a failure.
    fn snapshot(
        &mut self,
        host: &Arc<Self::Host>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> impl Future<Output = Result<(Uuid, Standstill), Failure>> + Send;

    /// After a save that failed: lets it run on.
    fn carry_on(&self, record: &Record) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Lets go of it: it goes on, and the next agent finds all it needs.
    fn leave(self);

    /// Ends it and frees all it had.
    fn end(self, host: &Arc<Self::Host>) -> impl Future<Output = ()> + Send;
}
