//! One VM: its network slot, its disk, its keeper and VMM, and its guest.

use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::record::{Class, Place, Record};
use crate::shared::Guest;
use crate::told::{Purpose, init, moment, run_to_end};
use crate::vm_dirs::Dirs;
use futures_util::FutureExt;
use guestlink::{Envd, Init, InitError};
use keeper::{Cause, ExitRecord, Keeper, KeeperSpec};
use memory::{Base, Draft, Generation, Pin, Seal};
use model::EndReason;
use network::Slot;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmm::{Dirty, Mac, Machine, MachineSpec, Nic, Start};

/// A VM of this host.
pub struct Vm {
    id: Uuid,
    class: Class,
    slot: Slot,
    keeper: Keeper,
    machine: Box<dyn Machine>,
    base: Base,
    /// Keeps the base on the shelf: the next generation begins as its clone.
    _pin: Option<Pin>,
    /// None when it was found again: what it has written is no longer free anyway.
    _space: Option<disk::Reservation>,
    envd: Envd,
    booted: bool,
    gone: CancellationToken,
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
        let disk = generation.disk_path().ok_or_else(|| Failure::at("restoring")("the generation has no disk"))?;
        let state = generation.state_path();
        let pin = host.shelf.pin(generation.id()).ok_or_else(|| Failure::at("restoring")("the generation is gone"))?;
        let mut vm = Self::start(host, class, &disk, Base::Generation(generation), Some(pin), id).await?;
        let spec = vm.spec(host);
        let failure = match timeout(limits::VM_LOAD, vm.machine.load(&spec, &state)).await {
            Ok(Ok(())) => {
                vm.booted = false;
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
        let dirs = Dirs::of(host, id);
        let space = host.pool.admit(limits::ADMIT_DISK).inspect_err(|_| dirs.remove()).map_err(Host::no_space)?;
        let root_disk = dirs.disk();
        let (slot, cloned) = tokio::join!(host.network.acquire(), host.clone_disk(disk, &root_disk, &dirs.runtime));
        let slot = slot.inspect_err(|_| dirs.remove()).map_err(Failure::at("taking a network slot"))?;
        let how = if matches!(base, Base::Zero { .. }) { Start::Boot(host.boot_source()) } else { Start::Load };
        let launched = match cloned {
            Ok(()) => launch(host, class, &slot, &base, id, &how).await,
            Err(failure) => Err(failure),
        };
        let (keeper, machine) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                host.network.release(slot);
                dirs.remove();
                return Err(failure);
            }
        };
        Ok(Self {
            id,
            class: class.clone(),
            envd: envd(&slot, String::new()),
            slot,
            keeper,
            machine,
            base,
            _pin: pin,
            _space: Some(space),
            booted: true,
            gone: CancellationToken::new(),
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
        let (keeper, machine, base, pin) = match reach(host, record, id, base).await {
            Ok(reached) => reached,
            Err(failure) => return Err((failure, slot)),
        };
        let vm = Self {
            id,
            class: record.class.clone(),
            envd: envd(&slot, record.identity.access_token.clone()),
            slot,
            keeper,
            machine,
            base,
            _pin: pin,
            _space: host.pool.admit(limits::ADMIT_DISK).ok(),
            booted: false,
            gone: CancellationToken::new(),
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
        if let Ok(Some(keeper)) = keeper::attach(&dirs.runtime) {
            let _ = keeper.kill().await;
        }
        if let Some(slot) = slot {
            host.network.release(slot);
        }
        let _ = tokio::task::spawn_blocking(move || dirs.remove()).await;
    }

    fn spec(&self, host: &Host) -> MachineSpec {
        spec(host, &self.class, &self.base, self.id)
    }

    /// Where a capsule in this VM is.
    pub fn place(&self) -> Place {
        let base = match &self.base {
            Base::Generation(generation) => Some(generation.id()),
            Base::Zero { .. } => None,
        };
        Place::Running { vm: self.id, slot: self.slot.index(), base }
    }

    /// Handles on its guest.
    pub fn guest(&self, life: u64) -> Guest {
        Guest { envd: self.envd.clone(), dialler: self.slot.dialler(), life, gone: self.gone.clone() }
    }

    /// Lets it run and tells its guest who it is. Nothing of the user's runs in the guest before that.
    pub async fn wake(&mut self, host: &Arc<Host>, record: &Record, purpose: Purpose) -> Result<(), Failure> {
        self.envd = envd(&self.slot, record.identity.access_token.clone());
        self.apply_policy(record).await?;
        if self.booted {
            self.wait_healthy(limits::GUEST_BOOT).await?;
        } else {
            self.machine.resume().await.map_err(Failure::at("letting the VM run"))?;
        }
        self.configure(record, purpose).await?;
        self.draft_ahead(host);
        Ok(())
    }

    async fn apply_policy(&mut self, record: &Record) -> Result<(), Failure> {
        let policy = network::Policy { allow_internet: record.allow_internet, ..Default::default() };
        if *self.slot.policy() == policy {
            return Ok(());
        }
        self.slot.set_policy(policy).await.map_err(Failure::at("setting the egress policy"))
    }

    async fn configure(&self, record: &Record, purpose: Purpose) -> Result<(), Failure> {
        self.init(|| init(record, purpose)).await
    }

    /// One `/init`, made anew for each try until the guest takes it: it carries the time.
    async fn init(&self, make: impl Fn() -> Init) -> Result<(), Failure> {
        let deadline = Instant::now() + limits::GUEST_READY + limits::GUEST_INIT;
        loop {
            match self.envd.init(&make(), limits::GUEST_INIT).await {
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
            match self.envd.health(limits::GUEST_ATTEMPT).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline || !self.alive() => {
                    return Err(Failure::at("waiting for the guest")(error));
                }
                Err(_) => tokio::time::sleep(limits::GUEST_RETRY).await,
            }
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

    /// Quiesces the guest, stops the VM and writes a generation. The VM stays stopped, whatever comes of it.
    pub async fn save(&mut self, host: &Arc<Host>, labels: BTreeMap<String, String>) -> Result<Generation, Failure> {
        let began = Instant::now();
        let ahead = self.ahead.take();
        let (draft, ()) = tokio::join!(draft(host, self.base.clone(), ahead), self.quiesce());
        let draft = draft?;
        // A draft that had to copy all memory may have outlasted the standstill.
        if began.elapsed() > limits::STANDSTILL {
            self.quiesce().await;
        }
        self.machine.pause().await.map_err(Failure::at("stopping the VM"))?;
        let disk = Dirs::of(host, self.id).disk();
        let (state, memory, clone) = (draft.state_path(), draft.memory_path(), draft.disk_path());
        let (saved, cloned) = tokio::join!(
            timeout(limits::VM_SAVE, self.machine.save(&state, &memory)),
            blocking("cloning the disk", move || disk::clone_file(&disk, &clone))
        );
        cloned?;
        let saved = saved.map_err(Failure::at("saving the device state"))?;
        let dirty = saved.map_err(Failure::at("saving the device state"))?;
        let pid = self.keeper.vmm_pid();
        let seal = Seal { compatibility: host.compatibility(), labels };
        let (generation, report) = blocking("writing the generation", move || {
            let filled = match dirty {
                Dirty::InProcess => draft.copy_dirty(pid)?,
                Dirty::Written => draft.written_by_vmm(),
            };
            filled.commit(seal)
        })
        .await?;
        tracing::info!(vm = %self.id, generation = %generation.id(), ?report, "saved");
        Ok(generation)
    }

    /// Begins the next generation soon: a clone of much-written memory takes as long as a small pause.
    fn draft_ahead(&mut self, host: &Arc<Host>) {
        let (dir, base) = (host.shelf.dir().to_owned(), self.base.clone());
        self.ahead = Some(tokio::spawn(async move {
            tokio::time::sleep(limits::DRAFT_AHEAD).await;
            tokio::task::spawn_blocking(move || Draft::begin(&dir, &base).ok()).await.ok().flatten()
        }));
    }

    /// Asks the guest to stand still. Idle connections close with it, while the guest can still take part in that.
    async fn quiesce(&mut self) {
        let fresh = envd(&self.slot, self.envd.token().to_owned());
        let envd = std::mem::replace(&mut self.envd, fresh);
        if let Err(error) = envd.prepare().await {
            tracing::warn!(vm = %self.id, %error, "the guest did not prepare for its snapshot");
        }
    }

    /// After a save that failed: lets the VM run on and wakes what the guest quiesced.
    pub async fn carry_on(&self, record: &Record) -> Result<(), Failure> {
        self.machine.resume().await.map_err(Failure::at("letting the VM run"))?;
        // A guest that does not answer now is still a running VM; its own watchdog ends the standstill.
        if let Err(failure) = self.configure(record, Purpose::Resume).await {
            tracing::warn!(vm = %self.id, %failure, "the guest was not told that it goes on");
        }
        Ok(())
    }

    /// Whether its VMM lives.
    pub fn alive(&self) -> bool {
        self.keeper.wait_exit().now_or_never().is_none()
    }

    /// Waits for the end of its VMM and says why it came.
    pub async fn exited(&self) -> EndReason {
        match self.keeper.wait_exit().await {
            Ok(exit) if exit.cause == Cause::HostOom => EndReason::HostOom,
            _ => EndReason::VmCrash,
        }
    }

    /// Adds how the VMM ended, if it has, and what was last said on its console.
    pub fn explain(&self, failure: Failure) -> Failure {
        match (failure, self.keeper.wait_exit().now_or_never()) {
            (Failure::Host { step, why }, Some(Ok(exit))) => {
                Failure::Host { step, why: format!("{why}; {}", describe(&exit)) }
            }
            (failure, _) => failure,
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
        if let Err(error) = self.keeper.kill().await {
            tracing::error!(vm = %self.id, %error, "the VMM may still run");
        }
        host.network.release(self.slot);
        let dirs = Dirs::of(host, self.id);
        let _ = tokio::task::spawn_blocking(move || dirs.remove()).await;
    }
}

/// The draft that was begun ahead, or a new one.
async fn draft(host: &Host, base: Base, ahead: Option<JoinHandle<Option<Draft>>>) -> Result<Draft, Failure> {
    if let Some(ahead) = ahead {
        ahead.abort();
        if let Ok(Some(draft)) = ahead.await {
            return Ok(draft);
        }
    }
    let dir = host.shelf.dir().to_owned();
    blocking("beginning the generation", move || Draft::begin(&dir, &base)).await
}

/// What [`Vm::attach`] needs of the processes and files of a VM.
async fn reach(
    host: &Arc<Host>,
    record: &Record,
    id: Uuid,
    base: Option<Uuid>,
) -> Result<(Keeper, Box<dyn Machine>, Base, Option<Pin>), Failure> {
    let dirs = Dirs::of(host, id);
    let keeper = keeper::attach(&dirs.runtime).map_err(Failure::at("finding the keeper"))?;
    let keeper = keeper.ok_or_else(|| Failure::at("finding the keeper")("it ended"))?;
    let machine = host.vmm.connect(&dirs.runtime, limits::VMM_START).await.map_err(Failure::at("reaching the VMM"))?;
    let (base, pin) = if let Some(id) = base {
        (Base::Generation(host.open_generation(id).await?), host.shelf.pin(id))
    } else {
        let bytes = u64::from(record.class.memory_mb) << 20;
        (Base::Zero { memory: dirs.files.join("memory"), bytes }, None)
    };
    Ok((keeper, machine, base, pin))
}

async fn launch(
    host: &Arc<Host>,
    class: &Class,
    slot: &Slot,
    base: &Base,
    id: Uuid,
    how: &Start,
) -> Result<(Keeper, Box<dyn Machine>), Failure> {
    let spec = spec(host, class, base, id);
    let command = host.vmm.command(&spec, how).map_err(Failure::at("describing the VM"))?;
    let keeper_spec = KeeperSpec {
        dir: spec.runtime_dir.clone(),
        command,
        network_namespace: Some(slot.namespace_path()),
        cgroups: Vec::new(),
        user: None,
        oom_score_adj: limits::VMM_OOM_SCORE,
    };
    let keeper = keeper::launch(&host.program, &keeper_spec).await.map_err(Failure::at("starting the keeper"))?;
    let connected = tokio::select! {
        connected = host.vmm.connect(&spec.runtime_dir, limits::VMM_START) => connected.map_err(Failure::at("reaching the VMM")),
        exit = keeper.wait_exit() => Err(exit.map_or_else(Failure::at("starting the VMM"), |exit| {
            Failure::at("starting the VMM")(describe(&exit))
        })),
    };
    match connected {
        Ok(machine) => Ok((keeper, machine)),
        Err(failure) => {
            let _ = keeper.kill().await;
            Err(failure)
        }
    }
}

/// A VMM's end in one line. The guest wrote parts of it: bounded, and no control characters.
fn describe(exit: &ExitRecord) -> String {
    let last = |text: &str| {
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(limits::CONSOLE_LINE).collect::<String>()
    };
    let (console, errors) = (last(&exit.console_tail), last(&exit.errors_tail));
    format!("the VMM ended ({:?}, {:?}); console: {console:?}; messages: {errors:?}", exit.end, exit.cause)
}

fn spec(host: &Host, class: &Class, base: &Base, id: Uuid) -> MachineSpec {
    let dirs = Dirs::of(host, id);
    MachineSpec {
        vcpus: class.vcpus,
        memory_bytes: u64::from(class.memory_mb) << 20,
        memory: base.memory_path(),
        root_disk: dirs.disk(),
        modules_disk: Some(host.artifacts.modules_disk.clone()),
        network: Some(Nic { tap: network::TAP.to_owned(), mac: Mac(network::GUEST_MAC) }),
        runtime_dir: dirs.runtime,
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

/// Runs blocking work and names the step in its failure.
async fn blocking<T, E>(step: &'static str, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Failure::at(step))?.map_err(Failure::at(step))
}
