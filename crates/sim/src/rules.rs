//! What must hold at every durable write, and what is remembered to judge the next one by.

use crate::clock;
use crate::contents::{Contents, PAGES, TEMPLATES};
use crate::world::{Defect, Process, World};
use ::agent::failure::Failure;
use ::agent::operations::generation_of;
use ::agent::record::{Place, Record};
use ::agent::snapshots::Snapshot;
use ::agent::told::Purpose;
use hostlink::SandboxEvent;
use model::lifetime::AtEnd;
use model::{CapsuleId, EndReason, Lifetime};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Host actions by which a record is late, where that is planted.
const LATE: u32 = 10;

/// An event that is owed to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owed {
    AutoPaused,
    AutoKilled,
}

/// What is known of a capsule beside its record.
#[derive(Debug, Default)]
pub struct Known {
    /// What it held when it was last paused.
    pub saved: Option<Contents>,
    /// Somebody asked for its end.
    pub destroy_asked: bool,
    /// Somebody asked for a pause since it runs: of a loss on the way the answer may tell.
    pub pause_asked: bool,
    /// When it began to run the last time.
    pub runs_since_ms: u64,
}

/// What must be.
#[derive(Debug, Default)]
pub struct Ledger {
    pub capsules: BTreeMap<CapsuleId, Known>,
    /// What clones of a snapshot may begin with: it may have been taken, given up and taken again.
    pub snapshots: BTreeMap<Uuid, Vec<Contents>>,
    /// VMs that something happened to, by which they may be lost; how often that was told.
    pub doomed: BTreeMap<Uuid, u32>,
    /// Capsules whose last record could not be written.
    pub stale: BTreeSet<CapsuleId>,
    /// Generations that could not be removed; the next start does it.
    pub loose: BTreeSet<Uuid>,
    pub owed: BTreeSet<(CapsuleId, Owed)>,
}

impl Ledger {
    pub fn doom(&mut self, vm: Uuid) {
        self.doomed.entry(vm).or_default();
    }
}

impl World {
    /// A process in a guest changes a page, or zeroes it; `false`: it stands still.
    pub fn guest_writes(&mut self, vm: Uuid) -> bool {
        let (page, value) = (self.chance.random_range(0..PAGES), self.chance.random_range(1..u64::MAX));
        let (zeroes, on_disk) = (self.happens(250), self.happens(300));
        let Some(process) = self.vms.get_mut(&vm).filter(|process| process.alive && !process.stopped) else {
            return false;
        };
        let pages = if on_disk { &mut process.contents.disk } else { &mut process.contents.memory };
        if zeroes {
            pages.remove(&page);
        } else {
            pages.insert(page, value);
        }
        self.tally.count(if zeroes { "pages zeroed by guests" } else { "pages written by guests" });
        true
    }

    /// What a VM that begins with this generation holds.
    pub fn contents_of(&mut self, generation: Uuid) -> Contents {
        let stale = self.defect == Some(Defect::StaleMemory) && self.happens(200);
        let saved = if stale { self.generations.values().next() } else { self.generations.get(&generation) };
        saved.map(|saved| saved.contents.clone()).unwrap_or_default()
    }

    /// What a class begins with: a template of a capsule with that capsule's disk, as long as it is there.
    pub fn class_contents(&mut self, template: u128) -> Option<Contents> {
        if template <= TEMPLATES {
            return Some(Contents::of_class(template));
        }
        let generation = self.snapshots.get(&Uuid::from_u128(template))?.generation;
        Some(self.contents_of(generation).rebooted())
    }

    /// A VM runs on, and its guest is told whose it is.
    pub fn wakes(&mut self, vm: Uuid, record: &Record, purpose: Purpose, booted: bool) {
        let id = record.id;
        let twin = |(other, process): (&Uuid, &Process)| {
            *other != vm && process.told == Some(id) && process.alive && !process.stopped
        };
        // While nobody knows what a damaged record names, what a crash cut short runs on.
        if !self.keeps_all && self.vms.iter().any(twin) {
            self.wrong(format!("{id} runs in two VMs"));
        }
        let name = self.name(vm);
        self.say(format!("{id} wakes in {name} ({purpose:?})"));
        let known = self.ledger.capsules.get(&id);
        let mut expected = match (purpose, record.snapshot) {
            (Purpose::Resume, _) => known.and_then(|known| known.saved.clone()).into_iter().collect(),
            (Purpose::Clone, Some(snapshot)) => {
                let mut known = self.ledger.snapshots.get(&snapshot).cloned().unwrap_or_default();
                if record.class.template == snapshot {
                    // One whose memory cannot be loaded boots.
                    known.extend(known.clone().iter().map(Contents::rebooted));
                }
                known
            }
            (Purpose::Clone, None) => vec![Contents::of_class(record.class.template.as_u128())],
        };
        if booted {
            expected = expected.iter().map(Contents::rebooted).collect();
        }
        let Some(process) = self.vms.get_mut(&vm) else { return };
        process.stopped = false;
        process.told = Some(id);
        if !expected.contains(&process.contents) {
            let found = process.contents.clone();
            self.wrong(format!("{id} wakes ({purpose:?}) with {found:?} instead of {expected:?}"));
        }
        self.tally.count("VMs woken");
    }

