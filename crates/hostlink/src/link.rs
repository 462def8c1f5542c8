//! The server's end: clients of one agent.

use connectrpc::client::ClientConfig;
use dial::{BoxIo, Dialler, Limits, Transport};
use http::Uri;
use proto::hostagent::v1::HostAgentServiceClient;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// Largest message in either direction: a listing of a big directory.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine.
    Unix(PathBuf),
}

/// Clients of one agent. Cheap to clone; clones share the pools.
#[derive(Clone)]
pub struct AgentLink {
    dialler: Dialler,
    rpc: HostAgentServiceClient<Transport>,
    streams: HostAgentServiceClient<Transport>,
}

impl AgentLink {
    /// Of the agent there. Nothing is opened before the first call.
    pub fn new(endpoint: Endpoint) -> Self {
        let Endpoint::Unix(path) = endpoint;
        let dialler = Dialler::new(move || UnixStream::connect(path.clone()));
        let limits = Limits { idle_max: 20, idle: Duration::from_secs(90), dial: Duration::from_secs(10) };
        let config = ClientConfig::new(Uri::from_static("http://agent"))
            .with_default_max_message_size(MESSAGE_BYTES_MAX)
            .proto();
        let client = || HostAgentServiceClient::new(dial::transport(dialler.clone(), limits), config.clone());
        Self { rpc: client(), streams: client(), dialler }
    }

    /// For calls with one answer. Callers give each call its time limit.
    pub fn rpc(&self) -> &HostAgentServiceClient<Transport> {
        &self.rpc
    }

    /// For streams, which have no time limit; their pool is their own.
    pub fn streams(&self) -> &HostAgentServiceClient<Transport> {
        &self.streams
    }

    /// A fresh connection to the agent's HTTP server, for [`crate::PROXY_PREFIX`].
    pub async fn dial(&self) -> io::Result<BoxIo> {
        self.dialler.dial().await
    }
}
