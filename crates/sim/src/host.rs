//! The host as one agent has it: the production agent's [`Environment`].

use crate::clock;
use crate::contents::TEMPLATES;
use crate::vm::{Draft, Vm};
use crate::world::{Defect, Saved, Shared, World};
use ::agent::drain::Switch;
use ::agent::environment::{Environment, VirtualMachine};
use ::agent::failure::Failure;
use ::agent::record::{Class, Record};
use ::agent::snapshots::{Snapshot, Snapshots};
use hostlink::SandboxEvent;
use model::CapsuleId;
use rand::RngExt;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// VMs of one class that wait.
const READY: usize = 1;

/// A host, for as long as one agent lives.
pub struct Host {
    pub(crate) world: Shared,
    agent: u32,
    snapshots: Snapshots,
    tasks: TaskTracker,
    classes: Mutex<BTreeMap<u128, Uuid>>,
    ready: Mutex<Vec<(u128, Vm)>>,
    /// A VMM ended.
    pub(crate) deaths: Notify,
    /// This agent has crashed.
    pub(crate) crashed: Notify,
    /// The host is to be empty.
    draining: Switch,
}

/// An opened generation.
pub struct Generation {
    pub(crate) id: Uuid,
    version: u32,
    disk_only: bool,
}

/// A network slot that was taken.
pub struct Slot(pub(crate) u16);

/// Keeps a generation while a VM needs it.
pub struct Pin {
    host: Arc<Host>,
    id: Uuid,
}

impl Pin {
    /// The use goes on when the agent has ended.
    pub(crate) fn outlive(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.host.with(|world| world.unpin(self.id));
    }
}

/// Something that is under way as long as this lives.
pub struct UnderWay<'a> {
    host: &'a Host,
    capsule: Option<CapsuleId>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.host.with(|world| match self.capsule {
            Some(capsule) => drop(world.busy.remove(&capsule)),
            None => world.under_way -= 1,
        });
    }
}

impl Host {
    /// For the agent that begins.
    pub(crate) fn new(world: Shared, agent: u32, snapshots: Snapshots, draining: bool) -> Arc<Self> {
        Arc::new(Self {
            world,
            agent,
            snapshots,
            tasks: TaskTracker::new(),
            classes: Mutex::default(),
            ready: Mutex::default(),
            deaths: Notify::new(),
            crashed: Notify::new(),
            draining: Switch::new(draining),
        })
    }

    /// From now on it is to be empty, or not.
    pub(crate) fn drain(&self, on: bool) {
        if self.with(|world| world.draining = on).is_some() {
            self.draining.set(on);
        }
    }

    /// Does something to the world, as long as this agent lives.
    pub(crate) fn with<T>(&self, does: impl FnOnce(&mut World) -> T) -> Option<T> {
        let mut world = self.world.lock();
        (world.agent == Some(self.agent)).then(|| does(&mut world))
    }

    /// The moment before a host action: a planned crash comes here. How long the action takes, and whether it fails.
    fn before(&self, step: &'static str, may_fail: bool) -> Option<(Duration, bool)> {
        let before = self.with(|world| {
            world.write_late();
            world.tally.count("host actions");
            if let Some(left) = world.crash_in.as_mut() {
                *left = left.saturating_sub(1);
            }
            if world.crash_in == Some(0) {
                world.say(format!("{step}: the agent crashes before it"));
                world.agent = None;
                return None;
            }
            let ms = if world.happens(20) { 5_000 } else { 3 };
            let takes = Duration::from_millis(world.chance.random_range(0..ms));
            let fails = may_fail && world.fails(step);
            if !fails {
                world.say(step.to_owned());
            }
            Some((takes, fails))
        });
        if before == Some(None) {
            self.crashed.notify_one();
        }
        before.flatten()
    }

    /// A host action of some length. `Ok`: its effect follows at once, in the same moment.
    pub(crate) async fn act(&self, step: &'static str) -> Result<(), Failure> {
        let fails = self.lasts(step, true).await;
        if fails { Err(Failure::at(step)("refused by the simulator")) } else { Ok(()) }
    }

    /// One that cannot fail, or whose failure nobody would see.
    pub(crate) async fn moment(&self, step: &'static str) {
        self.lasts(step, false).await;
    }

    async fn lasts(&self, step: &'static str, may_fail: bool) -> bool {
        let Some((takes, fails)) = self.before(step, may_fail) else { return std::future::pending().await };
        self.with(|world| world.under_way += 1);
        let under_way = UnderWay { host: self, capsule: None };
        tokio::time::sleep(takes).await;
        drop(under_way);
        if self.with(|_| ()).is_none() {
            return std::future::pending().await;
        }
        fails
    }

    /// A host action without length; `None` once the agent has crashed.
    fn act_now(&self, step: &'static str) -> Option<io::Result<()>> {
        let (_, fails) = self.before(step, true)?;
        Some(if fails { Err(io::Error::other("refused by the simulator")) } else { Ok(()) })
    }

