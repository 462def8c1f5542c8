//! The server's end: clients of one agent.

use connectrpc::client::{CallOptions, ClientConfig};
use dial::{BoxIo, Dialler, Limits, Transport};
use http::Uri;
use model::Error;
use proto::hostagent::v1::{HostAgentServiceClient, SetDrainingRequest};
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

/// Ending the VMs that wait is part of it.
const DRAIN_CALL: Duration = Duration::from_mins(1);

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

    /// Has the host emptied, or take capsules again; answers how many have a VM still.
    pub async fn set_draining(&self, draining: bool) -> Result<u32, Error> {
        let request = SetDrainingRequest { draining, ..Default::default() };
        let options = CallOptions::default().with_timeout(DRAIN_CALL);
        let answer = self.rpc.set_draining_with_options(request, options).await;
        Ok(answer.map_err(|error| crate::error(&error))?.into_owned().running)
    }

    /// A fresh connection to the agent's HTTP server, for [`crate::PROXY_PREFIX`].
    pub async fn dial(&self) -> io::Result<BoxIo> {
        self.dialler.dial().await
    }
}
