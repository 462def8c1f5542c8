//! Start of an agent on the simulated host: what `agent`'s own start does, by the same decisions.

use crate::host::{Host, Slot};
use crate::vm::Guest;
use crate::world::{Defect, Shared};
use ::agent::adopt;
use ::agent::record::Listing;
use ::agent::registry::Registry;
use ::agent::snapshots::{self, Snapshots};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A running agent.
pub struct Agent {
    pub host: Arc<Host>,
    pub registry: Registry<Guest>,
}

impl Agent {
    /// The host for the next agent. What the last one had in memory is no more.
    pub fn host(shared: &Shared, number: u32) -> Arc<Host> {
        let mut world = shared.lock();
        world.agent = Some(number);
        world.pins.clear();
        world.busy.clear();
        world.under_way = 0;
        world.calls = 0;
        world.late = None;
        world.drafts.clear();
        world.keeps_all = !world.damaged.is_empty();
        let snapshots = Snapshots::new(snapshots::Listing {
            snapshots: world.snapshots.values().cloned().collect(),
            damaged: false,
        });
        Host::new(shared.clone(), number, snapshots, world.draining)
    }

    /// Finds the capsules of earlier agents.
    pub async fn start(host: &Arc<Host>) -> Self {
        let listing = host.with(|world| {
            let readable = world.records.values().filter(|record| !world.damaged.contains(&record.id));
            let damaged = world.damaged.iter().map(ToString::to_string).collect();
            Listing { records: readable.cloned().collect(), damaged }
        });
        let listing = listing.unwrap_or_default();
        end_unowned_vms(host, &listing).await;
        let slots = slots(host, &listing).await;
        let registry = Registry::default();
        adopt::capsules(host, &registry, listing, slots).await;
        Self { host: host.clone(), registry }
    }
}

async fn end_unowned_vms(host: &Arc<Host>, listing: &Listing) {
    let Some(owned) = adopt::owned_vms(listing) else { return };
    let found = host.with(|world| world.vms.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    for vm in found.into_iter().filter(|vm| !owned.contains(vm)) {
        host.moment("ending a VM that no record names").await;
        host.with(|world| {
            if world.defect != Some(Defect::KeptVm) {
                world.vms.remove(&vm);
            }
        });
    }
}

/// Slots of running capsules; the others are removed.
async fn slots(host: &Arc<Host>, listing: &Listing) -> BTreeMap<Uuid, Slot> {
    host.moment("adopting slots").await;
    let kept = host.with(|world| {
        let in_use =
            adopt::slots_in_use(&listing.records, |vm| world.vms.get(&vm).is_some_and(|process| process.runtime));
        let in_use: BTreeMap<Uuid, u16> = in_use.into_iter().map(|(vm, slot, _)| (vm, slot)).collect();
        // Of a slot that is named, its namespace has to be there.
        let named: BTreeMap<Uuid, u16> =
            in_use.into_iter().filter(|(_, slot)| world.slots.contains_key(slot)).collect();
        world.slots.retain(|slot, _| world.keeps_all || named.values().any(|kept| kept == slot));
        named.into_iter().map(|(vm, slot)| (vm, Slot(slot))).collect()
    });
    kept.unwrap_or_default()
}