    /// Something is done to the capsule as long as the answer lives; nothing else may be meanwhile.
    pub(crate) fn busy(&self, capsule: CapsuleId, with: &'static str) -> UnderWay<'_> {
        self.with(|world| {
            // Of a damaged one there is nothing but the record.
            if let Some(other) = world.busy.insert(capsule, with)
                && !world.damaged.contains(&capsule)
            {
                world.wrong(format!("{with} of {capsule} while {other} is under way"));
            }
        });
        UnderWay { host: self, capsule: Some(capsule) }
    }

    /// Keeps a generation, if it is there to stay.
    pub(crate) fn pin(self: &Arc<Self>, id: Uuid) -> Result<Pin, Failure> {
        let pinned = self.with(|world| world.pin(id)).unwrap_or_default();
        let pinned = pinned.then(|| Pin { host: self.clone(), id });
        pinned.ok_or_else(|| Failure::at("restoring")("the generation is gone"))
    }

    /// The generation of a class, booted now if there is none.
    async fn class_generation(&self, template: u128) -> Result<Arc<Generation>, Failure> {
        let known = || lock(&self.classes).get(&template).copied();
        if known().is_none() {
            self.act("booting a class").await?;
        }
        // Somebody else may have booted it meanwhile, or given its template up.
        let made = known().or_else(|| {
            self.with(|world| {
                let contents = world.class_contents(template)?;
                let (id, version) = (world.id(), world.version);
                world.generations.insert(id, Saved { contents, disk_only: false, version, class: Some(template) });
                lock(&self.classes).insert(template, id);
                Some(id)
            })?
        });
        let id = made.ok_or(Failure::Template(Uuid::from_u128(template)))?;
        self.open_generation(id).await
    }

    /// Nothing waits any more: the agent ends in order.
    pub(crate) async fn clear(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.ready));
        for (_, vm) in waiting {
            vm.end(self).await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// After a crash: what this agent had in memory is no more.
    pub(crate) fn forget(&self) {
        let waiting = std::mem::take(&mut *lock(&self.ready));
        drop(waiting);
    }

    /// VMs that wait.
    pub(crate) fn ready(&self) -> Vec<Uuid> {
        lock(&self.ready).iter().map(|(_, vm)| vm.id()).collect()
    }

    /// Whether nothing is going on in the background.
    pub(crate) fn idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Environment for Host {
    type Vm = Vm;
    type Generation = Generation;
    type Slot = Slot;
    type Draft = Record;

    fn now_ms() -> u64 {
        clock::now_ms()
    }

    async fn pass(&self, name: &'static str) {
        self.moment(name).await;
    }

    fn draining(&self) -> &Switch {
        &self.draining
    }

    fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    async fn draft_record(&self, record: Record) -> Result<Record, Failure> {
        if let Err(failure) = self.act("saving the record").await {
            self.with(|world| world.ledger.stale.insert(record.id));
            return Err(failure);
        }
        Ok(record)
    }

    async fn commit_record(&self, record: Record) -> Result<(), Failure> {
        let id = record.id;
        let _busy = self.busy(id, "a record's write");
        if let Err(failure) = self.act("saving the record").await {
            self.with(|world| world.ledger.stale.insert(id));
            return Err(failure);
        }
        self.with(|world| world.write_record(record));
        Ok(())
    }

    async fn remove_record(&self, id: CapsuleId) -> Result<(), Failure> {
        let _busy = self.busy(id, "a record's removal");
        if let Err(failure) = self.act("removing the record").await {
            self.with(|world| world.ledger.stale.insert(id));
            return Err(failure);
        }
        self.with(|world| world.remove_record(id));
        Ok(())
    }

    async fn report(&self, event: SandboxEvent) -> Result<(), Failure> {
        let Some(done) = self.act_now("adding an event") else { return Ok(()) };
        self.with(|world| {
            let lost = world.defect == Some(Defect::LostEvent) && world.happens(300);
            if done.is_err() {
                world.event_not_written(&event);
            } else if !lost {
                world.report(&event);
            }
        });
        done.map_err(Failure::at("adding an event"))
    }

    fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), Failure> {
        self.act("saving the snapshot").await?;
        self.with(|world| world.save_snapshot(snapshot));
        Ok(())
    }

    async fn remove_snapshot(&self, id: Uuid) -> Result<(), Failure> {
        self.act("removing the snapshot").await?;
        self.with(|world| world.snapshots.remove(&id));
        Ok(())
    }

    async fn open_generation(&self, id: Uuid) -> Result<Arc<Generation>, Failure> {
        self.act("opening the generation").await?;
        let found =
            self.with(|world| world.generations.get(&id).map(|saved| (saved.version, saved.disk_only))).flatten();
        let (version, disk_only) = found.ok_or_else(|| Failure::at("opening the generation")("it is not there"))?;
        Ok(Arc::new(Generation { id, version, disk_only }))
    }

    fn has_memory(generation: &Generation) -> bool {
        generation.has_memory()
    }

    async fn size_bytes(&self, _: Uuid) -> Result<u64, Failure> {
        Ok(0)
    }

    async fn duplicate(
        &self,
        source: Arc<Generation>,
        _: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<Uuid, Failure> {
        let draft = Draft::begin(self).await?;
        let contents = self.with(|world| world.contents_of(source.id())).unwrap_or_default();
        draft.commit(contents, discard_memory || source.disk_only).await
    }

    async fn forget_template(self: &Arc<Self>, id: Uuid) {
        let waiting = {
            let mut ready = lock(&self.ready);
            ready.iter().position(|(of, _)| *of == id.as_u128()).map(|at| ready.swap_remove(at).1)
        };
        if let Some(vm) = waiting {
            vm.end(self).await;
        }
        let class = lock(&self.classes).remove(&id.as_u128());
        self.with(|world| class.map(|generation| world.remove_generation(generation)));
    }

    fn compatible(&self, generation: &Generation) -> Result<(), Failure> {
        let here = self.with(|world| world.version).unwrap_or(generation.version);
        if generation.version == here {
            return Ok(());
        }
        Err(Failure::Incompatible { saved: generation.version.to_string(), here: here.to_string() })
    }

    fn remove_generation(&self, id: Uuid) -> io::Result<()> {
        let Some(done) = self.act_now("removing a generation") else { return Ok(()) };
        self.with(|world| match done {
            Ok(()) => world.remove_generation(id),
            Err(_) => drop(world.ledger.loose.insert(id)),
        });
        done
    }

    fn collect_generations(&self, wanted: &[Uuid]) -> io::Result<Vec<Uuid>> {
        let Some(done) = self.act_now("collecting generations") else { return Ok(Vec::new()) };
        let unwanted = self.with(|world| {
            let unwanted = world.generations.keys().copied().filter(|id| !wanted.contains(id)).collect::<Vec<_>>();
            if done.is_ok() {
                for id in &unwanted {
                    world.remove_generation(*id);
                }
                world.ledger.loose.clear();
            } else {
                world.ledger.loose.extend(&unwanted);
            }
            unwanted
        });
        done.map(|()| unwanted.unwrap_or_default())
    }

    fn keep_generations(&self) {
        self.with(|world| {
            let all: Vec<Uuid> = world.generations.keys().copied().collect();
            for id in all {
                world.pin(id);
            }
        });
    }

    async fn adopt_classes(self: &Arc<Self>) -> Vec<Uuid> {
        let kept = self.with(|world| {
            let here = world.version;
            let loadable = world.generations.iter().filter(|(_, saved)| saved.version == here);
            let of_class = loadable.filter_map(|(id, saved)| Some((saved.class?, *id)));
            let is_there = |template| template <= TEMPLATES || world.snapshots.contains_key(&Uuid::from_u128(template));
            of_class.filter(|(template, _)| is_there(*template)).collect::<BTreeMap<_, _>>()
        });
        let kept = kept.unwrap_or_default();
        let ids = kept.values().copied().collect();
        *lock(&self.classes) = kept;
        ids
    }

    fn is_of_class(&self, generation: Uuid) -> bool {
        lock(&self.classes).values().any(|id| *id == generation)
    }

    async fn begin(self: &Arc<Self>, class: &Class) -> Result<Vm, Failure> {
        let template = class.template.as_u128();
        let waiting = {
            let mut ready = lock(&self.ready);
            ready.iter().position(|(of, vm)| *of == template && vm.alive()).map(|at| ready.swap_remove(at).1)
        };
        if let Some(vm) = waiting {
            return Ok(vm);
        }
        let generation = self.class_generation(template).await?;
        Vm::restore(self, class, generation, Uuid::now_v7()).await
    }

    fn refill(self: &Arc<Self>, class: &Class) {
        let (host, class) = (self.clone(), class.clone());
        self.tasks.spawn(async move {
            let template = class.template.as_u128();
            let dead = {
                let mut ready = lock(&host.ready);
                ready.iter().position(|(_, vm)| !vm.alive()).map(|at| ready.swap_remove(at).1)
            };
            if let Some(vm) = dead {
                vm.end(&host).await;
            }
            let Ok(generation) = host.class_generation(template).await else { return };
            let Ok(vm) = Vm::restore(&host, &class, generation, Uuid::now_v7()).await else { return };
            let unwanted = {
                let mut ready = lock(&host.ready);
                let enough = ready.iter().filter(|(of, _)| *of == template).count() >= READY;
                if enough {
                    Some(vm)
                } else {
                    ready.push((template, vm));
                    None
                }
            };
            if let Some(vm) = unwanted {
                vm.end(&host).await;
            }
        });
    }

    fn admit(&self) -> Result<impl Send, Failure> {
        let full = self.with(|world| world.fails("admitting space")).unwrap_or_default();
        if full { Err(Failure::Space { needed_mb: 1, free_mb: 0 }) } else { Ok(()) }
    }

    fn evict(&self, _: CapsuleId) {}
}

impl Generation {
    /// Which.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether a VM can be restored from it.
    pub fn has_memory(&self) -> bool {
        !self.disk_only
    }
}
