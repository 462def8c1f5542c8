//! What callers ask of an agent, and which answers they may get.

use crate::agent::Agent;
use crate::clock;
use crate::rules::Known;
use crate::vm::Guest;
use crate::world::World;
use ::agent::actor;
use ::agent::failure::Failure;
use ::agent::handle::How;
use ::agent::operations;
use ::agent::record::{Class, Egress, Identity, Place, Record};
use ::agent::shared::View;
use ::agent::snapshots::SnapshotWish;
use lifecycle::agent::Command;
use model::{CapsuleId, CapsuleStatus, Lifetime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ask {
    Create { id: CapsuleId, template: u128, snapshot: Option<Uuid>, lifetime: Lifetime },
    Pause { id: CapsuleId, discard_memory: bool },
    Resume { id: CapsuleId, discard_memory: bool, lifetime: Option<Lifetime> },
    Destroy(CapsuleId),
    SetLifetime(CapsuleId, Lifetime),
    Snapshot(CapsuleId, SnapshotWish),
    Forget(Uuid),
}

/// Its answer: the capsule, where the answer has it.
pub type Answer = Result<Option<View<Guest>>, Failure>;

impl Ask {
    /// For the tally.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Create { snapshot: None, .. } => ["creates", "creates done", "creates refused"],
            Self::Create { .. } => ["creates of clones", "creates of clones done", "creates of clones refused"],
            Self::Pause { discard_memory: false, .. } => ["pauses", "pauses done", "pauses refused"],
            Self::Pause { .. } => ["pauses of disks", "pauses of disks done", "pauses of disks refused"],
            Self::Resume { discard_memory: false, .. } => ["resumes", "resumes done", "resumes refused"],
            Self::Resume { .. } => ["reboots", "reboots done", "reboots refused"],
            Self::Destroy(_) => ["destroys", "destroys done", "destroys refused"],
            Self::SetLifetime(..) => ["lifetimes", "lifetimes done", "lifetimes refused"],
            Self::Snapshot(..) => ["snapshots", "snapshots done", "snapshots refused"],
            Self::Forget(_) => ["snapshots given up", "snapshots given up done", "snapshots given up refused"],
        }
    }
}

/// Sends a call after a while; who has no patience leaves before the answer.
pub fn send(agent: &Arc<Agent>, ask: Ask, late: Duration, patience: Option<Duration>) {
    let agent = agent.clone();
    agent.host.with(|world| world.calls += 1);
    tokio::spawn(async move {
        tokio::time::sleep(late).await;
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, call(&agent, ask)).await.ok(),
            None => Some(call(&agent, ask).await),
        };
        agent.host.with(|world| {
            world.calls -= 1;
            match answer {
                Some(answer) => judge(world, ask, &answer),
                None => world.tally.count("callers that left"),
            }
        });
    });
}

/// Makes a call and waits for its answer.
pub async fn call(agent: &Agent, ask: Ask) -> Answer {
    agent.host.with(|world| {
        world.say(format!("ask: {ask:?}"));
        world.tally.count(ask.names()[0]);
        match ask {
            Ask::Pause { id, .. } => world.ledger.capsules.entry(id).or_default().pause_asked = true,
            Ask::Destroy(id) => world.ledger.capsules.entry(id).or_default().destroy_asked = true,
            _ => {}
        }
    });
    let (host, registry) = (&agent.host, &agent.registry);
    match ask {
        Ask::Create { id, template, snapshot, lifetime } => {
            let (reply, answer) = oneshot::channel();
            let record = record(id, template, snapshot, lifetime);
            let make = || {
                host.with(|world| world.ledger.capsules.insert(id, Known::default()));
                actor::create(host, registry, record, reply)
            };
            let (handle, new) = registry.get_or_insert(id, make)?;
            let created = if new { answer.await.map_err(|_| Failure::Stopping)? } else { handle.join().await };
            created.map(Some)
        }
        Ask::Pause { id, discard_memory } => {
            let how = How { discard_memory, ..How::default() };
            registry.get(id)?.ask(Command::Pause, how).await.map(Some)
        }
        Ask::Resume { id, discard_memory, lifetime } => {
            let how = How { discard_memory, lifetime, egress: None };
            registry.get(id)?.ask(Command::Resume, how).await.map(Some)
        }
        Ask::Destroy(id) => match registry.get(id) {
            Err(Failure::Damaged(id)) => operations::forget_damaged(host, registry, id).await.map(|()| None),
            handle => handle?.ask(Command::Destroy, How::default()).await.map(Some),
        },
        Ask::SetLifetime(id, lifetime) => registry.get(id)?.set_lifetime(lifetime).await.map(Some),
        Ask::Snapshot(id, snapshot) => registry.get(id)?.snapshot(snapshot).await.map(|_| None),
        Ask::Forget(snapshot) => operations::forget_snapshot(host, snapshot).await.map(|()| None),
    }
}

