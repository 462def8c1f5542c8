//! Taking over what an earlier agent left: its VMs still run, because their keepers are sessions of their own.
//! Whatever belongs to no record is ended and removed.

use crate::actor;
use crate::environment::{Environment, GuestOf, VirtualMachine};
use crate::limits;
use crate::operations::generation_of;
use crate::record::{Listing, Place, Record};
use crate::registry::Registry;
use crate::told::metadata;
use crate::vm_dirs;
use futures_util::{StreamExt, stream};
use hostlink::SandboxEvent;
use model::EndReason;
use network::{Adoption, Slot};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// The VMs that records name; none while a record is damaged: then nobody knows.
pub fn owned_vms(listing: &Listing) -> Option<HashSet<Uuid>> {
    listing.damaged.is_empty().then(|| listing.records.iter().filter_map(|record| vm_of(&record.place)).collect())
}

/// Ends VMs that no record names: ready ones, and those of a create or destroy that was cut short.
pub async fn end_unowned_vms(listing: &Listing, vms: &Path, runtime: &Path) {
    let Some(mut owned) = owned_vms(listing) else { return };
    for (dir, is_runtime) in [(runtime, true), (vms, false)] {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok());
            let Some(id) = id.filter(|id| !owned.contains(id)) else { continue };
            if is_runtime && let Err(error) = keeper::end(&entry.path()).await {
                tracing::error!(path = %entry.path().display(), %error, "its VMM may still run; left for the next start");
                owned.insert(id);
                continue;
            }
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "left behind");
            }
        }
    }
}

/// VMs of running capsules that are still there, and their slots. A record that outlived its VM, because the loss could not be
/// written down, names a slot that may be another's by now.
pub fn slots_in_use(records: &[Record], is_there: impl Fn(Uuid) -> bool) -> Vec<(Uuid, u16, &Record)> {
    let in_use = records.iter().filter_map(|record| match record.place {
        Place::Running { vm, slot, .. } if is_there(vm) => Some((vm, slot, record)),
        _ => None,
    });
    in_use.collect()
}

/// Re-takes the network slots of running capsules, by VM. A slot that is gone is left out.
pub async fn slots(adoption: &Adoption, records: &[Record], runtime: &Path) -> BTreeMap<Uuid, Slot> {
    let mut kept = BTreeMap::new();
    for (vm, slot, record) in slots_in_use(records, |vm| vm_dirs::runtime_of(runtime, vm).exists()) {
        match adoption.adopt(slot, record.egress.policy()).await {
            Ok(adopted) => {
                adopted.set_metadata(Some(metadata(record)));
                kept.insert(vm, adopted);
            }
            Err(error) => tracing::error!(capsule = %record.id, slot, %error, "network slot lost"),
        }
    }
    kept
}

/// Starts an actor for every record, with its VM where that still runs, and removes generations nobody needs.
pub async fn capsules<H: Environment>(
    host: &Arc<H>,
    registry: &Registry<GuestOf<H>>,
    listing: Listing,
    mut slots: BTreeMap<Uuid, H::Slot>,
) {
    registry.add_damaged(listing.damaged.iter().filter_map(|name| name.parse().ok()));
    let mut wanted = host.adopt_classes().await;
    wanted.extend(host.snapshots().generations());
    let with_slots = listing.records.into_iter().map(|record| {
        let slot = vm_of(&record.place).and_then(|vm| slots.remove(&vm));
        find(host, record, slot)
    });
    // Side by side: all together take as long as the slowest, not as their sum.
    let found: Vec<_> = stream::iter(with_slots).buffer_unordered(limits::ADOPTIONS).collect().await;
    // By where they are now: one that was given up needs nothing any more.
    wanted.extend(found.iter().filter_map(|(record, _)| generation_of(&record.place)));
    // Before any actor runs: a capsule whose lifetime is over pauses at once, into a generation nobody wants yet.
    if !listing.damaged.is_empty() || host.snapshots().are_damaged() {
        host.keep_generations();
    } else if let Err(error) = host.collect_generations(&wanted) {
        tracing::warn!(%error, "generations nobody needs could not be removed");
    }
    for (record, vm) in found {
        let id = record.id;
        if let Err(failure) = registry.get_or_insert(id, || actor::adopt(host, registry, record, vm)) {
            tracing::error!(capsule = %id, %failure, "not adopted");
        }
    }
}

/// The capsule with its VM, where that still runs.
async fn find<H: Environment>(host: &Arc<H>, mut record: Record, slot: Option<H::Slot>) -> (Record, Option<H::Vm>) {
    let vm = match record.place {
        Place::Running { vm, base, booted, .. } => attach(host, &mut record, vm, slot, base.filter(|_| !booted)).await,
        Place::Paused { generation } => {
            if let Err(failure) = host.open_generation(generation).await {
                tracing::error!(capsule = %record.id, %failure, "its generation cannot be opened; it is left alone");
            }
            None
        }
        Place::Lost => None,
    };
    (record, vm)
}

/// Its VM, found again; else what is left of it is freed and its loss written down.
async fn attach<H: Environment>(
    host: &Arc<H>,
    record: &mut Record,
    vm: Uuid,
    slot: Option<H::Slot>,
    base: Option<Uuid>,
) -> Option<H::Vm> {
    let (why, slot) = match slot {
        Some(slot) => match H::Vm::attach(host, record, vm, slot, base).await {
            Ok(vm) => return Some(vm),
            Err((failure, slot)) => (failure.to_string(), Some(slot)),
        },
        None => ("its network slot is gone".to_owned(), None),
    };
    tracing::error!(capsule = %record.id, why, "given up");
    let reason = H::Vm::discard(host, vm, slot).await;
    lose(host, record, reason).await;
    None
}

/// Its VM ended while no agent was there.
async fn lose<H: Environment>(host: &Arc<H>, record: &mut Record, reason: EndReason) {
    record.place = record.without_vm();
    let event = SandboxEvent {
        id: Uuid::now_v7(),
        sandbox_id: record.id.to_string(),
        event: "sandbox.crashed".to_owned(),
        status: record.status().to_string(),
        reason: reason.to_string(),
        timestamp_ms: H::now_ms(),
    };
    record.reason = Some(reason);
    // In this order: after a crash in between it is told twice and not never.
    if let Err(failure) = host.report(event).await {
        tracing::error!(capsule = %record.id, %failure, "event lost: it cannot be written");
    }
    if let Err(failure) = host.save_record(record.clone()).await {
        tracing::error!(capsule = %record.id, %failure, "its loss could not be written down; the next start tries again");
    }
}

fn vm_of(place: &Place) -> Option<Uuid> {
    match place {
        Place::Running { vm, .. } => Some(*vm),
        _ => None,
    }
}
