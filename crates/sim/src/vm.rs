//! A VM as an agent has it: the production agent's [`VirtualMachine`].

use crate::contents::Contents;
use crate::host::{Generation, Host, Pin, Slot};
use crate::world::{Defect, Process, Saved, Shared};
use ::agent::Standstill;
use ::agent::environment::{Environment, VirtualMachine};
use ::agent::failure::Failure;
use ::agent::laps::Laps;
use ::agent::record::{Class, Place, Record};
use ::agent::told::Purpose;
use model::{CapsuleId, EndReason};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A VM of the simulated host.
pub struct Vm {
    host: Arc<Host>,
    id: Uuid,
    slot: u16,
    base: Option<Uuid>,
    /// Keeps the base.
    pin: Option<Pin>,
    laps: Laps,
}

/// A handle on a running guest.
#[derive(Clone)]
pub struct Guest {
    pub(crate) vm: Uuid,
    world: Shared,
}

impl Guest {
    /// A process in it changes a page; `false`: it cannot now.
    pub(crate) fn write(&self, capsule: CapsuleId) -> bool {
        let mut world = self.world.lock();
        let told = world.vms.get(&self.vm).and_then(|process| process.told);
        if told.is_some_and(|told| told != capsule) {
            world.wrong(format!("a lease on {capsule} leads into {told:?}"));
        }
        world.guest_writes(self.vm)
    }
}

/// The directory of a generation that is being written, as long as this lives.
pub(crate) struct Draft<'a> {
    host: &'a Host,
    id: Uuid,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.host.with(|world| world.drafts.remove(&self.id));
    }
}

impl<'a> Draft<'a> {
    pub(crate) async fn begin(host: &'a Host) -> Result<Self, Failure> {
        host.act("beginning the generation").await?;
        let id = host.with(|world| {
            let id = world.id();
            world.drafts.insert(id);
            id
        });
        Ok(Self { host, id: id.unwrap_or_default() })
    }

    /// The generation is whole from here on.
    pub(crate) async fn commit(self, contents: Contents, disk_only: bool) -> Result<Uuid, Failure> {
        self.host.act("writing the generation").await?;
        self.host.with(|world| {
            let contents = if disk_only { contents.rebooted() } else { contents };
            let version = world.version;
            world.generations.insert(self.id, Saved { contents, disk_only, version, class: None });
        });
        Ok(self.id)
    }
}

impl Vm {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Disk, slot, process; what was made is undone when the next fails.
    async fn start(
        host: &Arc<Host>,
        contents: Contents,
        pin: Option<Pin>,
        base: Option<Uuid>,
        id: Uuid,
    ) -> Result<Self, Failure> {
        drop(host.admit()?);
        host.with(|world| {
            world.vms.insert(id, Process { runtime: true, stopped: true, contents, ..Process::default() })
        });
        let acquired = host.act("cloning the disk and taking a slot").await;
        if let Err(failure) = acquired {
            host.with(|world| world.vms.remove(&id));
            return Err(failure);
        }
        let slot = host.with(|world| {
            let slot = (0..u16::MAX).find(|slot| !world.slots.contains_key(slot)).unwrap_or_default();
            world.slots.insert(slot, id);
            slot
        });
        let vm = Self { host: host.clone(), id, slot: slot.unwrap_or_default(), base, pin, laps: Laps::begin() };
        if let Err(failure) = host.act("starting the VMM").await {
            vm.end(host).await;
            return Err(failure);
        }
        host.with(|world| {
            if let Some(process) = world.vms.get_mut(&id) {
                process.alive = true;
            }
        });
        Ok(vm)
    }

    /// A host action that needs a living VMM.
    async fn ask(&self, step: &'static str) -> Result<(), Failure> {
        self.host.act(step).await?;
        if self.alive() { Ok(()) } else { Err(Failure::at(step)("its VMM ended")) }
    }

    fn process<T>(&self, does: impl FnOnce(&mut Process) -> T) -> Option<T> {
        self.host.with(|world| world.vms.get_mut(&self.id).map(does)).flatten()
    }

    fn contents(&self) -> Contents {
        self.process(|process| process.contents.clone()).unwrap_or_default()
    }

    /// Something that was done to it makes it a VM that may be lost.
    fn doom(&self) {
        self.host.with(|world| world.ledger.doom(self.id));
    }

    fn told(&self) -> CapsuleId {
        let told = self.process(|process| process.told).flatten();
        told.unwrap_or_else(|| CapsuleId::from_uuid(self.id))
    }

    async fn stopped(&mut self) -> Result<Contents, Failure> {
        self.ask("stopping the VM").await?;
        let torn = self.host.with(|world| world.defect == Some(Defect::TornPause)).unwrap_or_default();
        if torn {
            let early = self.contents();
            self.ask("saving the device state").await?;
            self.process(|process| process.stopped = true);
            return Ok(early);
        }
        self.process(|process| process.stopped = true);
        self.ask("saving the device state").await?;
        Ok(self.contents())
    }

    async fn gone(host: &Arc<Host>, id: Uuid, slot: Option<u16>) {
        host.moment("ending the VMM").await;
        host.with(|world| {
            if let Some(process) = world.vms.get_mut(&id) {
                process.alive = false;
            }
        });
        host.moment("removing directories").await;
        host.with(|world| world.vms.remove(&id));
        host.moment("releasing the slot").await;
        host.with(|world| {
            if let Some(slot) = slot
                && world.defect != Some(Defect::KeptSlot)
            {
                world.slots.remove(&slot);
            }
        });
    }
}

