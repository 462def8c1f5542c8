//! Finding and removing what an instance has on this host.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::link::LinkAttribute;

use crate::address::Cidr;
use crate::entrance::Entrance;
use crate::instance::InstanceId;
use crate::nft::NftError;
use crate::range::{self, Pair};
use crate::setup::{Host, Plan, SetupError, link, system};
use crate::slot::SlotIndex;
use crate::{limits, namespace, rules};

/// Why something of the instance may still be on this host.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// What there is cannot be found out.
    #[error("cannot list what there is: {0}")]
    List(#[source] SetupError),
    /// Slots that could not be removed, and the first reason.
    #[error("{slots} slots cannot be removed, the first because of this: {source}")]
    Slots {
        /// How many.
        slots: usize,
        /// Why the first one could not.
        source: SetupError,
    },
    /// The firewall table.
    #[error("cannot remove the firewall table: {0}")]
    Nft(#[from] NftError),
    /// The file with the address range.
    #[error("cannot remove the file with the address range: {0}")]
    Range(#[source] io::Error),
}

/// Removes everything the instance has on this host: namespaces, links, the firewall table, the address range. What
/// does not exist is fine. For hosts on which no agent of the instance runs.
pub async fn destroy_all(instance: &InstanceId, wrenn_dir: &Path) -> Result<(), DestroyError> {
    let host = host().map_err(|error| DestroyError::List(system("the host")(error)))?;
    destroy(&host, instance, wrenn_dir).await
}

/// The namespace of the calling thread as the host.
pub(crate) fn host() -> io::Result<Host> {
    let entrance = Entrance::start()?;
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(Host { entrance, netlink })
}

pub(crate) async fn destroy(host: &Host, instance: &InstanceId, wrenn_dir: &Path) -> Result<(), DestroyError> {
    let existing = existing(host, instance).await.map_err(DestroyError::List)?;
    // Removal goes by name: the addresses do not matter.
    let pair = range::pair(Cidr::new(std::net::Ipv4Addr::UNSPECIFIED, 0), 0);
    let failed = remove(host, existing.into_iter().map(|index| (index, named(instance, index, pair)))).await;
    match host.apply_on_host(rules::without_host(instance)).await {
        // Without the tool there was never a table.
        Ok(()) | Err(NftError::NoTool) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(range::file(wrenn_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(DestroyError::Range(error)),
        _ => {}
    }
    let slots = failed.len();
    match failed.into_iter().next() {
        Some((_, source)) => Err(DestroyError::Slots { slots, source }),
        None => Ok(()),
    }
}

fn named(instance: &InstanceId, index: SlotIndex, pair: Pair) -> Plan {
    Plan { namespace: instance.namespace(index), veth: instance.veth(index), pair }
}

/// Every slot of which a namespace or a veth pair is there.
pub(crate) async fn existing(host: &Host, instance: &InstanceId) -> Result<BTreeSet<SlotIndex>, SetupError> {
    let mut found: BTreeSet<_> =
        namespace::names().map_err(SetupError::Namespace)?.iter().filter_map(|name| instance.slot_of(name)).collect();
    let mut links = host.netlink.link().get().execute();
    while let Some(message) = links.try_next().await.map_err(link("the list of links"))? {
        found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => instance.slot_of(name),
            _ => None,
        }));
    }
    Ok(found)
}

/// Removes slots and returns those that could not be.
pub(crate) async fn remove(
    host: &Host,
    plans: impl Iterator<Item = (SlotIndex, Plan)>,
) -> Vec<(SlotIndex, SetupError)> {
    let removals = plans.map(|(index, plan)| async move { host.remove(&plan).await.err().map(|error| (index, error)) });
    let removals = futures_util::stream::iter(removals).buffer_unordered(limits::PARALLEL_SETUPS);
    removals.filter_map(|failure| async { failure }).collect().await
}
