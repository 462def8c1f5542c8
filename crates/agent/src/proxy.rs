//! The way from the host to ports of guests: `/proxy/{capsule}/{port}/…`.

use crate::failure::Failure;
use crate::registry::Registry;
use edge::{Admission, Backend, GUEST_DAEMON_PORT, Refusal, Target};
use model::CapsuleStatus;

/// Finds the guest of a proxied request. A request counts as activity while it lasts.
#[derive(Clone)]
pub struct Guests(pub Registry);

impl Backend for Guests {
    async fn admit(&self, target: Target) -> Result<Admission, Refusal> {
        let handle = self.0.get(target.capsule).map_err(|_| Refusal::Unknown)?;
        let lease = handle.shared.lease(model::limits::HOLD).await.map_err(|failure| match failure {
            Failure::State(status) if status.is_transient() && status != CapsuleStatus::Stopping => {
                Refusal::Transitioning
            }
            Failure::State(CapsuleStatus::Paused) => Refusal::NotRunning,
            _ => Refusal::Unknown,
        })?;
        let (dialler, port) = (lease.guest.dialler.clone(), target.port);
        Ok(Admission {
            generation: lease.guest.life,
            gone: lease.guest.gone.clone(),
            dialler: dial::Dialler::new(move || {
                let dialler = dialler.clone();
                async move { dialler.dial(port).await }
            }),
            lease: Box::new(lease),
        })
    }
}

const _: () = assert!(GUEST_DAEMON_PORT == guestlink::PORT);
