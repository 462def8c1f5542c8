//! Changing what a capsule may reach.

use crate::{Fleet, convert};
use connectrpc::client::CallOptions;
use model::{Capsule, CapsuleId, CapsuleStatus, Code, Egress, Error, TeamId};
use proto::hostagent::v1 as wire;
use std::time::Duration;

/// Limit of one call.
const CALL: Duration = Duration::from_secs(30);
/// How often a host is told again because something changed while it was told.
const TOLD_MAX: usize = 8;

impl Fleet {
    /// Replaces what a capsule may reach; in force on return where it runs. A paused one gets it when it is resumed.
    pub async fn set_egress(&self, team: TeamId, id: CapsuleId, egress: &Egress) -> Result<Capsule, Error> {
        let before = self.when_ready(team, id).await?;
        if !matches!(before.status, CapsuleStatus::Running | CapsuleStatus::Paused) {
            return Err(Error::new(Code::InvalidState, format!("the capsule is {}", before.status)));
        }
        let stored = self.store().change_egress(id, egress).await?.ok_or_else(|| Error::not_found("capsule"))?;
        if stored.status == CapsuleStatus::Paused {
            return Ok(stored);
        }
        // A resume that began before may have taken the former one along.
        let ready = self.when_ready(team, id).await?;
        if ready.status == CapsuleStatus::Running { self.tell_egress(&ready).await } else { Ok(ready) }
    }

    /// Tells the host of a running capsule what it may reach, until what was told is what is stored: of two changes at
    /// once the one that was stored last is the one told last.
    pub(crate) async fn tell_egress(&self, capsule: &Capsule) -> Result<Capsule, Error> {
        let link = self.link(capsule.host)?;
        let (mut now, mut told) = (capsule.clone(), None);
        for _ in 0..TOLD_MAX {
            now = self.store().capsule(capsule.id).await?.ok_or_else(|| Error::not_found("capsule"))?;
            if told.as_ref() == Some(&now.surroundings.egress) {
                break;
            }
            let request = wire::SetEgressRequest {
                sandbox_id: capsule.id.to_string(),
                egress: Some(convert::egress(&now.surroundings.egress)).into(),
                ..Default::default()
            };
            let options = CallOptions::default().with_timeout(CALL);
            let answer = link.rpc().set_egress_with_options(request, options).await;
            answer.map_err(|error| hostlink::error(&error))?;
            told = Some(now.surroundings.egress.clone());
        }
        Ok(now)
    }
}
