//! Preparing a slot: everything a guest needs, done before a guest wants it.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;
use tokio::sync::oneshot;

use crate::address::TAP;
use crate::entrance::Entrance;
use crate::netfilter::Asked;
use crate::nft::NftError;
use crate::policy::Policy;
use crate::range::Pair;
use crate::traffic::Traffic;
use crate::{forwarding, links, namespace, nft, rules, sets};

/// Why a slot could not be prepared, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The namespace.
    #[error("cannot make or remove the network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The TAP device.
    #[error("cannot make the TAP device: {0}")]
    Tap(#[source] io::Error),
    /// A link, address, route or neighbour.
    #[error("cannot set up {what}: {source}")]
    Link {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A kernel setting, thread or socket.
    #[error("cannot set up {what}: {source}")]
    System {
        /// Which.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The firewall.
    #[error("cannot set up the firewall: {0}")]
    Nft(#[from] NftError),
}

/// Names and addresses of the slot to be made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) namespace: String,
    pub(crate) veth: String,
    pub(crate) pair: Pair,
}

/// The host's half of the work.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) entrance: Entrance,
    pub(crate) netlink: Handle,
}

impl Host {
    /// Makes a slot with the default policy. On failure nothing is left.
    pub(crate) async fn prepare(&self, plan: &Plan) -> Result<Arc<OwnedFd>, SetupError> {
        let made = self.try_prepare(plan).await;
        if made.is_err() {
            // The error that made us give up is the one to report.
            let _ = self.remove(plan).await;
        }
        made
    }

    async fn try_prepare(&self, plan: &Plan) -> Result<Arc<OwnedFd>, SetupError> {
        // A link of this name can only be a leftover; the namespace's is replaced anyway.
        self.remove_veth(&plan.veth).await?;
        let namespace = Arc::new(self.build_inside(plan.clone()).await?);
        self.apply(&namespace, &Policy::default()).await?;
        self.connect(plan).await?;
        Ok(namespace)
    }

    async fn build_inside(&self, plan: Plan) -> Result<OwnedFd, SetupError> {
        let host = Arc::clone(self.entrance.host());
        on_thread(move || build_inside(&plan, &host)).await
    }

    /// Gives a slot of an earlier version what it lacks. Returns what was [remembered](Self::remember).
    pub(crate) async fn complete(&self, namespace: &Arc<OwnedFd>) -> Result<Traffic, SetupError> {
        let complete = async |netlink| {
            links::complete(&netlink).await?;
            links::remembered(&netlink).await
        };
        inside(namespace, move || links::with_netlink(complete)).await
    }

    /// Keeps what a slot's counters show between two guests, for whoever adopts it.
    pub(crate) async fn remember(&self, namespace: &Arc<OwnedFd>, counted: Traffic) -> Result<(), SetupError> {
        let remember = async move |netlink| links::remember(&netlink, counted).await;
        inside(namespace, move || links::with_netlink(remember)).await
    }

    /// Puts a policy in force where one is.
    pub(crate) async fn change(&self, namespace: &Arc<OwnedFd>, policy: &Policy) -> io::Result<()> {
        let policy = policy.clone();
        self.ask(namespace, move || sets::fill(&policy)).await
    }

    /// Asks netfilter something inside a namespace.
    pub(crate) async fn ask<F>(&self, namespace: &Arc<OwnedFd>, job: F) -> io::Result<()>
    where
        F: FnOnce() -> io::Result<Asked> + Send + 'static,
    {
        let asked = self.entrance.run(namespace, job).await?;
        // Nobody needs to wait for this.
        tokio::task::spawn_blocking(move || drop(asked));
        Ok(())
    }

    /// Puts the rules and a policy in force, whatever there is.
    pub(crate) async fn apply(&self, namespace: &Arc<OwnedFd>, policy: &Policy) -> Result<(), NftError> {
        let ruleset = rules::inside(policy);
        let namespace = namespace.try_clone()?;
        blocking(move || nft::apply(&ruleset, namespace)).await?
    }

    /// Puts the host's table in force, or takes it away.
    pub(crate) async fn apply_on_host(&self, ruleset: nftables::schema::Nftables<'static>) -> Result<(), NftError> {
        let host = self.entrance.host().try_clone()?;
        blocking(move || nft::apply(&ruleset, host)).await?
    }

    /// Removes a slot, whatever there is of it. Processes that are still inside are cut off.
    pub(crate) async fn remove(&self, plan: &Plan) -> Result<(), SetupError> {
        let links = self.remove_veth(&plan.veth).await;
        namespace::remove(&plan.namespace).map_err(SetupError::Namespace)?;
        links
    }

    async fn remove_veth(&self, name: &str) -> Result<(), SetupError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.netlink.link().del(index).execute().await {
            // Its namespace has ended meanwhile, and the pair with it: the kernel does that in its own time.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(nix::Error::ENODEV as i32) => Ok(()),
            removed => removed.map_err(link("the removal of the veth pair")),
        }
    }

    /// Index of an interface of the host.
    pub(crate) async fn index(&self, name: &str) -> Result<Option<u32>, SetupError> {
        let name = name.to_owned();
        let looked_up = self.entrance.run_on_host(move || match if_nametoindex(name.as_str()) {
            Err(nix::Error::ENODEV | nix::Error::ENXIO) => Ok(None),
            result => Ok(Some(result?)),
        });
        looked_up.await.map_err(system("the veth pair"))
    }

    /// The host's end of the pair. Its strict source check (RFC 3704) drops what does not come from the slot.
    async fn connect(&self, plan: &Plan) -> Result<(), SetupError> {
        let veth = plan.veth.clone();
        let settings = self.entrance.run_on_host(move || {
            forwarding::disable_ipv6(&veth)?;
            forwarding::set_ipv4(&veth, "rp_filter", "1")?;
            forwarding::set_ipv4(&veth, "forwarding", "1")
        });
        settings.await.map_err(system("the veth pair's settings"))?;
        let missing = || system("the veth pair")(io::ErrorKind::NotFound.into());
        let index = self.index(&plan.veth).await?.ok_or_else(missing)?;
        links::up(&self.netlink, index, IpAddr::V4(plan.pair.host), 31).await
    }
}

