//! Drives one agent: chance chooses what callers ask, what guests do and what goes wrong.

use crate::agent::Agent;
use crate::calls::{self, Ask};
use crate::check;
use crate::clock;
use crate::contents::TEMPLATES;
use crate::world::World;
use ::agent::failure::Failure;
use ::agent::record::Place;
use ::agent::snapshots::SnapshotWish;
use model::lifetime::AtEnd;
use model::{CapsuleId, CapsuleStatus, Lifetime};
use rand::RngExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Capsules at a time.
const CAPSULES: usize = 8;
/// Snapshots at a time.
const SNAPSHOTS: usize = 4;

/// How many calls are remembered.
const LATELY: usize = 6;

/// How one agent's time ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It crashed.
    Crash,
    /// So did its host.
    PowerLoss,
    /// It left its capsules running, in order.
    Leave,
    /// The history is over.
    Over,
}

/// One step of a history.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Clone,
    Pause,
    Resume,
    Reboot,
    Destroy,
    SetLifetime,
    Snapshot,
    Forget,
    Again,
    UseGuest,
    GuestWrites,
    VmmDies,
    Soon,
    Later,
    MuchLater,
    Quiet,
    Drain,
    CrashSoon,
    Crash,
    PowerLoss,
    Leave,
}

/// How often each comes.
const STEPS: [(Step, u32); 22] = [
    (Step::Create, 50),
    (Step::Clone, 30),
    (Step::Pause, 80),
    (Step::Resume, 100),
    (Step::Reboot, 15),
    (Step::Destroy, 25),
    (Step::SetLifetime, 40),
    (Step::Snapshot, 30),
    (Step::Forget, 20),
    (Step::Again, 40),
    (Step::UseGuest, 80),
    (Step::GuestWrites, 150),
    (Step::VmmDies, 15),
    (Step::Soon, 200),
    (Step::Later, 30),
    (Step::MuchLater, 6),
    (Step::Quiet, 15),
    (Step::Drain, 6),
    (Step::CrashSoon, 12),
    (Step::Crash, 2),
    (Step::PowerLoss, 2),
    (Step::Leave, 3),
];

/// One agent, driven.
pub struct Driver {
    pub agent: Arc<Agent>,
    /// What was asked lately: it may be asked again.
    asked: VecDeque<Ask>,
}

impl Driver {
    pub fn new(agent: Agent) -> Self {
        Self { agent: Arc::new(agent), asked: VecDeque::new() }
    }

    fn with<T>(&self, does: impl FnOnce(&mut World) -> T) -> Option<T> {
        self.agent.host.with(does)
    }

    /// Until the agent ends, or the history has had its steps.
    pub async fn run(&mut self, steps: &mut u64) -> End {
        while *steps > 0 && self.with(|world| world.wrong.is_none()) == Some(true) {
            *steps -= 1;
            let Some(step) = self.with(choose) else { break };
            if let Some(end) = self.step(step).await {
                return end;
            }
        }
        End::Over
    }

    async fn step(&mut self, step: Step) -> Option<End> {
        match step {
            Step::UseGuest => self.use_guest().await,
            Step::GuestWrites => drop(self.with(guest_writes)),
            Step::VmmDies => {
                self.with(vmm_dies);
                self.agent.host.deaths.notify_waiters();
            }
            Step::Soon => self.pass(0, 8).await,
            Step::Later => self.pass(8, 3_000).await,
            Step::MuchLater => self.pass(3_000, 120_000).await,
            Step::Quiet => {
                check::quiet(&self.agent).await;
                self.calm().await;
            }
            Step::Drain => {
                let on = self.with(|world| !world.draining).unwrap_or_default();
                self.with(|world| world.tally.count(if on { "drains" } else { "ends of drains" }));
                self.agent.host.drain(on);
            }
            Step::CrashSoon => drop(self.with(|world| world.crash_in = Some(world.chance.random_range(1..60)))),
            Step::Crash => return Some(End::Crash),
            Step::PowerLoss => return Some(End::PowerLoss),
            Step::Leave => {
                self.leave().await;
                return Some(End::Leave);
            }
            Step::Again => {
                let lately: Vec<Ask> = self.asked.iter().copied().collect();
                if let Some(ask) = self.with(|world| world.any(&lately)).flatten() {
                    self.with(|world| world.tally.count("calls doubled"));
                    self.send(ask);
                }
            }
            _ => {
                let ask = self.with(|world| ask(world, step)).flatten();
                if let Some(ask) = ask {
                    self.asked.truncate(LATELY - 1);
                    self.asked.push_front(ask);
                    self.send(ask);
                }
            }
        }
        None
    }