fn record(id: CapsuleId, template: u128, snapshot: Option<Uuid>, lifetime: Lifetime) -> Record {
    Record {
        id,
        class: Class { template: Uuid::from_u128(template), vcpus: 1, memory_mb: 512 },
        snapshot,
        disk_size_mb: 1_024,
        lifetime,
        identity: Identity::default(),
        egress: Egress { allow_internet: true, allow_out: Vec::new(), deny_out: Vec::new() },
        created_unix_ms: clock::now_ms(),
        versions: BTreeMap::new(),
        reason: None,
        place: Place::Lost,
    }
}

/// Whether the answer is one that this call may get as things are.
pub fn judge(world: &mut World, ask: Ask, answer: &Answer) {
    let names = ask.names();
    world.tally.count(if answer.is_ok() { names[1] } else { names[2] });
    let fits = match answer {
        Ok(view) => reached(world, ask, view.as_ref()),
        Err(failure) => may_fail(world, ask, failure),
    };
    let shown = match answer {
        Ok(view) => view.as_ref().map_or_else(|| "done".to_owned(), |view| view.status.to_string()),
        Err(failure) => failure.to_string(),
    };
    world.say(format!("answer: {ask:?}: {shown}"));
    if !fits {
        world.wrong(format!("{ask:?} is answered: {shown}"));
    }
}

fn reached(world: &World, ask: Ask, view: Option<&View<Guest>>) -> bool {
    use CapsuleStatus as S;
    let Some(view) = view else { return matches!(ask, Ask::Snapshot(..) | Ask::Forget(_) | Ask::Destroy(_)) };
    // The end of a call may be the beginning of a destroy that waited for it.
    let destroyed = view.status == S::Stopping;
    match ask {
        Ask::Create { .. } => view.status != S::Starting,
        Ask::Pause { .. } => {
            matches!(view.record.place, Place::Paused { .. }) && (view.status == S::Paused || destroyed)
        }
        Ask::Resume { .. } => {
            matches!(view.record.place, Place::Running { .. }) && (view.status == S::Running || destroyed)
        }
        // Of the same name there may be a new one only.
        Ask::Destroy(id) => {
            let left = world.records.get(&id);
            view.status == S::Stopped && left.is_none_or(|left| left.created_unix_ms > view.record.created_unix_ms)
        }
        Ask::SetLifetime(_, lifetime) => view.record.lifetime == lifetime,
        Ask::Snapshot(..) | Ask::Forget(_) => false,
    }
}

fn may_fail(world: &World, ask: Ask, failure: &Failure) -> bool {
    use CapsuleStatus as S;
    let on_disk = match ask {
        Ask::Create { id, .. }
        | Ask::Pause { id, .. }
        | Ask::Resume { id, .. }
        | Ask::Destroy(id)
        | Ask::SetLifetime(id, _)
        | Ask::Snapshot(id, _) => world.records.contains_key(&id),
        Ask::Forget(_) => false,
    };
    match failure {
        Failure::State(S::Paused) => !matches!(ask, Ask::Pause { .. } | Ask::Snapshot(..) | Ask::Destroy(_)),
        Failure::State(S::Running) => !matches!(ask, Ask::Resume { .. } | Ask::Snapshot(..) | Ask::Destroy(_)),
        Failure::State(_) => !matches!(ask, Ask::Destroy(_)),
        Failure::Unknown | Failure::Stopping => !on_disk || world.leaving,
        Failure::Space { .. } => true,
        Failure::Damaged(id) => world.damaged.contains(id),
        Failure::Snapshot(_) | Failure::Template(_) => matches!(ask, Ask::Create { snapshot: Some(_), .. }),
        Failure::Incompatible { .. } => {
            matches!(ask, Ask::Create { snapshot: Some(_), .. } | Ask::Resume { .. })
        }
        Failure::Host { why, .. } => {
            let of_clone = matches!(ask, Ask::Create { snapshot: Some(_), .. });
            why.contains("refused by the simulator")
                || why.contains("its VMM ended")
                // A fork of a disk: nobody makes one.
                || (of_clone && why.contains("has no memory"))
                || (of_clone && (why.contains("is gone") || why.contains("is not there")))
        }
        _ => false,
    }
}
