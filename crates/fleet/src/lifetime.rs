//! Changing when a capsule ends by itself.

use crate::{Fleet, convert};
use connectrpc::client::CallOptions;
use model::{Capsule, CapsuleId, CapsuleStatus, Code, Error, Lifetime, TeamId};
use proto::hostagent::v1 as wire;
use std::time::Duration;

/// Limit of one call.
const CALL: Duration = Duration::from_secs(15);
/// How often a lifetime is told again because it changed while it was told.
const TOLD_MAX: usize = 8;

impl Fleet {
    /// Replaces a capsule's lifetime. A paused one gets it when it is resumed.
    pub async fn set_lifetime(&self, team: TeamId, id: CapsuleId, lifetime: Lifetime) -> Result<Capsule, Error> {
        self.change_lifetime(team, id, move |_| Some(lifetime)).await
    }

    /// Makes a capsule live at least as long as `lifetime` says; never shorter than it does now.
    pub async fn extend_lifetime(&self, team: TeamId, id: CapsuleId, lifetime: Lifetime) -> Result<Capsule, Error> {
        self.change_lifetime(team, id, move |now| is_longer(lifetime, now).then_some(lifetime)).await
    }

    async fn change_lifetime(
        &self,
        team: TeamId,
        id: CapsuleId,
        change: impl FnOnce(Lifetime) -> Option<Lifetime> + Send + 'static,
    ) -> Result<Capsule, Error> {
        let fleet = self.clone();
        self.to_its_end(async move { fleet.change_through(team, id, change).await }).await
    }

    async fn change_through(
        &self,
        team: TeamId,
        id: CapsuleId,
        change: impl FnOnce(Lifetime) -> Option<Lifetime> + Send,
    ) -> Result<Capsule, Error> {
        let before = self.when_ready(team, id).await?;
        if !matches!(before.status, CapsuleStatus::Running | CapsuleStatus::Paused) {
            return Err(Error::new(Code::InvalidState, format!("the capsule is {}", before.status)));
        }
        let after = self.store().change_lifetime(id, change).await?.ok_or_else(|| Error::not_found("capsule"))?;
        if after.lifetime != before.lifetime && after.status == CapsuleStatus::Running {
            return self.tell_lifetime(&after).await;
        }
        Ok(after)
    }

    /// Tells the host of a running capsule when it ends, until what was told is what is stored: of two changes at
    /// once the one that was stored last is the one told last.
    pub(crate) async fn tell_lifetime(&self, capsule: &Capsule) -> Result<Capsule, Error> {
        let link = self.link(capsule.host)?;
        let mut told = capsule.clone();
        for _ in 0..TOLD_MAX {
            let request = wire::SetLifetimeRequest {
                sandbox_id: told.id.to_string(),
                lifetime: Some(convert::lifetime(told.lifetime)).into(),
                ..Default::default()
            };
            let options = CallOptions::default().with_timeout(CALL);
            let answer = link.rpc().set_lifetime_with_options(request, options).await;
            answer.map_err(|error| hostlink::error(&error))?;
            let now = self.store().capsule(told.id).await?.ok_or_else(|| Error::not_found("capsule"))?;
            if now.lifetime == told.lifetime {
                return Ok(now);
            }
            told = now;
        }
        Ok(told)
    }
}

/// A lifetime of inactivity has no end that could be compared, so it is never given up for one that has.
fn is_longer(new: Lifetime, now: Lifetime) -> bool {
    match (new, now) {
        (Lifetime::Until { unix_ms: new, .. }, Lifetime::Until { unix_ms: now, .. }) => new > now,
        (Lifetime::Until { .. }, Lifetime::Idle { .. }) => false,
        (Lifetime::Idle { ttl_s: 0 }, _) | (Lifetime::Idle { .. }, Lifetime::Until { .. }) => true,
        (Lifetime::Idle { ttl_s: new }, Lifetime::Idle { ttl_s: now }) => now != 0 && new > now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::lifetime::AtEnd;

    #[test]
    fn never_shorter() {
        let until = |unix_ms| Lifetime::Until { unix_ms, at_end: AtEnd::Kill };
        let idle = |ttl_s| Lifetime::Idle { ttl_s };
        let rows = [
            (until(10), until(9), true),
            (until(9), until(9), false),
            (until(8), until(9), false),
            (until(u64::MAX), idle(0), false),
            (until(9), idle(60), false),
            (idle(0), until(9), true),
            (idle(60), idle(0), false),
            (idle(0), idle(60), true),
            (idle(60), idle(30), true),
            (idle(30), idle(60), false),
        ];
        for (new, now, want) in rows {
            assert_eq!(is_longer(new, now), want, "{new:?} {now:?}");
        }
    }
}
