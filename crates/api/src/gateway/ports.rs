//! Which capsules take connections now, and where.

use dial::Dialler;
use edge::{Admission, Backend, Refusal, Target};
use fleet::{Fleet, Route, Until};
use model::{CapsuleId, CapsuleStatus, Code, Error, limits};
use tokio::time::Instant;

/// The ports of all capsules of a fleet.
pub struct Ports {
    fleet: Fleet,
}

impl Ports {
    /// Of this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet }
    }

    /// Waits while a capsule is on its way to running, within [`limits::HOLD`].
    async fn running(&self, id: CapsuleId) -> Result<Route, Refusal> {
        let deadline = Instant::now() + limits::HOLD;
        loop {
            let route = self.fleet.route(id).await.map_err(|error| refusal(&error))?;
            match route.status {
                CapsuleStatus::Running => return Ok(route),
                CapsuleStatus::Starting | CapsuleStatus::Resuming | CapsuleStatus::Pausing => {}
                CapsuleStatus::Paused => return Err(Refusal::NotRunning),
                CapsuleStatus::Missing => return Err(Refusal::Unreachable),
                CapsuleStatus::Stopping | CapsuleStatus::Stopped | CapsuleStatus::Error => {
                    return Err(Refusal::Unknown);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refusal::Transitioning);
            }
            self.fleet.wait(id, Until::Settled, left).await.map_err(|error| refusal(&error))?;
        }
    }
}

fn refusal(error: &Error) -> Refusal {
    match error.code {
        Code::NotFound => Refusal::Unknown,
        _ => Refusal::Unreachable,
    }
}

impl Backend for Ports {
    async fn admit(&self, target: Target) -> Result<Admission, Refusal> {
        let link = self.running(target.capsule).await?.link;
        let dialler = Dialler::new(move || {
            let link = link.clone();
            async move { link.dial().await }
        });
        // Which life of the capsule a connection belongs to is the agent's concern.
        Ok(Admission::beyond(dialler))
    }
}
