//! What must hold whenever nothing is under way: disk, VMs and slots are what the capsules say, and nothing else is there.

use crate::agent::Agent;
use crate::vm::Guest;
use crate::world::World;
use ::agent::operations::generation_of;
use ::agent::record::Place;
use ::agent::shared::View;
use model::{CapsuleId, CapsuleStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// Nothing takes longer than this: operations end, or are stuck.
const PATIENCE: Duration = Duration::from_mins(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// An end of a lifetime that failed is tried again by then.
const OVERDUE_MS: u64 = 1_200_000;

type Views = BTreeMap<CapsuleId, View<Guest>>;

/// Every capsule that the agent knows.
fn views(agent: &Agent) -> Views {
    let views = agent.registry.all().into_iter().map(|handle| handle.shared.view());
    views.map(|view| (view.record.id, view)).collect()
}

/// Waits until nothing is under way, and checks.
pub async fn quiet(agent: &Agent) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(LOOK).await;
        let views = views(agent);
        let moving = views.values().any(|view| view.status.is_transient());
        let done = agent.host.with(|world| {
            let still =
                world.late.is_none() && world.under_way == 0 && world.calls == 0 && !moving && agent.host.idle();
            if still {
                world.tally.count("checks of everything");
                agrees(world, &views);
                // While nobody knows what a damaged record names, leftovers stay.
                if !world.keeps_all {
                    nothing_leaks(world, &views, &agent.host.ready());
                }
            } else if tokio::time::Instant::now() > deadline {
                let stuck: Vec<_> = views.values().map(|view| (view.record.id, view.status)).collect();
                let (calls, under_way) = (world.calls, world.under_way);
                world.wrong(format!("stuck: {calls} calls, {under_way} host actions, {stuck:?}"));
            }
            still || world.wrong.is_some()
        });
        if done != Some(false) {
            return;
        }
    }
}

/// A host that is to be empty is, by when what failed has been tried again.
pub async fn empty(agent: &Agent) {
    tokio::time::sleep(Duration::from_millis(OVERDUE_MS)).await;
    quiet(agent).await;
    let runs = views(agent).into_iter().find(|(_, view)| view.status == CapsuleStatus::Running);
    agent.host.with(|world| {
        world.tally.count("hosts emptied");
        if let Some((id, _)) = runs {
            world.wrong(format!("{id} runs on a host that is to be empty"));
        }
    });
}

/// Machine, record and reality say the same of every capsule.
fn agrees(world: &mut World, views: &Views) {
    let mut wrong = Vec::new();
    for (id, view) in views {
        let said = (view.status, &view.record.place);
        let record = world.records.get(id);
        let stale = world.ledger.stale.contains(id);
        let fits = match (view.status, record.map(|record| &record.place)) {
            (CapsuleStatus::Running, Some(Place::Running { vm, .. })) => {
                view.guest.as_ref().is_some_and(|guest| guest.vm == *vm) && runs(world, *id, *vm)
            }
            (CapsuleStatus::Paused, Some(Place::Paused { generation })) => {
                let saved = world.ledger.capsules.get(id).and_then(|known| known.saved.as_ref());
                saved.is_some() && world.generations.get(generation).map(|saved| &saved.contents) == saved
            }
            (CapsuleStatus::Error, Some(Place::Lost)) => true,
            (CapsuleStatus::Paused | CapsuleStatus::Error, Some(_)) => stale,
            _ => false,
        };
        if !fits {
            wrong.push(format!("{id} is said to be {said:?}, and its record is {record:?}"));
        }
        if !stale && record.is_some_and(|record| record.lifetime != view.record.lifetime) {
            wrong.push(format!("{id} has a lifetime that is not in its record"));
        }
        let runs_since_ms = world.ledger.capsules.get(id).map(|known| known.runs_since_ms).unwrap_or_default();
        if view.status == CapsuleStatus::Running && overdue(view, runs_since_ms) {
            wrong.push(format!("the lifetime of {id} is over, and it runs"));
        }
    }
    for id in world.records.keys().filter(|id| !views.contains_key(id) && !world.damaged.contains(id)) {
        wrong.push(format!("{id} has a record, and nobody knows it"));
    }
    let unasked = |id| world.ledger.capsules.get(id).is_some_and(|known| !known.destroy_asked);
    for owed in world.ledger.owed.iter().filter(|(id, _)| unasked(id)) {
        wrong.push(format!("{owed:?} has not been told"));
    }
    for what in wrong {
        world.wrong(what);
    }
}

fn runs(world: &World, id: CapsuleId, vm: Uuid) -> bool {
    world.vms.get(&vm).is_some_and(|process| process.alive && !process.stopped && process.told == Some(id))
}

/// One that is brought back without a new lifetime after its end gets until then, too.
fn overdue(view: &View<Guest>, runs_since_ms: u64) -> bool {
    let end = match view.record.lifetime {
        model::Lifetime::Until { unix_ms, .. } => unix_ms,
        model::Lifetime::Idle { .. } => return false,
    };
    crate::clock::now_ms() > end.max(runs_since_ms) + OVERDUE_MS
}

/// Everything on the disk, every VM and every slot is somebody's.
fn nothing_leaks(world: &mut World, views: &Views, ready: &[Uuid]) {
    let mut vms: BTreeSet<Uuid> = ready.iter().copied().collect();
    let mut generations: BTreeSet<Uuid> = world.ledger.loose.clone();
    generations.extend(world.snapshots.values().map(|snapshot| snapshot.generation));
    generations.extend(world.generations.iter().filter(|(_, saved)| saved.class.is_some()).map(|(id, _)| *id));
    for record in views.values().map(|view| &*view.record).chain(world.records.values()) {
        generations.extend(generation_of(&record.place));
    }
    for (id, view) in views {
        if let (Some(Place::Running { vm, .. }), CapsuleStatus::Running) =
            (world.records.get(id).map(|record| &record.place), view.status)
        {
            vms.insert(*vm);
        }
    }
    let there: BTreeSet<Uuid> = world.vms.keys().copied().collect();
    let with_slots: Vec<Uuid> = world.slots.values().copied().collect();
    let mut wrong = Vec::new();
    if there != vms {
        wrong.push(format!("VMs: {there:?} are there, {vms:?} are somebody's"));
    }
    if with_slots.len() != there.len() || with_slots.iter().any(|vm| !there.contains(vm)) {
        wrong.push(format!("slots: {:?} are taken, for VMs {there:?}", world.slots));
    }
    if let Some(id) = world.generations.keys().find(|id| !generations.contains(id)) {
        wrong.push(format!("generation {id} is nobody's"));
    }
    if !world.drafts.is_empty() {
        wrong.push(format!("{} drafts are left", world.drafts.len()));
    }
    for what in wrong {
        world.wrong(what);
    }
}
