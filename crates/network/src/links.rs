//! The interfaces inside a slot's namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Once;

use futures_util::TryStreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::address::{
    Cidr, GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, METADATA_ADDRESS, TAP, UPLINK,
};
use crate::setup::{Plan, SetupError, link, system};
use crate::traffic::Traffic;
use crate::{limiter, limits};

/// Talks with the kernel about the calling thread's namespace.
pub(crate) fn with_netlink<T>(talk: impl AsyncFnOnce(Handle) -> Result<T, SetupError>) -> Result<T, SetupError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(system("a runtime"))?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(system("a netlink socket"))?;
        tokio::spawn(connection);
        talk(netlink).await
    })
}

/// Everything a new namespace with a TAP device needs; the other end of its veth pair goes to `host`.
pub(crate) async fn build(netlink: &Handle, plan: &Plan, host: &OwnedFd) -> Result<(), SetupError> {
    let loopback = LinkUnspec::new_with_index(index("lo")?).up().build();
    netlink.link().set(loopback).execute().await.map_err(link("the loopback"))?;

    let tap = index(TAP)?;
    let named =
        LinkUnspec::new_with_index(tap).address(GATEWAY_MAC.into()).txqueuelen(limits::TAP_QUEUE_FRAMES).build();
    netlink.link().set(named).execute().await.map_err(link("the TAP device"))?;
    up(netlink, tap, IpAddr::V4(GATEWAY_ADDRESS), GUEST_PREFIX).await?;
    // Known for ever: a guest just restored need not answer ARP before the first packet reaches it.
    let neighbour = netlink.neighbours().add(tap, IpAddr::V4(GUEST_ADDRESS)).link_layer_address(&GUEST_MAC);
    neighbour.state(NeighbourState::Permanent).execute().await.map_err(link("the guest's neighbour entry"))?;

    let outside = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new()
        .name(plan.veth.clone())
        .setns_by_fd(host.as_raw_fd())
        .build();
    let pair = LinkVeth::new(UPLINK, &plan.veth).set_info_data(InfoData::Veth(InfoVeth::Peer(outside))).build();
    netlink.link().add(pair).execute().await.map_err(link("the veth pair"))?;
    up(netlink, index(UPLINK)?, IpAddr::V4(plan.pair.inside), 31).await?;
    for route in [RouteMessageBuilder::<Ipv4Addr>::new().gateway(plan.pair.host).build(), no_carrier_route()] {
        netlink.route().add(route).execute().await.map_err(link("a route"))?;
    }
    complete(netlink).await
}

/// Whether it has been said that there is no limiter.
static SAID: Once = Once::new();

/// What slots of earlier versions may lack. Nothing changes where it is there.
pub(crate) async fn complete(netlink: &Handle) -> Result<(), SetupError> {
    let metadata = netlink.address().add(index(TAP)?, IpAddr::V4(METADATA_ADDRESS), 32).replace();
    metadata.execute().await.map_err(link("the metadata service's address"))?;
    // A guest without a limit is better than none, and no reason to give up one that runs.
    if let Err(error) = limiter::install(netlink, index(UPLINK)?).await {
        SAID.call_once(
            || tracing::warn!(%error, "guests are not limited in what they send: module sch_tbf of the kernel"),
        );
    }
    Ok(())
}

/// Writes something about the TAP device's past beside it: it lasts as long as the counters do.
pub(crate) async fn remember(netlink: &Handle, counted: Traffic) -> Result<(), SetupError> {
    let alias = serde_json::to_string(&counted).map_err(|error| system("the counters")(error.into()))?;
    let noted = LinkUnspec::new_with_index(index(TAP)?).alias(alias).build();
    netlink.link().set(noted).execute().await.map_err(link("the TAP device's alias"))
}

/// What was [remembered](remember); zeros for a first guest.
pub(crate) async fn remembered(netlink: &Handle) -> Result<Traffic, SetupError> {
    let mut links = netlink.link().get().match_index(index(TAP)?).execute();
    let tap = links.try_next().await.map_err(link("the TAP device"))?;
    let alias = tap.into_iter().flat_map(|tap| tap.attributes).find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias),
        _ => None,
    });
    // An alias that is not ours costs the former guests' share, not the slot.
    Ok(alias.and_then(|alias| serde_json::from_str(&alias).ok()).unwrap_or_default())
}

/// Index of an interface of the calling thread's namespace.
fn index(name: &str) -> Result<u32, SetupError> {
    if_nametoindex(name).map_err(|error| system("the links")(error.into()))
}

/// Stands behind the TAP device's own route and takes its place while there is no carrier: the guest is unreachable
/// then, not behind the default route.
fn no_carrier_route() -> RouteMessage {
    let guests = Cidr::new(GUEST_ADDRESS, GUEST_PREFIX);
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(guests.network(), guests.prefix());
    route.kind(RouteType::Unreachable).priority(u32::MAX).build()
}

/// Gives an interface its address and switches it on.
pub(crate) async fn up(netlink: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<(), SetupError> {
    netlink.address().add(index, address, prefix).execute().await.map_err(link("an address"))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    netlink.link().set(up).execute().await.map_err(link("an interface"))
}
