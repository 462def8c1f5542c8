//! The slots of one instance: adoption after a restart, preparation ahead, taking, returning.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::Cidr;
use crate::dns::{Resolvers, Upstream};
use crate::firewall::{self, Finding};
use crate::instance::InstanceId;
use crate::nft::NftError;
use crate::policy::{BadPolicy, Policy};
use crate::reclaim::{self, DestroyError};
use crate::setup::{Host, Plan, SetupError, system};
use crate::slot::{Prepared, Slot, SlotIndex};
use crate::stock::Stock;
use crate::traffic::{Meter, Traffic};
use crate::{connections, conntrack, forwarding, limits, namespace, range, rules};

/// What a network needs to know.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Whose names and addresses to use.
    pub instance: InstanceId,
    /// Where the address range is kept (`network.json`).
    pub wrenn_dir: PathBuf,
    /// Slots to keep prepared ahead.
    pub ready_slots: usize,
    /// Whom the guests' name servers ask.
    pub resolvers: Resolvers,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address range.
    #[error("cannot choose an address range: {0}")]
    Range(#[source] io::Error),
    /// Namespaces or links.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The host's firewall table.
    #[error("cannot set up the firewall of the host: {0}")]
    Nft(#[from] NftError),
    /// A kernel setting or thread.
    #[error("cannot prepare the host: {0}")]
    System(#[from] io::Error),
}

/// Why a slot was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It does not exist any longer: the host was restarted, or somebody removed it.
    #[error("slot {0} is gone")]
    Gone(SlotIndex),
    /// Somebody has it already.
    #[error("slot {0} is adopted already")]
    Twice(SlotIndex),
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] BadPolicy),
    /// Its firewall or name server cannot be set up again.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// All are in use.
    #[error("all {} slots are in use", limits::MAX_SLOTS)]
    Exhausted,
    /// None was ready and none could be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// A network that has just been opened: slots of the former process can be taken over, none can be acquired yet.
pub struct Adoption {
    network: Network,
    existing: BTreeSet<SlotIndex>,
}

/// What becomes of slots nobody adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// They are removed.
    Remove,
    /// They stay as they are, unused: somebody may belong to them.
    Keep,
}

/// The slots of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    options: NetworkOptions,
    range: Cidr,
    host: Host,
    upstream: Arc<Upstream>,
    stock: Mutex<Stock>,
    /// A ready slot was taken.
    taken: Notify,
    setups: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Adoption {
    /// Takes over a slot as its former owner left it, puts `policy` in force and starts its name server.
    pub async fn adopt(&self, index: SlotIndex, policy: Policy) -> Result<Slot, AdoptError> {
        policy.check()?;
        if !self.existing.contains(&index) {
            return Err(AdoptError::Gone(index));
        }
        if !self.network.inner.stock().claim_exactly(index) {
            return Err(AdoptError::Twice(index));
        }
        let adopted = self.network.inner.adopt(index, policy).await;
        if adopted.is_err() {
            // Nobody's from now on; `finish` removes it.
            self.network.inner.stock().forget(index);
        }
        adopted
    }

    /// Deals with the slots nobody adopted and begins to prepare new ones.
    pub async fn finish(self, orphans: Orphans) -> Network {
        let inner = &self.network.inner;
        let mut removed: Vec<_> = self.existing.into_iter().filter(|index| !inner.stock().is_taken(*index)).collect();
        if orphans == Orphans::Keep {
            for index in removed.drain(..) {
                inner.stock().claim_exactly(index);
            }
        }
        for (index, error) in
            reclaim::remove(&inner.host, removed.iter().map(|index| (*index, inner.plan(*index)))).await
        {
            tracing::warn!(index, %error, "cannot remove a slot of a former process; it stays unused");
            inner.stock().claim_exactly(index);
        }
        inner.tasks.spawn(keep_ready(Arc::clone(inner)));
        self.network
    }
}

