//! One VM: its network slot, its disk, its keeper and VMM, and its guest.

mod daemon;
pub mod ending;
mod launching;
mod saving;

pub use saving::Standstill;

use self::ending::Remains;
use self::launching::{Running, launch, reach, spec};
use crate::failure::Failure;
use crate::host::Host;
use crate::laps::Laps;
use crate::metrics::Gauges;
use crate::record::{Class, Place, Record};
use crate::shared::Guest;
use crate::space::Room;
use crate::told::{Purpose, init, metadata, moment, run_to_end};
use crate::vm_dirs::Dirs;
use crate::{limits, memory_room, points};
use futures_util::FutureExt;
use guestlink::{Envd, Init, InitError};
use keeper::Keeper;
use memory::{Base, Draft, Generation, Pin};
use network::Slot;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmm::{Machine, MachineSpec, Start, Vmm};

/// A generation of a VM that went on.
struct Saved {
    generation: Arc<Generation>,
    _pin: Pin,
}

/// A VM of this host.
pub struct Vm {
    id: Uuid,
    class: Class,
    slot: Slot,
    keeper: Keeper,
    vmm: Arc<dyn Vmm>,
    machine: Box<dyn Machine>,
    gauges: Arc<Gauges>,
    base: Base,
    /// Keeps the base on the shelf: the next generation begins as its clone.
    pin: Option<Pin>,
    /// What was last saved of it, where its VMM only tells what changed since.
    saved: Option<Saved>,
    /// None when it was found again: what it has written is no longer free anyway.
    _space: Option<disk::Reservation>,
    envd: Envd,
    /// Key of the guest daemon in its memory, where that is known.
    daemon: Option<String>,
    booted: bool,
    laps: Laps,
    gone: CancellationToken,
    /// Room on the disk.
    room: watch::Receiver<Room>,
    /// Whether it was stopped for want of room.
    stands_still: AtomicBool,
    /// The draft of its next generation, begun while nobody waits for it.
    ahead: Option<JoinHandle<Option<Draft>>>,
}

impl Vm {
    /// A stopped VM with a generation's memory, state and disk.
    pub async fn restore(
        host: &Arc<Host>,
        class: &Class,
        generation: Arc<Generation>,
        id: Uuid,
    ) -> Result<Self, Failure> {
        if !generation.has_memory() {
            return Err(Failure::at("restoring")("the generation has no memory"));
        }
        let disk = generation.disk_path().ok_or_else(|| Failure::at("restoring")("the generation has no disk"))?;
        let state = generation.state_path();
        let pin = host.shelf.pin(generation.id()).ok_or_else(|| Failure::at("restoring")("the generation is gone"))?;
        let _turn = host.turn().await?;
        let mut vm = Self::start(host, class, &disk, Base::Generation(generation), Some(pin), id).await?;
        let spec = vm.spec(host);
        let failure = match timeout(limits::VM_LOAD, vm.machine.load(&spec, &state)).await {
            Ok(Ok(())) => {
                vm.booted = false;
                vm.laps.lap("load");
                return Ok(vm);
            }
            Ok(Err(error)) => Failure::at("loading the device state")(error),
            Err(late) => Failure::at("loading the device state")(late),
        };
        let failure = vm.explain(failure);
        vm.end(host).await;
        Err(failure)
    }

    /// A VM that boots with a clone of this disk.
    pub async fn boot(host: &Arc<Host>, class: &Class, disk: &Path, id: Uuid) -> Result<Self, Failure> {
        let _turn = host.turn().await?;
        let dirs = Dirs::of(host, id);
        dirs.create().map_err(Failure::at("making directories"))?;
        let bytes = u64::from(class.memory_mb) << 20;
        let base =
            Base::create_zero(&dirs.files.join("memory"), bytes).map_err(Failure::at("making the memory file"))?;
        let vm = Self::start(host, class, disk, base, None, id).await?;
        let booted = vm.machine.boot(&vm.spec(host), &host.boot_source()).await;
        match booted {
            Ok(()) => Ok(vm),
            Err(error) => {
                let failure = vm.explain(Failure::at("booting")(error));
                vm.end(host).await;
                Err(failure)
            }
        }
    }