/// Runs on a thread of its own, which afterwards is inside the namespace.
fn build_inside(plan: &Plan, host: &OwnedFd) -> Result<OwnedFd, SetupError> {
    let made = namespace::create(&plan.namespace).map_err(SetupError::Namespace)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(system("forwarding"))?;
    for scope in ["all", "default"] {
        forwarding::disable_ipv6(scope).map_err(system("IPv6 settings"))?;
    }
    let tap = sys::tap::attach(TAP).map_err(SetupError::Tap)?;
    sys::tap::set_persistent(&tap, true).map_err(SetupError::Tap)?;
    // Without a VMM there is no carrier, and connecting to the guest fails at once instead of losing its first packet.
    // Letting go before the device is up spares the second the kernel may take to notice (`net/core/link_watch.c`),
    // unless a process being started elsewhere holds the descriptor up to its `exec`.
    drop(tap);
    forwarding::set_ipv4(TAP, "ignore_routes_with_linkdown", "1").map_err(system("the TAP device's settings"))?;
    links::with_netlink(async |netlink| links::build(&netlink, plan, host).await)?;
    Ok(made)
}

/// Runs a job inside a namespace that may wait.
async fn inside<T: Send + 'static>(
    namespace: &Arc<OwnedFd>,
    job: impl FnOnce() -> Result<T, SetupError> + Send + 'static,
) -> Result<T, SetupError> {
    let namespace = Arc::clone(namespace);
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| SetupError::Namespace(error.into()))?;
        job()
    })
    .await
}

/// Runs a job that wanders into a namespace, on a thread that ends with it.
async fn on_thread<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, SetupError> + Send + 'static,
) -> Result<T, SetupError> {
    let (answer, result) = oneshot::channel();
    let run = move || {
        // Nobody waits for the answer when the caller has been cancelled.
        let _ = answer.send(job());
    };
    std::thread::Builder::new().name("slot".into()).spawn(run).map_err(system("a thread"))?;
    result.await.map_err(|_| system("a thread")(io::Error::other("it ended early")))?
}

/// Runs a job that starts and awaits a process.
pub(crate) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(job).await.map_err(io::Error::other)
}

pub(crate) fn link(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> SetupError {
    move |source| SetupError::Link { what, source }
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> SetupError {
    move |source| SetupError::System { what, source }
}