    /// A VM that was running is not taken back by a new agent.
    pub fn given_up(&mut self, vm: Uuid, why: &Failure) {
        if why.to_string().contains("refused by the simulator") {
            self.ledger.doom(vm);
        } else if !self.ledger.doomed.contains_key(&vm) {
            self.wrong(format!("a VM that nothing happened to is given up: {why}"));
        }
    }

    /// The record is durable from here on.
    pub fn save_record(&mut self, record: Record) {
        let id = record.id;
        let before = self.records.get(&id).cloned();
        let place = self.place(&record.place);
        self.say(format!("record of {id}: {place} ({:?})", record.reason));
        self.ledger.capsules.entry(id).or_default();
        match (before.as_ref().map(|record| &record.place), &record.place) {
            (Some(before), place) if before == place => {}
            (None | Some(Place::Paused { .. }), Place::Running { vm, slot, .. }) => self.began(id, *vm, *slot),
            // That it had lost its former one could not be written down.
            (Some(Place::Running { .. }), Place::Running { vm, slot, .. }) if self.ledger.stale.contains(&id) => {
                self.began(id, *vm, *slot);
            }
            (Some(Place::Running { vm, .. }), place) => {
                let vm = *vm;
                if before.as_ref().is_some_and(|record| record.without_vm() == *place) {
                    self.lost(id, vm, place);
                } else if let Place::Paused { generation } = place {
                    self.paused(&record, vm, *generation);
                } else {
                    self.wrong(format!("{id} goes from one VM to {place:?}"));
                }
            }
            (before, place) => self.wrong(format!("{id} goes from {before:?} to {place:?}")),
        }
        self.no_longer_stale(id);
        self.records.insert(id, record);
        self.whole();
    }

    /// The snapshot is durable from here on.
    pub fn save_snapshot(&mut self, snapshot: Snapshot) {
        self.tally.count("snapshots recorded");
        match self.generations.get(&snapshot.generation) {
            Some(saved) => self.ledger.snapshots.entry(snapshot.id).or_default().push(saved.contents.clone()),
            None => self.wrong(format!("snapshot {} is recorded without its generation", snapshot.id)),
        }
        self.snapshots.insert(snapshot.id, snapshot);
    }

    /// What a planted defect puts off: the record of a pause.
    pub fn write_record(&mut self, record: Record) {
        let late = self.defect == Some(Defect::LateRecord) && matches!(record.place, Place::Paused { .. });
        if late && self.late.is_none() {
            self.late = Some((LATE, record));
        } else {
            self.save_record(record);
        }
    }

    /// One action later.
    pub fn write_late(&mut self) {
        self.late = match self.late.take() {
            Some((0, record)) => {
                self.save_record(record);
                None
            }
            late => late.map(|(left, record)| (left - 1, record)),
        };
    }

    fn began(&mut self, id: CapsuleId, vm: Uuid, slot: u16) {
        self.tally.count("starts recorded");
        let told = self.vms.get(&vm).map(|process| process.told);
        if told != Some(Some(id)) || self.slots.get(&slot) != Some(&vm) {
            self.wrong(format!("{id} is recorded in a VM and slot {slot}, which are not its own ({told:?})"));
        }
        if let Some(known) = self.ledger.capsules.get_mut(&id) {
            known.pause_asked = false;
            known.runs_since_ms = clock::now_ms();
        }
    }

    fn paused(&mut self, record: &Record, vm: Uuid, generation: Uuid) {
        let id = record.id;
        self.tally.count("pauses recorded");
        let disk_only = self.generations.get(&generation).is_some_and(|saved| saved.disk_only);
        let saved = self.generations.get(&generation).map(|saved| saved.contents.clone());
        let process = self.vms.get(&vm).filter(|process| process.stopped && process.told == Some(id));
        let held =
            process.map(|process| if disk_only { process.contents.rebooted() } else { process.contents.clone() });
        if saved.is_none() || held != saved {
            self.wrong(format!("{id} is recorded as paused, and its generation is not what its VM holds"));
        }
        self.ledger.capsules.entry(id).or_default().saved = saved;
        if matches!(record.reason, Some(EndReason::Ttl | EndReason::HostDrained)) {
            self.ledger.owed.insert((id, Owed::AutoPaused));
        }
    }

