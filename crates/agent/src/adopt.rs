//! Taking over what an earlier agent left: its VMs still run, because their keepers are sessions of their own.
//! Whatever belongs to no record is ended and removed.

use crate::actor;
use crate::host::Host;
use crate::limits;
use crate::operations::generation_of;
use crate::record::{Listing, Place, Record};
use crate::registry::Registry;
use crate::shared::now_ms;
use crate::told::metadata;
use crate::vm::{Vm, ending};
use crate::vm_dirs::Dirs;
use futures_util::{StreamExt, stream};
use hostlink::SandboxEvent;
use model::EndReason;
use network::{Adoption, Slot};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Ends VMs that no record names: ready ones, and those of a create or destroy that was cut short.
///
/// Nothing is ended while a record is damaged: it may be the one that names the VM.
pub async fn end_unowned_vms(listing: &Listing, vms: &Path, runtime: &Path) {
    if !listing.damaged.is_empty() {
        return;
    }
    let owned: HashSet<Uuid> = listing.records.iter().filter_map(|record| vm_of(&record.place)).collect();
    for (dir, is_runtime) in [(runtime, true), (vms, false)] {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok());
            if id.is_none_or(|id| owned.contains(&id)) {
                continue;
            }
            if is_runtime && let Ok(Some(keeper)) = keeper::attach(&entry.path()) {
                let _ = keeper.kill().await;
            }
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "left behind");
            }
        }
    }
}

/// Re-takes the network slots of running capsules. A slot that is gone is left out.
pub async fn slots(adoption: &Adoption, records: &[Record]) -> HashMap<u16, Slot> {
    let mut kept = HashMap::new();
    for record in records {
        let Place::Running { slot, .. } = record.place else { continue };
        match adoption.adopt(slot, record.egress.policy()).await {
            Ok(adopted) => {
                adopted.set_metadata(Some(metadata(record)));
                kept.insert(slot, adopted);
            }
            Err(error) => tracing::error!(capsule = %record.id, slot, %error, "network slot lost"),
        }
    }
    kept
}

/// Starts an actor for every record, with its VM where that still runs, and removes generations nobody needs.
pub async fn capsules(host: &Arc<Host>, registry: &Registry, listing: Listing, mut slots: HashMap<u16, Slot>) {
    registry.add_damaged(listing.damaged.iter().filter_map(|name| name.parse().ok()));
    let mut wanted = host.classes.adopt(host).await;
    wanted.extend(host.snapshots.generations());
    let with_slots = listing.records.into_iter().map(|record| {
        let slot = match record.place {
            Place::Running { slot, .. } => slots.remove(&slot),
            _ => None,
        };
        find(host, record, slot)
    });
    // Side by side: all together take as long as the slowest, not as their sum.
    let found: Vec<_> = stream::iter(with_slots).buffer_unordered(limits::ADOPTIONS).collect().await;
    // By where they are now: one that was given up needs nothing any more.
    wanted.extend(found.iter().filter_map(|(record, _)| generation_of(&record.place)));
    // Before any actor runs: a capsule whose lifetime is over pauses at once, into a generation nobody wants yet.
    if listing.damaged.is_empty()
        && !host.snapshots.are_damaged()
        && let Err(error) = host.shelf.collect(&wanted)
    {
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
async fn find(host: &Arc<Host>, mut record: Record, slot: Option<Slot>) -> (Record, Option<Vm>) {
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
async fn attach(host: &Arc<Host>, record: &mut Record, vm: Uuid, slot: Option<Slot>, base: Option<Uuid>) -> Option<Vm> {
    let (why, slot) = match slot {
        Some(slot) => match Vm::attach(host, record, vm, slot, base).await {
            Ok(vm) => return Some(vm),
            Err((failure, slot)) => (failure.to_string(), Some(slot)),
        },
        None => ("its network slot is gone".to_owned(), None),
    };
    tracing::error!(capsule = %record.id, why, "given up");
    // Before what is left of it is removed: its last words are in there.
    let reason = ending::ended_unseen(vm, &Dirs::of(host, vm).runtime);
    Vm::discard(host, vm, slot).await;
    lose(host, record, reason);
    None
}

/// Its VM ended while no agent was there.
fn lose(host: &Host, record: &mut Record, reason: EndReason) {
    record.place = record.without_vm();
    let event = SandboxEvent {
        id: Uuid::now_v7(),
        sandbox_id: record.id.to_string(),
        event: "sandbox.crashed".to_owned(),
        status: record.status().to_string(),
        reason: reason.to_string(),
        timestamp_ms: now_ms(),
    };
    record.reason = Some(reason);
    if let Err(error) = host.records.save(record).and_then(|()| host.events.add(&event)) {
        tracing::error!(capsule = %record.id, %error, "its loss could not be written down");
    }
}

fn vm_of(place: &Place) -> Option<Uuid> {
    match place {
        Place::Running { vm, .. } => Some(*vm),
        _ => None,
    }
}
