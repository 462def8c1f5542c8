//! A capsule's life.

use crate::error::Error;
use crate::http::Client;
use crate::limits;
use model::CapsuleId;
use model::metrics::Range;
use model::rest::{Capsule, CreateCapsule, ForkCapsule, Forked, Metrics, Network};
use reqwest::Method;
use std::time::{Duration, Instant};

impl Client {
    /// Asks for a capsule. It is `starting` in the answer; [`Client::settled`] waits for what becomes of it.
    pub async fn create(&self, capsule: &CreateCapsule) -> Result<Capsule, Error> {
        self.fetch(self.request(Method::POST, &["capsules"]).json(capsule)).await
    }

    /// One capsule, ended ones included.
    pub async fn get(&self, id: CapsuleId) -> Result<Capsule, Error> {
        self.fetch(self.request(Method::GET, &["capsules", &id.to_string()])).await
    }

    /// Those of the team that have not ended, newest first.
    pub async fn list(&self) -> Result<Vec<Capsule>, Error> {
        self.fetch(self.request(Method::GET, &["capsules"])).await
    }

    /// Saves it with its memory. The answer may still say `pausing`. `discard_memory` saves its disk only.
    pub async fn pause(&self, id: CapsuleId, discard_memory: bool) -> Result<Capsule, Error> {
        self.fetch(self.request_with(Method::POST, &["capsules", &id.to_string(), "pause"], query(discard_memory)))
            .await
    }

    /// Brings it back. The answer may still say `resuming`. `discard_memory` boots from its disk instead.
    pub async fn resume(&self, id: CapsuleId, discard_memory: bool) -> Result<Capsule, Error> {
        self.fetch(self.request_with(Method::POST, &["capsules", &id.to_string(), "resume"], query(discard_memory)))
            .await
    }

    /// Makes clones of it while it runs on. Answers when all of them run or have failed.
    pub async fn fork(&self, id: CapsuleId, fork: &ForkCapsule) -> Result<Vec<Forked>, Error> {
        self.fetch(self.request(Method::POST, &["capsules", &id.to_string(), "fork"]).json(fork)).await
    }

    /// Replaces what it may reach, for connections that exist as well.
    pub async fn set_network(&self, id: CapsuleId, network: &Network) -> Result<Capsule, Error> {
        self.fetch(self.request(Method::PUT, &["capsules", &id.to_string(), "network"]).json(network)).await
    }

    /// What it used, also while it is paused.
    pub async fn metrics(&self, id: CapsuleId, range: Range) -> Result<Metrics, Error> {
        let path = ["capsules", &id.to_string(), "metrics"];
        self.fetch(self.request_with(Method::GET, &path, &[("range", range.as_str())])).await
    }

    /// Counts as activity, so that the capsule is not paused.
    pub async fn ping(&self, id: CapsuleId) -> Result<(), Error> {
        self.send(self.request(Method::POST, &["capsules", &id.to_string(), "ping"])).await.map(drop)
    }

    /// Ends it for good. Answers as soon as that is under way.
    pub async fn destroy(&self, id: CapsuleId) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, &["capsules", &id.to_string()])).await.map(drop)
    }

    /// The capsule once no operation is under way on it, or as it is when `limit` is over.
    pub async fn settled(&self, id: CapsuleId, limit: Duration) -> Result<Capsule, Error> {
        let end = Instant::now() + limit;
        let mut pause = limits::POLL_MIN;
        loop {
            let capsule = self.get(id).await?;
            if !capsule.status.is_transient() || Instant::now() >= end {
                return Ok(capsule);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::POLL_MAX);
        }
    }
}

fn query(discard_memory: bool) -> &'static [(&'static str, &'static str)] {
    if discard_memory { &[("memory", "discard")] } else { &[] }
}