    async fn pass(&self, from_ms: u64, to_ms: u64) {
        let ms = self.with(|world| world.chance.random_range(from_ms..to_ms)).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Most calls come at once and wait; some come late, some do not wait.
    fn send(&self, ask: Ask) {
        let when = self.with(|world| {
            let late = if world.happens(100) { world.chance.random_range(0..4_000) } else { 0 };
            let leaves = world.happens(150) && !matches!(ask, Ask::Forget(_));
            let patience = leaves.then(|| Duration::from_millis(world.chance.random_range(0..40)));
            if late > 0 {
                world.tally.count("calls that came late");
            }
            (Duration::from_millis(late), patience)
        });
        if let Some((late, patience)) = when {
            calls::send(&self.agent, ask, late, patience);
        }
    }

    /// A caller reaches into a guest, as calls of the data plane do.
    async fn use_guest(&self) {
        let Some(id) = self.with(any_capsule).flatten() else { return };
        let Ok(handle) = self.agent.registry.get(id) else { return };
        match handle.shared.lease(Duration::ZERO).await {
            Ok(lease) if lease.guest.write(id) => drop(self.with(|world| world.tally.count("guests used"))),
            _ => drop(self.with(|world| world.tally.count("guests not reached"))),
        }
    }

    /// The agent ends in order: every VM goes on.
    async fn leave(&self) {
        self.with(|world| world.leaving = true);
        let mut handles = self.agent.registry.all();
        handles.sort_by_key(|handle| handle.shared.view().record.id);
        for handle in handles {
            handle.release().await;
        }
        self.agent.host.clear().await;
    }

    /// Nothing is under way and nothing fails: a capsule does exactly what it is asked to.
    async fn calm(&self) {
        let before = self.with(|world| (std::mem::take(&mut world.failures), world.crash_in.take()));
        let Some((failures, crash_in)) = before else { return };
        self.end_drain().await;
        if let Some(id) = self.with(any_capsule).flatten() {
            self.calm_capsule(id).await;
        }
        self.with(|world| (world.failures, world.crash_in) = (failures, crash_in));
    }

    /// When nothing fails and no agent crashes it has done what it is for.
    async fn end_drain(&self) {
        if self.with(|world| world.draining) == Some(true) {
            check::empty(&self.agent).await;
            self.agent.host.drain(false);
        }
    }

    async fn calm_capsule(&self, id: CapsuleId) {
        let Ok(handle) = self.agent.registry.get(id) else { return };
        let here = self.with(|world| (world.version, world.happens(500))).unwrap_or_default();
        let (ask, wanted) = match handle.shared.view().status {
            CapsuleStatus::Running => {
                // Its lifetime may end just now.
                let ask = Ask::SetLifetime(id, Lifetime::FOREVER);
                let answer = calls::call(&self.agent, ask).await;
                self.with(|world| calls::judge(world, ask, &answer));
                if !matches!(answer, Ok(Some(view)) if view.status == CapsuleStatus::Running) {
                    return;
                }
                self.refused_lifetime(id).await;
                (Ask::Pause { id, discard_memory: false }, Ok(CapsuleStatus::Paused))
            }
            CapsuleStatus::Paused => {
                let place = handle.shared.view().record.place.clone();
                let discard_memory = !self.with(|world| loads(world, &place, here.0)).unwrap_or_default();
                let lifetime = Some(Lifetime::FOREVER);
                if discard_memory {
                    let refused = Ask::Resume { id, discard_memory: false, lifetime };
                    self.expect(refused, Err("the saved memory was made by")).await;
                }
                (Ask::Resume { id, discard_memory, lifetime }, Ok(CapsuleStatus::Running))
            }
            _ => (Ask::Destroy(id), Ok(CapsuleStatus::Stopped)),
        };
        self.expect(ask, wanted).await;
        if here.1 && !matches!(ask, Ask::Destroy(_)) {
            self.expect(Ask::Destroy(id), Ok(CapsuleStatus::Stopped)).await;
            self.expect(Ask::Destroy(id), Err(&Failure::Unknown.to_string())).await;
        }
    }

    /// A lifetime that cannot be written down is none.
    async fn refused_lifetime(&self, id: CapsuleId) {
        self.with(|world| world.failures = 1_000);
        self.expect(Ask::SetLifetime(id, Lifetime::Idle { ttl_s: 86_400 }), Err("saving the record")).await;
        self.with(|world| world.failures = 0);
        let lifetime = self.agent.registry.get(id).map(|handle| handle.shared.view().record.lifetime);
        if lifetime != Ok(Lifetime::FOREVER) {
            self.with(|world| world.wrong(format!("{id} has {lifetime:?}, which it was refused")));
        }
    }

    /// Asks, and wants this answer.
    async fn expect(&self, ask: Ask, wanted: Result<CapsuleStatus, &str>) {
        let answer = calls::call(&self.agent, ask).await;
        self.with(|world| {
            world.tally.count("answers foretold");
            calls::judge(world, ask, &answer);
            let fits = match (&answer, wanted) {
                (Ok(view), Ok(status)) => view.as_ref().is_none_or(|view| view.status == status),
                (Err(failure), Err(text)) => failure.to_string().contains(text),
                _ => false,
            };
            // The loss of a VM that died just before is told by the next answer only.
            let died = matches!(ask, Ask::SetLifetime(id, _) | Ask::Pause { id, .. } if died(world, id));
            if !fits && !died {
                let answer = answer.map(|view| view.map(|view| view.status));
                world.wrong(format!("{ask:?} is answered {answer:?} where {wanted:?} was foretold"));
            }
        });
    }

    /// At the end of a history everything goes, and nothing is left.
    pub async fn clear(&self) {
        if self.with(|world| world.wrong.is_some()) != Some(false) {
            return;
        }
        self.with(|world| (world.failures, world.crash_in) = (0, None));
        check::quiet(&self.agent).await;
        self.end_drain().await;
        let (capsules, snapshots) = self
            .with(|world| {
                let capsules: Vec<CapsuleId> = world.records.keys().copied().collect();
                (capsules, world.snapshots.keys().copied().collect::<Vec<Uuid>>())
            })
            .unwrap_or_default();
        for snapshot in snapshots {
            self.expect(Ask::Forget(snapshot), Ok(CapsuleStatus::Stopped)).await;
        }
        for id in capsules {
            // Its lifetime may have ended it.
            let destroyed = calls::call(&self.agent, Ask::Destroy(id)).await;
            self.with(|world| match destroyed {
                Ok(_) | Err(Failure::Unknown) => {}
                Err(failure) => world.wrong(format!("{id} cannot be destroyed: {failure}")),
            });
        }
        check::quiet(&self.agent).await;
        let ready = self.agent.host.ready().len();
        self.with(|world| {
            let left = (world.records.len(), world.snapshots.len(), world.vms.len(), world.slots.len());
            if !world.keeps_all && left != (0, 0, ready, ready) {
                world.wrong(format!("all was destroyed, and {left:?} records, snapshots, VMs and slots are left"));
            }
        });
    }
}

fn choose(world: &mut World) -> Step {
    world.tally.count("steps");
    let all: u32 = STEPS.iter().map(|(_, weight)| weight).sum();
    let mut at = world.chance.random_range(0..all);
    let chosen = STEPS.iter().find(|(_, weight)| {
        let here = at < *weight;
        at = at.saturating_sub(*weight);
        here
    });
    chosen.map_or(Step::Soon, |(step, _)| *step)
}

/// One that is there, most often; else one that is to come, or gone.
fn any_capsule(world: &mut World) -> Option<CapsuleId> {
    let there: Vec<CapsuleId> = world.records.keys().copied().collect();
    let latest: Vec<CapsuleId> = world.ledger.capsules.keys().rev().take(3).copied().collect();
    if world.happens(800) { world.any(&there) } else { world.any(&latest) }
}

fn lifetime(world: &mut World) -> Lifetime {
    let ms = world.chance.random_range(0..200_000);
    match world.chance.random_range(0..6) {
        0 => Lifetime::Until { unix_ms: clock::now_ms() + ms, at_end: AtEnd::Kill },
        1 => Lifetime::Until { unix_ms: clock::now_ms() + ms, at_end: AtEnd::Pause },
        2 => Lifetime::Idle { ttl_s: u32::try_from(ms / 2_000).unwrap_or_default() + 1 },
        _ => Lifetime::FOREVER,
    }
}

fn ask(world: &mut World, step: Step) -> Option<Ask> {
    let snapshots: Vec<Uuid> = world.snapshots.keys().copied().collect();
    let id = any_capsule(world);
    Some(match step {
        Step::Create | Step::Clone if world.records.len() >= CAPSULES => return None,
        Step::Create => {
            let template = world.chance.random_range(1..=TEMPLATES);
            let id = CapsuleId::from_uuid(world.id());
            Ask::Create { id, template, snapshot: None, lifetime: lifetime(world) }
        }
        Step::Clone => {
            let snapshot = world.any(&snapshots)?;
            let fork = world.snapshots.get(&snapshot)?.class.template;
            let template = if world.happens(500) { snapshot } else { fork }.as_u128();
            let id = CapsuleId::from_uuid(world.id());
            Ask::Create { id, template, snapshot: Some(snapshot), lifetime: lifetime(world) }
        }
        Step::Pause => Ask::Pause { id: id?, discard_memory: world.happens(200) },
        Step::Resume | Step::Reboot => {
            let lifetime = world.happens(300).then(|| lifetime(world));
            Ask::Resume { id: id?, discard_memory: matches!(step, Step::Reboot), lifetime }
        }
        Step::Destroy => Ask::Destroy(id?),
        Step::SetLifetime => Ask::SetLifetime(id?, lifetime(world)),
        Step::Snapshot if snapshots.len() < SNAPSHOTS => {
            let wish = SnapshotWish { id: world.id(), discard_memory: world.happens(300) };
            Ask::Snapshot(id?, wish)
        }
        Step::Forget => Ask::Forget(world.any(&snapshots)?),
        _ => return None,
    })
}

/// Processes in guests work, whether anybody looks or not.
fn guest_writes(world: &mut World) {
    let told: Vec<Uuid> = world.vms.iter().filter(|(_, process)| process.told.is_some()).map(|(id, _)| *id).collect();
    if let Some(vm) = world.any(&told) {
        world.guest_writes(vm);
    }
}

fn vmm_dies(world: &mut World) {
    let alive: Vec<Uuid> = world.vms.iter().filter(|(_, process)| process.alive).map(|(id, _)| *id).collect();
    if let Some(vm) = world.any(&alive) {
        world.tally.count("VMMs that died");
        world.kill(vm);
    }
}

/// Whether the memory of a paused capsule can be loaded by this VMM.
fn loads(world: &World, place: &Place, version: u32) -> bool {
    let Place::Paused { generation } = place else { return true };
    world.generations.get(generation).is_none_or(|saved| saved.disk_only || saved.version == version)
}

fn died(world: &World, id: CapsuleId) -> bool {
    match world.records.get(&id).map(|record| &record.place) {
        Some(Place::Running { vm, .. }) => world.ledger.doomed.contains_key(vm),
        _ => false,
    }
}
