//! The real host and the real VM, as capsules need them.

use crate::drain::Switch;
use crate::environment::{Environment, VirtualMachine};
use crate::failure::Failure;
use crate::host::Host;
use crate::laps::Laps;
use crate::record::{Class, Place, Record, RecordDraft};
use crate::shared::{self, Guest};
use crate::snapshots::{Snapshot, Snapshots};
use crate::told::Purpose;
use crate::vm::{Standstill, Vm, ending};
use crate::vm_dirs::Dirs;
use crate::{limits, points};
use hostlink::SandboxEvent;
use memory::{DiskDraft, Generation, Seal};
use model::{CapsuleId, EndReason};
use network::Slot;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

impl Environment for Host {
    type Vm = Vm;
    type Generation = Generation;
    type Slot = Slot;
    type Draft = RecordDraft;

    fn now_ms() -> u64 {
        shared::now_ms()
    }

    async fn pass(&self, name: &'static str) {
        points::pass(self, name).await;
    }

    fn draining(&self) -> &Switch {
        &self.drain.switch
    }

    fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    async fn draft_record(&self, record: Record) -> Result<RecordDraft, Failure> {
        let records = self.records.clone();
        on_disk("saving the record", move || records.draft(&record)).await
    }

    async fn commit_record(&self, draft: RecordDraft) -> Result<(), Failure> {
        on_disk("saving the record", move || draft.commit()).await
    }

    async fn remove_record(&self, id: CapsuleId) -> Result<(), Failure> {
        let records = self.records.clone();
        on_disk("removing the record", move || records.remove(id)).await
    }

    async fn report(&self, event: SandboxEvent) -> Result<(), Failure> {
        let events = self.events.clone();
        on_disk("adding an event", move || events.add(&event)).await
    }

    fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), Failure> {
        let files = self.snapshot_files.clone();
        on_disk("saving the snapshot", move || files.save(&snapshot)).await
    }

    async fn remove_snapshot(&self, id: Uuid) -> Result<(), Failure> {
        let files = self.snapshot_files.clone();
        on_disk("removing the snapshot", move || files.remove(id)).await
    }

    async fn open_generation(&self, id: Uuid) -> Result<Arc<Generation>, Failure> {
        Host::open_generation(self, id).await
    }

    fn has_memory(generation: &Generation) -> bool {
        generation.has_memory()
    }

    async fn size_bytes(&self, id: Uuid) -> Result<u64, Failure> {
        Ok(Host::open_generation(self, id).await?.allocated_bytes())
    }

    async fn duplicate(
        &self,
        source: Arc<Generation>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<Uuid, Failure> {
        // What it was told of the daemon in its memory stays true.
        let inherited = source.manifest().labels.clone().into_iter().filter(|(key, _)| key != "capsule");
        let labels = inherited.chain(labels).collect();
        let seal = Seal { compatibility: source.manifest().compatibility.clone(), labels };
        let dir = self.shelf.dir().to_owned();
        let made = tokio::task::spawn_blocking(move || match source.disk_path().filter(|_| discard_memory) {
            Some(disk) => DiskDraft::begin(&dir, &disk).and_then(|draft| draft.commit(seal)),
            None => source.duplicate(&dir, seal),
        });
        let made = made.await.map_err(Failure::at("copying what was saved"))?;
        Ok(made.map_err(Failure::at("copying what was saved"))?.id())
    }

    async fn forget_template(self: &Arc<Self>, id: Uuid) {
        self.ready.forget(self, id).await;
        self.classes.forget(self, id);
    }

    fn compatible(&self, generation: &Generation) -> Result<(), Failure> {
        Host::compatible(self, generation)
    }

    fn remove_generation(&self, id: Uuid) -> io::Result<()> {
        self.shelf.remove(id)
    }

    fn collect_generations(&self, wanted: &[Uuid]) -> io::Result<Vec<Uuid>> {
        self.shelf.collect(wanted)
    }

    fn keep_generations(&self) {
        let all = self.shelf.list().unwrap_or_default();
        all.into_iter().filter_map(|id| self.shelf.pin(id)).for_each(memory::Pin::outlive);
    }

    async fn adopt_classes(self: &Arc<Self>) -> Vec<Uuid> {
        self.classes.adopt(self).await
    }

    fn is_of_class(&self, generation: Uuid) -> bool {
        self.classes.owns(generation)
    }

    async fn begin(self: &Arc<Self>, class: &Class) -> Result<Vm, Failure> {
        if let Some(vm) = self.ready.take(self, class) {
            return Ok(vm);
        }
        let generation = self.classes.generation(self, class).await?;
        Vm::restore(self, class, generation, Uuid::now_v7()).await
    }

    fn refill(self: &Arc<Self>, class: &Class) {
        self.ready.refill(self, class);
    }

    fn admit(&self) -> Result<impl Send, Failure> {
        self.pool.admit(limits::ADMIT_DISK).map_err(Host::no_space)
    }

    fn evict(&self, capsule: CapsuleId) {
        self.proxy.evict(capsule);
    }
}

