//! The one file of the doctor that asks `agent` and `image`.

use super::Plan;
use agent::survey::{self, Obstacle, Uplink};
use std::io;
use std::path::PathBuf;

pub use agent::survey::{MAX_FLOWS, Machines, NoFirecracker, Tier, Unloadable};

/// The guests' kernel, if something is to be learnt by booting it.
pub fn kernel_to_try(plan: &Plan) -> Option<PathBuf> {
    survey::kernel_to_try(&plan.dir, &plan.vmm, &image::Source::from_env())
}

/// The VMMs; tries KVM if the plan has time for that and nobody has yet.
pub async fn vmm(plan: &Plan) -> Machines {
    let kernel = plan.thorough.then(|| kernel_to_try(plan)).flatten();
    survey::vmm(&plan.dir, &plan.vmm, kernel.as_deref()).await
}

/// Paused capsules whose memory cannot be loaded here.
pub fn unloadable(plan: &Plan) -> Unloadable {
    survey::unloadable(&plan.dir, &plan.vmm, &image::Source::from_env())
}

/// Chains of other firewalls in the way: name and the command that opens it.
pub async fn firewalls(plan: &Plan) -> Result<Vec<Obstacle>, String> {
    survey::firewalls(&plan.dir).await
}

/// Makes a network for a guest and removes it.
pub async fn rehearse_network() -> Result<(), String> {
    survey::rehearse_network().await
}

/// Interfaces that lead out.
pub fn uplinks() -> io::Result<Vec<Uplink>> {
    survey::uplinks()
}

/// Routes of others over the addresses of guests' networks.
pub fn collisions(plan: &Plan) -> io::Result<Vec<String>> {
    survey::collisions(&plan.dir)
}

/// Name servers, and why they give no answers; none if the plan has no time for that.
pub async fn resolvers(plan: &Plan) -> Option<Vec<(String, Option<String>)>> {
    if plan.thorough { Some(survey::resolvers().await) } else { None }
}