    /// Starts keeper and VMM; the machine waits. Network and disk are made side by side.
    async fn start(
        host: &Arc<Host>,
        class: &Class,
        disk: &Path,
        base: Base,
        pin: Option<Pin>,
        id: Uuid,
    ) -> Result<Self, Failure> {
        let mut laps = Laps::begin();
        let dirs = Dirs::of(host, id);
        if let Err(failure) = memory_room::admit(class) {
            let ended = Box::pin(host.ready.clear(host)).await;
            tracing::warn!(%failure, ended, "VMs that waited make way");
            memory_room::admit(class).inspect_err(|_| dirs.remove())?;
        }
        let space = host.pool.admit(limits::ADMIT_DISK).inspect_err(|_| dirs.remove()).map_err(Host::no_space)?;
        let root_disk = dirs.disk();
        let (slot, cloned) = tokio::join!(host.network.acquire(), host.clone_disk(disk, id));
        let slot = slot.inspect_err(|_| dirs.remove()).map_err(Failure::at("taking a network slot"))?;
        let how = if matches!(base, Base::Zero { .. }) { Start::Boot(host.boot_source()) } else { Start::Load };
        laps.lap("slot and disk");
        points::pass(host, "start.acquired").await;
        let launched = match cloned {
            Ok(()) => launch(host, class, &slot, &base, id, &how, &mut laps).await,
            Err(failure) => Err(failure),
        };
        let Running { keeper, vmm, machine } = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                match Box::pin(keeper::end(&dirs.runtime)).await {
                    Ok(()) => {
                        host.network.release(slot);
                        dirs.remove();
                    }
                    Err(error) => ending::may_still_run(id, &error),
                }
                return Err(failure);
            }
        };
        Ok(Self {
            id,
            class: class.clone(),
            envd: envd(&slot, String::new()),
            daemon: daemon::of(host, &base),
            gauges: Arc::new(Gauges::new(&keeper, &slot, root_disk)),
            slot,
            keeper,
            vmm,
            machine,
            base,
            pin,
            _space: Some(space),
            booted: true,
            laps,
            gone: CancellationToken::new(),
            room: host.room.subscribe(),
            stands_still: AtomicBool::new(false),
            saved: None,
            ahead: None,
        })
    }

    /// The VM of a running capsule, found again after a restart of the agent.
    ///
    /// A failure gives the slot back.
    pub async fn attach(
        host: &Arc<Host>,
        record: &Record,
        id: Uuid,
        slot: Slot,
        base: Option<Uuid>,
    ) -> Result<Self, (Failure, Slot)> {
        let (Running { keeper, vmm, machine }, base, pin) = match reach(host, record, id, base).await {
            Ok(reached) => reached,
            Err(failure) => return Err((failure, slot)),
        };
        let vm = Self {
            id,
            class: record.class.clone(),
            envd: envd(&slot, record.identity.access_token.clone()),
            daemon: None,
            gauges: Arc::new(Gauges::new(&keeper, &slot, Dirs::of(host, id).disk())),
            slot,
            keeper,
            vmm,
            machine,
            base,
            pin,
            _space: host.pool.admit(limits::ADMIT_DISK).ok(),
            booted: false,
            laps: Laps::begin(),
            gone: CancellationToken::new(),
            room: host.room.subscribe(),
            stands_still: AtomicBool::new(false),
            saved: None,
            ahead: None,
        };
        // A pause that the restart cut short left it stopped.
        if let Err(failure) = vm.carry_on(record).await {
            return Err((failure, vm.slot));
        }
        Ok(vm)
    }

    /// Frees what is left of a VM that cannot be found again.
    pub async fn discard(host: &Arc<Host>, id: Uuid, slot: Option<Slot>) {
        let dirs = Dirs::of(host, id);
        if let Err(error) = keeper::end(&dirs.runtime).await {
            return ending::may_still_run(id, &error);
        }
        let _ = tokio::task::spawn_blocking(move || dirs.remove()).await;
        if let Some(slot) = slot {
            host.network.release(slot);
        }
    }

    fn spec(&self, host: &Host) -> MachineSpec {
        spec(host, &self.class, &self.slot, &self.base, self.id)
    }

    /// Where a capsule in this VM is, which was resumed into it or began in it.
    pub fn place(&self, before: &Place) -> Place {
        let saved = match before {
            Place::Paused { generation } => Some(*generation),
            _ => None,
        };
        let (base, booted) = match &self.base {
            Base::Generation(generation) => (Some(generation.id()), false),
            Base::Zero { .. } => (saved, true),
        };
        Place::Running { vm: self.id, slot: self.slot.index(), base, resumed: saved.is_some(), booted }
    }

    /// Handles on its guest.
    pub fn guest(&self, life: u64) -> Guest {
        Guest {
            envd: self.envd.clone(),
            dialler: self.slot.dialler(),
            life,
            gauges: self.gauges.clone(),
            gone: self.gone.clone(),
        }
    }

    /// Lets it run and tells its guest who it is. Nothing of the user's runs in the guest before that.
    pub async fn wake(&mut self, host: &Arc<Host>, record: &Record, purpose: Purpose) -> Result<(), Failure> {
        self.laps.skip();
        self.envd = envd(&self.slot, record.identity.access_token.clone());
        self.apply_policy(record).await?;
        let disk_bytes = self.grow_disk(host, record).await?;
        // A clone's guest knows another token; by this it sees that its host stands for the new one.
        self.slot.set_metadata(Some(metadata(record)));
        self.laps.lap("policy");
        if self.booted {
            self.wait_healthy(limits::GUEST_BOOT).await?;
        } else {
            self.machine.resume().await.map_err(Failure::at("letting the VM run"))?;
        }
        points::pass(host, "start.running").await;
        self.init(|| Init { disk_bytes, ..init(record, purpose, self.booted) }).await?;
        self.laps.lap("guest");
        if purpose == Purpose::Resume {
            self.renew_daemon(host).await;
        }
        self.draft_ahead(host);
        Ok(())
    }

    /// Gives it the disk that the record promises; answers its length if that is not what every guest begins with: a guest whose
    /// daemon did not know what to do with that the last time may now. A disk never becomes shorter.
    async fn grow_disk(&self, host: &Host, record: &Record) -> Result<Option<u64>, Failure> {
        const STEP: &str = "growing the disk";
        let wanted = u64::from(record.disk_size_mb) << 20;
        let has = std::fs::metadata(Dirs::of(host, self.id).disk()).map_err(Failure::at(STEP))?.len();
        if has < wanted {
            self.machine.grow_disk(&self.spec(host), wanted).await.map_err(Failure::at(STEP))?;
        }
        let usual = image::DEFAULT_ROOT_DISK_MB << 20;
        Ok(Some(has.max(wanted)).filter(|bytes| *bytes > usual))
    }

    /// What the record says it may reach is in force on return, for flows that exist as well.
    pub async fn apply_policy(&mut self, record: &Record) -> Result<(), Failure> {
        let policy = record.egress.policy();
        if *self.slot.policy() == policy {
            return Ok(());
        }
        self.slot.set_policy(policy).await.map_err(Failure::at("setting the egress policy"))
    }

    /// One `/init`, made anew for each try until the guest takes it: it carries the time.
    async fn init(&self, make: impl Fn() -> Init) -> Result<(), Failure> {
        let deadline = Instant::now() + limits::GUEST_READY + limits::GUEST_INIT;
        loop {
            let init = make();
            match self.while_alive(self.envd.init(&init, limits::GUEST_INIT)).await? {
                Ok(()) => return Ok(()),
                Err(InitError::Unreachable(_)) if Instant::now() < deadline && self.alive() => {
                    tokio::time::sleep(limits::GUEST_RETRY).await;
                }
                Err(error) => return Err(Failure::at("configuring the guest")(error)),
            }
        }
    }

    /// Lets a restored VM run a command and stops it again: an emulator has then translated what every capsule's first
    /// command needs.
    pub async fn rehearse(&mut self) -> Result<(), Failure> {
        self.machine.resume().await.map_err(Failure::at("letting the VM run"))?;
        self.init(moment).await?;
        for _ in 0..limits::REHEARSALS {
            run_to_end(&self.envd, "true").await.map_err(Failure::at("running a first command"))?;
        }
        self.quiesce().await;
        self.machine.pause().await.map_err(Failure::at("stopping the VM"))
    }

    async fn wait_healthy(&self, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.while_alive(self.envd.health(limits::GUEST_ATTEMPT)).await? {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline || !self.alive() => {
                    return Err(Failure::at("waiting for the guest")(error));
                }
                Err(_) => tokio::time::sleep(limits::GUEST_RETRY).await,
            }
        }
    }

    /// What a guest answers, unless its VMM ends first: of a guest that is gone nothing comes, not even a refusal.
    async fn while_alive<T>(&self, question: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            answer = question => Ok(answer),
            _ = self.keeper.wait_exit() => Err(Failure::at("waiting for the guest")("its VMM ended")),
        }
    }

    /// Waits for the first boot of a class and runs what every capsule runs first, so that its pages are in the
    /// generation's memory.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.wait_healthy(limits::GUEST_BOOT).await?;
        for command in ["true", "bash -l -c true", "python3 -c 'import json, sys'"] {
            if let Err(error) = run_to_end(&self.envd, command).await {
                tracing::debug!(command, %error, "not warmed up");
            }
        }
        Ok(())
    }

    /// Its record has been written.
    pub fn recorded(&mut self) {
        self.laps.lap("record");
    }

    /// How long the steps of its start took.
    pub fn laps(&self) -> &Laps {
        &self.laps
    }

    /// Whether its VMM lives.
    pub fn alive(&self) -> bool {
        self.keeper.wait_exit().now_or_never().is_none()
    }

    /// Lets go of it: it goes on, and the next agent finds all it needs.
    pub fn leave(self) {
        if let Some(pin) = self.pin {
            pin.outlive();
        }
    }

    /// Ends it and frees all it had. Its streams end first.
    pub async fn end(self, host: &Arc<Host>) {
        self.gone.cancel();
        drop(self.envd);
        if let Some(ahead) = self.ahead {
            ahead.abort();
            let _ = tokio::task::spawn_blocking(move || drop(ahead)).await;
        }
        let _ = tokio::time::timeout(limits::GUEST_ATTEMPT, self.machine.quit()).await;
        Remains { id: self.id, keeper: self.keeper, slot: self.slot }.clear(host).await;
    }
}

fn envd(slot: &Slot, token: String) -> Envd {
    let dialler = slot.dialler();
    let dial = move || {
        let dialler = dialler.clone();
        async move { dialler.dial(guestlink::PORT).await }
    };
    Envd::new(dial::Dialler::new(dial), token)
}
