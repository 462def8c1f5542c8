//! A server's fleet on a real database, with the test's agent as its host.

use crate::agent::{Agent, Serving};
use bus::Bus;
use fleet::{Create, Fleet, LocalHost, Surface};
use model::{Capsule, CapsuleId, CapsuleStatus, Egress, HostId, HostStatus, Lifetime, Secret, TeamId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use store::{Options, Store};

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_mins(1);
pub const TEAM: TeamId = TeamId::PLATFORM;

pub struct Server {
    pub fleet: Fleet,
    pub agent: Agent,
    pub host: HostId,
    pub store: Store,
    socket: PathBuf,
    serving: Option<Serving>,
    _directory: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { directory: directory.path().to_owned(), database_url: None };
        let store = Store::open(&options).await.unwrap();
        let agent = Agent::new();
        let socket = directory.path().join("agent.sock");
        let serving = Some(agent.serve(&socket));
        let fleet = Fleet::start(store.clone(), Bus::default());
        let server = Self { fleet, agent, host: HostId::random(), store, socket, serving, _directory: directory };
        server.add_host().await;
        server
    }

    /// A server after this one, on the same data: the old one is stopped without waiting for anything.
    pub async fn restart(&mut self) {
        self.fleet.shutdown(Duration::ZERO).await;
        self.fleet = Fleet::start(self.store.clone(), Bus::default());
        self.add_host().await;
    }

    async fn add_host(&self) {
        let (socket, token) = (self.socket.clone(), Secret::new("host token"));
        self.fleet.add_local_host(LocalHost { socket, id: self.host, token }).await.unwrap();
        self.host_becomes(HostStatus::Online).await;
    }

    /// Waits until the host has this status.
    pub async fn host_becomes(&self, status: HostStatus) {
        while self.fleet.hosts().await.unwrap()[0].status != status {
            tokio::task::yield_now().await;
        }
    }

    pub fn stop_agent(&mut self) {
        self.serving = None;
    }

    pub fn start_agent(&mut self) {
        self.serving = Some(self.agent.serve(&self.socket));
    }

    pub async fn create(&self) -> Capsule {
        self.fleet.create(TEAM, request()).await.unwrap()
    }

    pub async fn running(&self) -> Capsule {
        let capsule = self.create().await;
        self.becomes(capsule.id, CapsuleStatus::Running).await
    }

    pub async fn paused(&self) -> Capsule {
        let capsule = self.running().await;
        self.fleet.pause(TEAM, capsule.id, false).await.unwrap();
        self.becomes(capsule.id, CapsuleStatus::Paused).await
    }

    /// Waits until a capsule has this status.
    pub async fn becomes(&self, id: CapsuleId, status: CapsuleStatus) -> Capsule {
        let mut heard = self.fleet.bus().subscribe();
        let reached = async {
            loop {
                let capsule = self.store.capsule(id).await.unwrap().unwrap();
                if capsule.status == status {
                    return capsule;
                }
                heard.next().await.unwrap();
            }
        };
        let Ok(capsule) = tokio::time::timeout(LONG, reached).await else {
            panic!("not {status}, but {:?}", self.store.capsule(id).await)
        };
        capsule
    }
}

pub fn request() -> Create {
    Create {
        template: "base".to_owned(),
        vcpus: None,
        memory_mb: None,
        disk_mb: None,
        lifetime: Lifetime::FOREVER,
        metadata: BTreeMap::new(),
        envs: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        surface: Surface::E2b,
        egress: Egress::default(),
    }
}