    fn lost(&mut self, id: CapsuleId, vm: Uuid, place: &Place) {
        self.tally.count("losses recorded");
        let alive = self.vms.get(&vm).is_some_and(|process| process.alive);
        let told = self.ledger.doomed.get(&vm).copied();
        let known = self.ledger.capsules.entry(id).or_default();
        let (asked, saved) = (known.pause_asked || known.destroy_asked, known.saved.clone());
        if alive {
            self.wrong(format!("{id} is recorded as lost, and its VM lives"));
        }
        match told {
            None => self.wrong(format!("{id} is lost, and nothing happened to its VM")),
            Some(0) if !asked => self.wrong(format!("{id} is recorded as lost, and nobody was told")),
            Some(_) => {}
        }
        if let Place::Paused { generation } = place
            && self.generations.get(generation).map(|saved| &saved.contents) != saved.as_ref()
        {
            self.wrong(format!("{id} goes back to something else than its last pause"));
        }
    }

    /// What the capsule's last record names and the agent no longer knows of is freed by the next start.
    fn no_longer_stale(&mut self, id: CapsuleId) -> bool {
        let stale = self.ledger.stale.remove(&id);
        if stale {
            self.ledger.loose.extend(self.records.get(&id).and_then(|record| generation_of(&record.place)));
        }
        stale
    }

    /// The record is gone from here on.
    pub fn remove_record(&mut self, id: CapsuleId) {
        self.say(format!("record of {id}: removed"));
        let stale = self.no_longer_stale(id);
        let Some(record) = self.records.remove(&id) else { return };
        if self.damaged.remove(&id) {
            // Its VM is nobody's until the next start.
            let its = self.vms.values_mut().filter(|process| process.told == Some(id));
            its.for_each(|process| process.told = None);
        }
        self.tally.count("destroys recorded");
        let asked = self.ledger.capsules.get(&id).is_some_and(|known| known.destroy_asked);
        // The end of a lifetime that could not be written down counts, too.
        let killed = stale || matches!(record.lifetime, Lifetime::Until { at_end: AtEnd::Kill, .. });
        match (asked, killed) {
            (true, _) => {}
            (false, true) => drop(self.ledger.owed.insert((id, Owed::AutoKilled))),
            (false, false) => self.wrong(format!("{id} is destroyed, and nobody wanted that")),
        }
    }

    /// The control plane is told.
    pub fn report(&mut self, event: &SandboxEvent) {
        self.events.push(event.clone());
        self.say(format!("event: {} {}", event.event, event.sandbox_id));
        let Ok(id) = event.sandbox_id.parse::<CapsuleId>() else {
            return self.wrong(format!("an event of {}", event.sandbox_id));
        };
        let place = self.records.get(&id).map(|record| record.place.clone());
        let true_event = match event.event.as_str() {
            "sandbox.auto_paused" => self.ledger.owed.remove(&(id, Owed::AutoPaused)),
            "sandbox.auto_killed" => {
                let asked = self.ledger.capsules.get(&id).is_some_and(|known| known.destroy_asked);
                self.ledger.owed.remove(&(id, Owed::AutoKilled)) || (asked && place.is_none())
            }
            "sandbox.crashed" => match place {
                Some(Place::Running { vm, .. }) => self.ledger.doomed.get_mut(&vm).map(|told| *told += 1).is_some(),
                _ => false,
            },
            _ => false,
        };
        if !true_event {
            self.wrong(format!("told that {id} is `{}` ({}), which it is not", event.event, event.status));
        }
        self.tally.count("events");
    }

    /// The disk did not take it: the list of capsules has to tell.
    pub fn event_not_written(&mut self, event: &SandboxEvent) {
        let Ok(id) = event.sandbox_id.parse::<CapsuleId>() else { return };
        self.ledger.owed.retain(|(of, _)| *of != id);
        if let Some(Record { place: Place::Running { vm, .. }, .. }) = self.records.get(&id)
            && let Some(told) = self.ledger.doomed.get_mut(vm)
        {
            *told += 1;
        }
    }

    /// What durable records name is there, at every moment.
    pub fn whole(&mut self) {
        let missing = self.records.values().find_map(|record| {
            let needed = match record.place {
                Place::Paused { generation } => Some(generation),
                Place::Running { base, resumed: true, .. } => base,
                Place::Running { vm, base, .. } => base.filter(|_| self.vms.get(&vm).is_some_and(|vm| vm.alive)),
                Place::Lost => None,
            };
            needed.filter(|id| !self.generations.contains_key(id)).map(|id| (record.id, id))
        });
        if let Some((capsule, generation)) = missing {
            self.wrong(format!("{capsule} needs generation {generation}, which is gone"));
        }
    }
}
