//! Slots, namespaces, TAP devices, firewall, egress policy, guest DNS and metadata.
//!
//! Knows: how to give a guest a network of its own. A *slot* is a named network namespace with a TAP device for the
//! VMM, a veth pair to the host, a firewall that lives and dies with the namespace, a limit on what the guest sends,
//! and, at the guest's gateway, a name server and a service that tells the guest about itself. Slots are prepared
//! ahead ([`Network`]); taking one that is ready costs no process and no netlink call. The guest always
//! has the same addresses, so that one memory image runs in any slot; the agent reaches it through sockets made
//! inside the namespace ([`Dialler`]), without address translation.
//! Must never know: capsules, templates, VMMs, RPC.
//!
//! Everything visible on the host carries the instance id: two instances on one machine do not meet.

mod address;
mod connections;
mod conntrack;
mod dns;
mod entrance;
mod firewall;
mod forwarding;
mod instance;
mod limiter;
mod limits;
mod links;
mod listener;
mod metadata;
mod namespace;
mod netfilter;
mod network;
mod nft;
mod policy;
mod range;
mod reclaim;
mod rehearsal;
mod rules;
mod sets;
mod setup;
mod slot;
mod stock;
mod traffic;

pub use address::{
    BadCidr, Cidr, GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, METADATA_ADDRESS, TAP,
};
pub use dns::{Resolvers, try_resolvers};
pub use firewall::{Finding, Firewall, host_firewalls};
pub use forwarding::{Uplink, find_uplinks};
pub use instance::{BadInstanceId, InstanceId};
pub use limits::{MAX_FLOWS, MAX_SLOTS};
pub use metadata::Metadata;
pub use network::{AcquireError, AdoptError, Adoption, Network, NetworkOptions, OpenError, Orphans};
pub use nft::NftError;
pub use policy::{BadPolicy, Policy, PolicyError};
pub use range::collisions;
pub use reclaim::{DestroyError, destroy_all};
pub use rehearsal::rehearse;
pub use setup::SetupError;
pub use slot::{Dialler, Slot, SlotIndex};
pub use traffic::{Meter, Traffic};
