//! What outlives an agent: the disk, the VMs, the network slots; and what chance does to them.

use crate::contents::{Contents, TEMPLATES};
use crate::rules::Ledger;
use crate::tally::Tally;
use ::agent::record::{Place, Record};
use ::agent::snapshots::Snapshot;
use hostlink::SandboxEvent;
use model::CapsuleId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Lines of a history that are shown when it goes wrong.
const LINES: usize = 200;

/// A defect that is planted, so that a test sees the checker find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The record of a pause is said to be durable and is written some actions later: what it replaces is freed first.
    LateRecord,
    /// A generation is removed although a VM began with it: a clone loses its snapshot.
    NoPins,
    /// Now and then an event is not written.
    LostEvent,
    /// A pause takes its memory before the VM stands still: later writes are lost.
    TornPause,
    /// The end of a VM keeps its network slot.
    KeptSlot,
    /// A resume begins with the memory of another moment.
    StaleMemory,
    /// A start leaves the VM of an older agent running beside its own.
    KeptVm,
}

/// A generation on the disk.
#[derive(Debug, Clone)]
pub struct Saved {
    pub contents: Contents,
    /// It has a disk alone: its contents have no memory.
    pub disk_only: bool,
    /// Version of the VMM that wrote it.
    pub version: u32,
    /// The template, if it is a class's.
    pub class: Option<u128>,
}

/// A VM's directory, and its process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Its sockets are there: not after a loss of power.
    pub runtime: bool,
    pub alive: bool,
    pub stopped: bool,
    pub contents: Contents,
    /// Whose guest it was told to be.
    pub told: Option<CapsuleId>,
}

/// The host, without its agent.
pub struct World {
    pub chance: StdRng,
    pub defect: Option<Defect>,
    /// Which agent lives; what an older one still does changes nothing.
    pub agent: Option<u32>,
    /// Its host is to be empty. An agent that begins knows.
    pub draining: bool,
    /// It ends in order, and answers nobody any more.
    pub leaving: bool,
    /// Host actions until the agent crashes.
    pub crash_in: Option<u32>,
    /// Failures per thousand host actions.
    pub failures: u32,
    pub now_ms: u64,
    /// Version of the VMM.
    pub version: u32,

    pub records: BTreeMap<CapsuleId, Record>,
    /// A record that is said to be durable, and after how many actions it will be.
    pub late: Option<(u32, Record)>,
    /// Records that this agent could not read.
    pub damaged: BTreeSet<CapsuleId>,
    /// There were some when it began: nothing was cleaned up.
    pub keeps_all: bool,
    pub generations: BTreeMap<Uuid, Saved>,
    pub drafts: BTreeSet<Uuid>,
    pub snapshots: BTreeMap<Uuid, Snapshot>,
    pub events: Vec<SandboxEvent>,
    pub vms: BTreeMap<Uuid, Process>,
    pub slots: BTreeMap<u16, Uuid>,

    /// Uses of generations by VMs of this agent, and whether each is to be removed.
    pub pins: BTreeMap<Uuid, (u32, bool)>,
    /// Capsules that something is being done to, and what.
    pub busy: BTreeMap<CapsuleId, &'static str>,
    /// Host actions under way.
    pub under_way: u32,
    /// Calls not yet answered.
    pub calls: u32,

    pub ledger: Ledger,
    pub tally: Tally,
    pub wrong: Option<String>,
    lines: VecDeque<String>,
    digest: DefaultHasher,
    next_id: u128,
    names: BTreeMap<Uuid, usize>,
}