impl VirtualMachine for Vm {
    type Host = Host;
    type Guest = Guest;

    async fn restore(host: &Arc<Host>, _: &Class, generation: Arc<Generation>, id: Uuid) -> Result<Self, Failure> {
        if !generation.has_memory() {
            return Err(Failure::at("restoring")("the generation has no memory"));
        }
        let pin = host.pin(generation.id())?;
        let contents = host.with(|world| world.contents_of(generation.id())).unwrap_or_default();
        let vm = Self::start(host, contents, Some(pin), Some(generation.id()), id).await?;
        match vm.ask("loading the device state").await {
            Ok(()) => Ok(vm),
            Err(failure) => {
                vm.end(host).await;
                Err(failure)
            }
        }
    }

    async fn reboot(host: &Arc<Host>, _: &Class, generation: Arc<Generation>, id: Uuid) -> Result<Self, Failure> {
        let contents = host.with(|world| world.contents_of(generation.id()).rebooted()).unwrap_or_default();
        Self::start(host, contents, None, None, id).await
    }

    async fn attach(
        host: &Arc<Host>,
        record: &Record,
        id: Uuid,
        slot: Slot,
        base: Option<Uuid>,
    ) -> Result<Self, (Failure, Slot)> {
        let found = async {
            host.act("finding the keeper").await?;
            let pin = match base {
                Some(base) => {
                    host.open_generation(base).await?;
                    Some(host.pin(base)?)
                }
                None => None,
            };
            Ok::<_, Failure>(Self { host: host.clone(), id, slot: slot.0, base, pin, laps: Laps::begin() })
        };
        let carried_on = match found.await {
            Ok(vm) => vm.carry_on(record).await.map(|()| vm),
            Err(failure) => Err(failure),
        };
        carried_on.map_err(|failure| {
            host.with(|world| world.given_up(id, &failure));
            (failure, slot)
        })
    }

    async fn discard(host: &Arc<Host>, id: Uuid, slot: Option<Slot>) -> EndReason {
        Self::gone(host, id, slot.map(|slot| slot.0)).await;
        EndReason::VmCrash
    }

    fn place(&self, before: &Place) -> Place {
        let saved = match before {
            Place::Paused { generation } => Some(*generation),
            _ => None,
        };
        let (base, booted) = (self.base.or(saved), self.base.is_none());
        Place::Running { vm: self.id, slot: self.slot, base, resumed: saved.is_some(), booted }
    }

    async fn apply_policy(&mut self, _: &Record) -> Result<(), Failure> {
        self.ask("setting the policy").await
    }

    fn guest(&self, _: u64) -> Guest {
        Guest { vm: self.id, world: self.host.world.clone() }
    }

    fn laps(&self) -> &Laps {
        &self.laps
    }

    fn recorded(&mut self) {}

    async fn wake(&mut self, host: &Arc<Host>, record: &Record, purpose: Purpose) -> Result<(), Failure> {
        let _busy = host.busy(record.id, "a start");
        self.ask("setting the policy").await?;
        self.ask("letting the VM run").await?;
        host.with(|world| world.wakes(self.id, record, purpose, self.base.is_none()));
        self.ask("configuring the guest").await
    }

    fn explain(&self, failure: Failure) -> Failure {
        failure
    }

    fn alive(&self) -> bool {
        self.process(|process| process.alive).unwrap_or_default()
    }

    async fn exited(&self) -> EndReason {
        loop {
            let death = self.host.deaths.notified();
            if !self.alive() {
                return EndReason::VmCrash;
            }
            death.await;
        }
    }

    async fn save(
        &mut self,
        host: &Arc<Host>,
        _: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<Uuid, Failure> {
        let _busy = host.busy(self.told(), "a pause");
        let draft = Draft::begin(host).await?;
        host.moment("asking the guest to stand still").await;
        let contents = self.stopped().await?;
        draft.commit(contents, discard_memory).await
    }

    async fn snapshot(
        &mut self,
        host: &Arc<Host>,
        _: BTreeMap<String, String>,
        discard_memory: bool,
    ) -> Result<(Uuid, Standstill), Failure> {
        let _busy = host.busy(self.told(), "a snapshot");
        let draft = Draft::begin(host).await?;
        self.ask("holding the guest").await?;
        let contents = self.stopped().await;
        if let Err(failure) = self.ask("letting the VM run").await {
            host.with(|world| world.kill(self.id));
            host.deaths.notify_waiters();
            return Err(failure);
        }
        if let Ok(contents) = &contents
            && *contents != self.contents()
        {
            host.with(|world| world.wrong("a snapshot is not of one moment".to_owned()));
        }
        self.process(|process| process.stopped = false);
        let generation = draft.commit(contents?, discard_memory).await?;
        Ok((generation, Standstill::default()))
    }

    async fn carry_on(&self, _: &Record) -> Result<(), Failure> {
        if let Err(failure) = self.ask("letting the VM run on").await {
            self.doom();
            return Err(failure);
        }
        self.process(|process| process.stopped = false);
        Ok(())
    }

    fn leave(self) {
        if let Some(pin) = self.pin {
            pin.outlive();
        }
    }

    async fn end(self, host: &Arc<Host>) {
        Self::gone(host, self.id, Some(self.slot)).await;
    }
}