impl Network {
    /// Puts the host's firewall table in force, switches forwarding on where it is needed, and looks for what a
    /// former process left.
    pub async fn open(options: NetworkOptions) -> Result<Adoption, OpenError> {
        let host = reclaim::host()?;
        let (instance, directory) = (options.instance.clone(), options.wrenn_dir.clone());
        let choose = host.entrance.run_on_host(move || range::choose(&instance, &directory));
        let range = choose.await.map_err(OpenError::Range)?;
        host.apply_on_host(rules::host(&options.instance, range)).await?;
        host.entrance.run_on_host(forwarding::enable_uplinks).await?;
        let existing = reclaim::existing(&host, &options.instance).await?;
        let inner = Inner {
            upstream: Arc::new(Upstream::new(options.resolvers.clone())),
            options,
            range,
            host,
            stock: Mutex::default(),
            taken: Notify::new(),
            setups: Semaphore::new(limits::PARALLEL_SETUPS),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Ok(Adoption { network: Self { inner: Arc::new(inner) }, existing })
    }

    /// A slot with the default policy. With a ready one this takes no process and no netlink call; else one is made.
    pub async fn acquire(&self) -> Result<Slot, AcquireError> {
        loop {
            let prepared = self.inner.stock().take();
            if let Some(prepared) = prepared {
                self.inner.taken.notify_one();
                return Ok(self.inner.occupy(prepared).await?);
            }
            // A task of its own: a caller that gives up must not leave half a slot. Whoever comes first gets it.
            let inner = Arc::clone(&self.inner);
            let made = self.inner.tasks.spawn(async move { inner.prepare().await });
            made.await.map_err(|error| SetupError::System { what: "a task", source: io::Error::other(error) })??;
        }
    }

    /// Takes a slot back. Returns at once; the slot is cleaned and rests before the next guest gets it. The VMM must
    /// have ended: it would share the TAP device with its successor.
    pub fn release(&self, slot: Slot) {
        let (prepared, policy) = slot.vacate();
        self.inner.tasks.spawn(Arc::clone(&self.inner).recycle(prepared, policy));
    }

    /// Slots ready to be taken.
    pub fn ready(&self) -> usize {
        self.inner.stock().ready()
    }

    /// Firewalls of this host that keep guests from the Internet, whatever we accept.
    pub async fn host_firewalls(&self) -> Result<Vec<Finding>, NftError> {
        let inner = &self.inner;
        firewall::find(&inner.host, &firewall::Guests::of(&inner.options.instance, inner.range)).await
    }

    /// Ends the work in the background. Slots in use stay, for [adoption](Adoption::adopt) by a next process.
    pub async fn close(self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// [Closes](Self::close) it and removes every slot, used or not, and the host's table.
    pub async fn destroy_all(self) -> Result<(), DestroyError> {
        let options = self.inner.options.clone();
        let host = self.inner.host.clone();
        self.close().await;
        reclaim::destroy(&host, &options.instance, &options.wrenn_dir).await
    }
}

impl Inner {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, index: SlotIndex) -> Plan {
        let instance = &self.options.instance;
        Plan { namespace: instance.namespace(index), veth: instance.veth(index), pair: range::pair(self.range, index) }
    }

    async fn adopt(&self, index: SlotIndex, policy: Policy) -> Result<Slot, AdoptError> {
        let plan = self.plan(index);
        let namespace = match namespace::open(&plan.namespace) {
            Ok(namespace) => Arc::new(namespace),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(AdoptError::Gone(index)),
            Err(error) => return Err(SetupError::Namespace(error).into()),
        };
        if self.host.index(&plan.veth).await?.is_none() {
            return Err(AdoptError::Gone(index));
        }
        let counted = self.host.complete(&namespace).await?;
        self.host.apply(&namespace, &policy).await.map_err(SetupError::from)?;
        let number = range::number(plan.pair);
        let prepared = Prepared { index, number, name: plan.namespace, namespace, counted };
        Ok(Slot::occupy(prepared, policy, self.host.clone(), Arc::clone(&self.upstream)).await?)
    }

    /// Makes one ready slot.
    async fn prepare(&self) -> Result<(), AcquireError> {
        // The semaphore is never closed; without a permit it would only be less orderly.
        let _permit = self.setups.acquire().await.ok();
        let index = self.stock().claim().ok_or(AcquireError::Exhausted)?;
        let plan = self.plan(index);
        match self.host.prepare(&plan).await {
            Ok(namespace) => {
                let (number, name) = (range::number(plan.pair), plan.namespace);
                self.stock().put(Prepared { index, number, name, namespace, counted: Traffic::default() });
                Ok(())
            }
            Err(error) => {
                self.stock().forget(index);
                Err(error.into())
            }
        }
    }

    async fn occupy(&self, prepared: Prepared) -> Result<Slot, SetupError> {
        let index = prepared.index;
        let slot = Slot::occupy(prepared, Policy::default(), self.host.clone(), Arc::clone(&self.upstream)).await;
        if slot.is_err() {
            self.discard(index).await;
        }
        slot
    }

    /// Once whoever took a slot has had time to use it: making another takes the processors it starts its VM with. At once
    /// when few are left.
    async fn refill_is_due(&self) {
        let pause = tokio::time::sleep(limits::REFILL_PAUSE);
        tokio::pin!(pause);
        while self.stock().ready() * 2 >= self.options.ready_slots {
            tokio::select! {
                () = &mut pause => return,
                () = self.stop.cancelled() => return,
                () = self.taken.notified() => {}
            }
        }
    }

    /// Makes a used slot as good as new, or removes it.
    async fn recycle(self: Arc<Self>, mut prepared: Prepared, policy: Policy) {
        let index = prepared.index;
        if let Err(error) = self.clean(&mut prepared, &policy).await {
            tracing::warn!(index, %error, "cannot clean a slot, removing it");
            return self.discard(index).await;
        }
        tokio::select! {
            () = tokio::time::sleep(limits::QUARANTINE) => {}
            () = self.stop.cancelled() => return,
        }
        match self.host.entrance.run(&prepared.namespace, connections::any).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::debug!(index, "connections into it are open, removing it");
                return self.discard(index).await;
            }
            Err(error) => {
                tracing::warn!(index, %error, "cannot list the connections of a slot, removing it");
                return self.discard(index).await;
            }
        }
        if self.stock().ready() >= self.options.ready_slots + limits::SPARE_SLOTS {
            return self.discard(index).await;
        }
        self.stock().put(prepared);
        tokio::select! {
            () = tokio::time::sleep(limits::SPARE_IDLE) => {}
            () = self.stop.cancelled() => return,
        }
        let spare = self.stock().take_above(self.options.ready_slots);
        if let Some(spare) = spare {
            self.discard(spare.index).await;
        }
    }

    async fn clean(&self, prepared: &mut Prepared, policy: &Policy) -> Result<(), SetupError> {
        if *policy != Policy::default() {
            let changed = self.host.change(&prepared.namespace, &Policy::default()).await;
            changed.map_err(system("the firewall"))?;
        }
        let flushed = self.host.ask(&prepared.namespace, conntrack::flush).await;
        flushed.map_err(system("the flow table"))?;
        let total = Meter::new(self.host.entrance.clone(), Arc::clone(&prepared.namespace), Traffic::default());
        prepared.counted = total.read().await.map_err(system("the counters"))?;
        self.host.remember(&prepared.namespace, prepared.counted).await
    }

    /// Removes a slot. One that cannot be removed keeps its number: its names are not free.
    async fn discard(&self, index: SlotIndex) {
        match self.host.remove(&self.plan(index)).await {
            Ok(()) => self.stock().forget(index),
            Err(error) => tracing::warn!(index, %error, "cannot remove a slot; it stays unused"),
        }
    }
}

/// Keeps the wanted number of slots ready and the uplinks forwarding until the network is closed.
async fn keep_ready(inner: Arc<Inner>) {
    loop {
        while !inner.stop.is_cancelled() && inner.stock().ready() < inner.options.ready_slots {
            if let Err(error) = inner.prepare().await {
                tracing::warn!(%error, "cannot prepare a slot ahead");
                tokio::select! {
                    () = tokio::time::sleep(limits::SETUP_RETRY) => {}
                    () = inner.stop.cancelled() => {}
                }
            }
        }
        tokio::select! {
            () = inner.taken.notified() => inner.refill_is_due().await,
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(limits::UPLINK_PERIOD) => {
                if let Err(error) = inner.host.entrance.run_on_host(forwarding::enable_uplinks).await {
                    tracing::warn!(%error, "cannot switch on forwarding");
                }
            }
        }
    }
}
