//! A slot in the hands of its owner.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpSocket, TcpStream};

use crate::address::GUEST_ADDRESS;
use crate::dns::Upstream;
use crate::entrance::Entrance;
use crate::metadata::Metadata;
use crate::policy::{Policy, PolicyError};
use crate::setup::{Host, SetupError, system};
use crate::traffic::{Meter, Traffic};
use crate::{dns, metadata, namespace};

/// Number of a slot: 1 to [`crate::MAX_SLOTS`].
pub type SlotIndex = u16;

/// A slot that is prepared and belongs to nobody.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) index: SlotIndex,
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) namespace: Arc<OwnedFd>,
    /// What its counters showed when its last guest had gone.
    pub(crate) counted: Traffic,
}

/// A guest's network. Dropping it without [release](crate::Network::release) leaves everything in place for
/// [adoption](crate::Adoption::adopt) after a restart, except its name server and metadata.
pub struct Slot {
    prepared: Prepared,
    policy: Policy,
    names: dns::Server,
    metadata: metadata::Server,
    host: Host,
}

impl Slot {
    /// Starts what the guest asks for names and metadata; all else is prepared ahead.
    pub(crate) async fn occupy(
        prepared: Prepared,
        policy: Policy,
        host: Host,
        upstream: Arc<Upstream>,
    ) -> Result<Self, SetupError> {
        let names = dns::Server::start(&host.entrance, &prepared.namespace, upstream, policy.resolves_names());
        let metadata = metadata::Server::start(&host.entrance, &prepared.namespace);
        let (names, metadata) = tokio::join!(names, metadata);
        let names = names.map_err(system("the name server"))?;
        let metadata = metadata.map_err(system("the metadata service"))?;
        Ok(Self { prepared, policy, names, metadata, host })
    }

    pub(crate) fn vacate(self) -> (Prepared, Policy) {
        (self.prepared, self.policy)
    }

    /// Its number: what to keep for [adoption](crate::Adoption::adopt).
    pub fn index(&self) -> SlotIndex {
        self.prepared.index
    }

    /// A number below 2^27 that no other slot of this host has, of whichever installation.
    pub fn number(&self) -> u32 {
        self.prepared.number
    }

    /// Name of its namespace, as ip-netns(8) knows it.
    pub fn namespace(&self) -> &str {
        &self.prepared.name
    }

    /// Path of its namespace.
    pub fn namespace_path(&self) -> PathBuf {
        namespace::path(&self.prepared.name)
    }

    /// A descriptor of its namespace, for starting the VMM inside.
    pub fn namespace_fd(&self) -> io::Result<OwnedFd> {
        self.prepared.namespace.try_clone()
    }

    /// A handle for reaching the guest.
    pub fn dialler(&self) -> Dialler {
        Dialler { entrance: self.host.entrance.clone(), namespace: Arc::clone(&self.prepared.namespace) }
    }

    /// See [`Dialler::dial`].
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        self.dialler().dial(port).await
    }

    /// A handle for reading what the guest sent and received.
    pub fn meter(&self) -> Meter {
        Meter::new(self.host.entrance.clone(), Arc::clone(&self.prepared.namespace), self.prepared.counted)
    }

    /// See [`Meter::read`].
    pub async fn traffic(&self) -> io::Result<Traffic> {
        self.meter().read().await
    }

    /// What the guest is told when it asks at [`METADATA_ADDRESS`](crate::METADATA_ADDRESS) from now on. Until it is
    /// set, in an acquired slot as in an adopted one, the guest finds nothing there.
    pub fn set_metadata(&self, metadata: Option<Metadata>) {
        self.metadata.set(metadata);
    }

    /// What the guest may reach.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Changes what the guest may reach, for flows that exist as well. On an error the former policy stays in force.
    pub async fn set_policy(&mut self, policy: Policy) -> Result<(), PolicyError> {
        policy.check()?;
        if policy != self.policy {
            self.host.change(&self.prepared.namespace, &policy).await?;
            self.names.set_resolves(policy.resolves_names());
            self.policy = policy;
        }
        Ok(())
    }
}

/// Reaches a guest from the host. Cheap to clone.
#[derive(Clone)]
pub struct Dialler {
    entrance: Entrance,
    namespace: Arc<OwnedFd>,
}

impl Dialler {
    /// Connects to a port of the guest, without delay of small packets (`TCP_NODELAY`).
    ///
    /// There is no timeout but the kernel's (two minutes): bound it. Trying again beats waiting, since a lost first
    /// packet is repeated after a second only. While no VMM holds the TAP device it fails at once.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let make = || {
            Ok(rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?)
        };
        let socket = self.entrance.run(&self.namespace, make).await?;
        let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
        socket.set_nodelay(true)?;
        socket.connect(SocketAddr::from((GUEST_ADDRESS, port))).await
    }
}