async fn on_disk<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::at(step))?.map_err(Failure::at(step))
}

impl VirtualMachine for Vm {
    type Host = Host;
    type Guest = Guest;

    async fn restore(host: &Arc<Host>, class: &Class, generation: Arc<Generation>, id: Uuid) -> Result<Self, Failure> {
        Vm::restore(host, class, generation, id).await
    }

    async fn reboot(host: &Arc<Host>, class: &Class, generation: Arc<Generation>, id: Uuid) -> Result<Self, Failure> {
        let disk = generation.disk_path().ok_or_else(|| Failure::at("booting")("the generation has no disk"))?;
        Vm::boot(host, class, &disk, id).await
    }

    async fn attach(
        host: &Arc<Host>,
        record: &Record,
        id: Uuid,
        slot: Slot,
        base: Option<Uuid>,
    ) -> Result<Self, (Failure, Slot)> {
        Vm::attach(host, record, id, slot, base).await
    }

    async fn discard(host: &Arc<Host>, id: Uuid, slot: Option<Slot>) -> EndReason {
        // Before what is left of it is removed: its last words are in there.
        let reason = ending::ended_unseen(id, &Dirs::of(host, id).runtime);
        Vm::discard(host, id, slot).await;
        reason
    }

    fn place(&self, before: &Place) -> Place {
        Vm::place(self, before)
    }

    async fn apply_policy(&mut self, record: &Record) -> Result<(), Failure> {
        Vm::apply_policy(self, record).await
    }

    fn guest(&self, life: u64) -> Guest {
        Vm::guest(self, life)
    }

    fn laps(&self) -> &Laps {
        Vm::laps(self)
    }

    fn recorded(&mut self) {
        Vm::recorded(self);
    }

    async fn wake(&mut self, host: &Arc<Host>, record: &Record, purpose: Purpose) -> Result<(), Failure> {
        Vm::wake(self, host, record, purpose).await
    }

    fn explain(&self, failure: Failure) -> Failure {
        Vm::explain(self, failure)
    }

    fn alive(&self) -> bool {
        Vm::alive(self)
    }

    async fn exited(&self) -> EndReason {
        Vm::exited(self).await
    }

    async fn save(
        &mut self,
        host: &Arc<Host>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<Uuid, Failure> {
        let _turn = self.turn_to_save(host).await?;
        let saved =
            if discard_memory { Vm::save_disk(self, host, labels).await } else { Vm::save(self, host, labels).await };
        Ok(saved?.id())
    }

    async fn snapshot(
        &mut self,
        host: &Arc<Host>,
        labels: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<(Uuid, Standstill), Failure> {
        let (generation, standstill) = if discard_memory {
            Vm::snapshot_disk(self, host, labels).await?
        } else {
            Vm::snapshot(self, host, labels).await?
        };
        Ok((generation.id(), standstill))
    }

    async fn carry_on(&self, record: &Record) -> Result<(), Failure> {
        Vm::carry_on(self, record).await
    }

    fn leave(self) {
        Vm::leave(self);
    }

    async fn end(self, host: &Arc<Host>) {
        Vm::end(self, host).await;
    }
}
