//! Clones of a running capsule: one snapshot on its host, any number of ordinary creates that begin as its clones, and the
//! snapshot is given up. Whatever of this a server leaves undone, the creates are operations like all others, and a
//! snapshot that nobody waits for any more is given up by the next look at its host.

use crate::fleet::{no_host, random_token, stopping};
use crate::{Fleet, Fork, schedule};
use chrono::Utc;
use connectrpc::client::CallOptions;
use futures_util::{StreamExt, stream};
use hostlink::AgentLink;
use model::{Capsule, CapsuleId, Error, HostId, TeamId};
use proto::hostagent::v1 as wire;
use std::time::Duration;
use store::{HostLoad, NewCapsule};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// Clones begun at a time.
const STARTS: usize = 4;
/// Limit of giving one up.
const DELETE_CALL: Duration = Duration::from_secs(30);
/// A snapshot older than this is nobody's: longer than it takes to make it, and than a create may be tried
/// ([`lifecycle::server::Operation::limit_ms`]), together.
const FORGOTTEN_AFTER_S: u64 = 30 * 60;

impl Fleet {
    /// Makes clones of a running capsule, which goes on. Each is a capsule of its own with the memory, processes and disk
    /// of that moment; one that could not be made is an error beside the others. When the caller leaves they are destroyed:
    /// nobody has their ids.
    pub async fn fork(&self, team: TeamId, id: CapsuleId, how: Fork) -> Result<Vec<Result<Capsule, Error>>, Error> {
        let source = self.running(team, id).await?;
        let (sender, answer) = oneshot::channel();
        let fleet = self.clone();
        self.spawn(async move {
            let made = fleet.fork_through(&source, how).await;
            if let Err(Ok(unwanted)) = sender.send(made) {
                fleet.abandon(unwanted).await;
            }
        });
        answer.await.map_err(|_| stopping())?
    }

    async fn fork_through(&self, source: &Capsule, how: Fork) -> Result<Vec<Result<Capsule, Error>>, Error> {
        let deadline = Instant::now() + how.limit;
        let link = self.link(source.host)?;
        // Before the capsule is disturbed for clones that have no place.
        if !self.store().loads().await?.iter().any(|load| has_room(load, source)) {
            return Err(no_host(source.size));
        }
        let snapshot = Uuid::now_v7();
        let request = wire::SnapshotSandboxRequest {
            sandbox_id: source.id.to_string(),
            snapshot_id: snapshot.to_string(),
            ..Default::default()
        };
        let taken = link.rpc().snapshot_sandbox_with_options(request, within(how.limit)).await;
        let taken = match taken {
            Ok(taken) => taken.into_owned(),
            Err(error) => {
                delete(&link, snapshot).await;
                return Err(hostlink::error(&error));
            }
        };
        tracing::info!(capsule = %source.id, %snapshot, standstill_us = taken.standstill_us, "snapshot taken");
        // A few at a time: each must have heard who it is before its watchdog lets it run, 10 s after it begins to.
        let clones = stream::iter(0..how.count).map(|_| async {
            let clone = self.place_clone(source, snapshot, how).await?;
            self.started(clone, deadline.saturating_duration_since(Instant::now())).await
        });
        let clones = clones.buffered(STARTS).collect().await;
        delete(&link, snapshot).await;
        Ok(clones)
    }

    async fn abandon(&self, clones: Vec<Result<Capsule, Error>>) {
        for clone in clones.into_iter().flatten() {
            if let Err(error) = self.destroy(clone.team, clone.id).await {
                tracing::warn!(capsule = %clone.id, %error, "a clone nobody waited for could not be destroyed");
            }
        }
    }

    /// On the source's host: the snapshot is nowhere else.
    async fn place_clone(&self, source: &Capsule, snapshot: Uuid, how: Fork) -> Result<Capsule, Error> {
        let new = NewCapsule {
            id: CapsuleId::random(),
            team: source.team,
            template: source.template.clone(),
            template_id: source.template_id,
            snapshot: Some(snapshot),
            size: source.size,
            lifetime: how.lifetime.unwrap_or(source.lifetime),
            surroundings: source.surroundings.clone(),
            access_token: random_token(),
            metadata: source.metadata.clone(),
        };
        self.place(new, |loads| loads.iter().find(|load| has_room(load, source)).map(|load| load.host.id)).await
    }

    /// Gives up what a server that ended left behind on a host. Templates stay.
    pub(crate) async fn forget_snapshots(
        &self,
        host: HostId,
        link: &AgentLink,
        listed: &[String],
    ) -> Result<(), Error> {
        let templates = self.store().templates_on(host).await?;
        let now_s = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
        let listed = listed.iter().filter_map(|text| Uuid::parse_str(text).ok());
        for id in listed.filter(|id| is_forgotten(*id, now_s) && !templates.contains(id)) {
            tracing::warn!(snapshot = %id, "a snapshot that nobody waits for is given up");
            delete(link, id).await;
        }
        Ok(())
    }
}

/// Whether this is the source's host, and has room for one more like it.
fn has_room(load: &HostLoad, source: &Capsule) -> bool {
    load.host.id == source.host && schedule::fits(load, source.size)
}

pub(crate) async fn delete(link: &AgentLink, snapshot: Uuid) {
    let request = wire::DeleteSnapshotRequest { snapshot_id: snapshot.to_string(), ..Default::default() };
    if let Err(error) = link.rpc().delete_snapshot_with_options(request, within(DELETE_CALL)).await {
        tracing::warn!(%snapshot, %error, "a snapshot could not be given up; a later look at its host does it");
    }
}

/// Whether it is so old that nobody waits for it. Only ids of version 7 tell; others are not ours.
fn is_forgotten(id: Uuid, now_s: u64) -> bool {
    id.get_timestamp().is_some_and(|taken| taken.to_unix().0 + FORGOTTEN_AFTER_S < now_s)
}

pub(crate) fn within(limit: Duration) -> CallOptions {
    CallOptions::default().with_timeout(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::{NoContext, Timestamp};

    #[test]
    fn only_old_snapshots_are_forgotten() {
        let taken = |s| Uuid::new_v7(Timestamp::from_unix(NoContext, s, 0));
        let now_s = 1_800_000_000;
        for (id, forgotten) in [
            (taken(now_s), false),
            (taken(now_s - FORGOTTEN_AFTER_S), false),
            (taken(now_s - FORGOTTEN_AFTER_S - 1), true),
            (taken(now_s + 100), false),
            (Uuid::new_v4(), false),
            (Uuid::nil(), false),
        ] {
            assert_eq!(is_forgotten(id, now_s), forgotten, "{id}");
        }
    }
}
