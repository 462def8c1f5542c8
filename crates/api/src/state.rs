//! What every handler can reach.

use crate::gateway::Ports;
use edge::{Hop, Proxy};
use fleet::Fleet;
use identity::Identity;

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// Capsules.
    pub fleet: Fleet,
    /// Credentials.
    pub identity: Identity,
    /// The way to capsule ports.
    pub ports: Proxy<Ports>,
    /// Shown by `/health`.
    pub version: &'static str,
}

impl ApiState {
    /// Handlers over these.
    pub fn new(fleet: Fleet, identity: Identity, version: &'static str) -> Self {
        let ports = Proxy::new(Ports::new(fleet.clone()), Hop::ToAgent);
        Self { fleet, identity, ports, version }
    }
}