/// The world, shared by its agent and whoever drives it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn new(seed: u64, defect: Option<Defect>) -> Self {
        Self(Arc::new(Mutex::new(World {
            chance: StdRng::seed_from_u64(seed),
            defect,
            agent: None,
            draining: false,
            leaving: false,
            crash_in: None,
            failures: 0,
            now_ms: 1_700_000_000_000,
            version: 1,
            records: BTreeMap::new(),
            late: None,
            damaged: BTreeSet::new(),
            keeps_all: false,
            generations: BTreeMap::new(),
            drafts: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            events: Vec::new(),
            vms: BTreeMap::new(),
            slots: BTreeMap::new(),
            pins: BTreeMap::new(),
            busy: BTreeMap::new(),
            under_way: 0,
            calls: 0,
            ledger: Ledger::default(),
            tally: Tally::default(),
            wrong: None,
            lines: VecDeque::new(),
            digest: DefaultHasher::new(),
            next_id: TEMPLATES,
            names: BTreeMap::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Whether something with this many chances in a thousand happens.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        self.chance.random_range(0..1_000) < per_mille
    }

    /// Any of these.
    pub fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| self.chance.random_range(0..of.len())).and_then(|at| of.get(at).copied())
    }

    /// A new id, the same in every run of a history.
    pub fn id(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(self.next_id)
    }

    /// A VM's name: its id, which the agent gives it, is another in every run.
    pub fn name(&mut self, vm: Uuid) -> String {
        let next = self.names.len() + 1;
        format!("VM {}", self.names.entry(vm).or_insert(next))
    }

    /// A place, with the name of its VM.
    pub fn place(&mut self, place: &Place) -> String {
        match place {
            Place::Running { vm, slot, base, resumed, booted } => {
                format!("in {}, slot {slot}, base {base:?}, resumed {resumed}, booted {booted}", self.name(*vm))
            }
            place => format!("{place:?}"),
        }
    }

    /// Notes what happens.
    pub fn say(&mut self, line: String) {
        line.hash(&mut self.digest);
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// What must not be has been: the history ends.
    pub fn wrong(&mut self, what: String) {
        self.say(format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    /// The last that happened.
    pub fn lines(&self) -> String {
        self.lines.iter().fold(String::new(), |all, line| all + "  " + line + "\n")
    }

    /// Tells two histories apart.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Whether an action of this step fails now.
    pub fn fails(&mut self, step: &'static str) -> bool {
        let fails = self.happens(self.failures);
        if fails {
            self.tally.count("failures of host actions");
            self.say(format!("{step}: fails"));
        }
        fails
    }

    /// The VMM's process ends without having been asked to.
    pub fn kill(&mut self, vm: Uuid) {
        let name = self.name(vm);
        self.say(format!("{name} dies"));
        if let Some(process) = self.vms.get_mut(&vm) {
            process.alive = false;
            self.ledger.doom(vm);
        }
    }

    /// Counts a use of a generation that is there to stay.
    pub fn pin(&mut self, id: Uuid) -> bool {
        let (count, condemned) = self.pins.get(&id).copied().unwrap_or_default();
        if condemned || !self.generations.contains_key(&id) {
            return false;
        }
        self.pins.insert(id, (count + 1, false));
        true
    }

    /// A use ends, and the generation if it was removed meanwhile.
    pub fn unpin(&mut self, id: Uuid) {
        match self.pins.get(&id).copied() {
            Some((1, condemned)) => {
                self.pins.remove(&id);
                if condemned {
                    self.erase(id);
                }
            }
            Some((count, condemned)) => drop(self.pins.insert(id, (count - 1, condemned))),
            None => {}
        }
    }

    /// Removes a generation, now or with its last use.
    pub fn remove_generation(&mut self, id: Uuid) {
        self.say(format!("generation {id} is to go; used: {:?}", self.pins.get(&id)));
        match self.pins.get_mut(&id) {
            Some((_, condemned)) if self.defect != Some(Defect::NoPins) => *condemned = true,
            _ => self.erase(id),
        }
    }

    fn erase(&mut self, id: Uuid) {
        self.generations.remove(&id);
        self.whole();
    }

    /// The host loses its power: VMs and networks are gone, what was durable is not.
    pub fn lose_power(&mut self) {
        let running: Vec<Uuid> = self.vms.keys().copied().collect();
        for vm in running {
            self.kill(vm);
        }
        self.vms.values_mut().for_each(|process| process.runtime = false);
        self.slots.clear();
    }
}
