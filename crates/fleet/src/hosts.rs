//! The hosts this server talks to.

use crate::{Fleet, LocalHost};
use hostlink::{AgentLink, Endpoint};
use model::{Code, Error, Host, HostId, Secret};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use store::StoreError;
use tokio::sync::Notify;

/// A host as this server holds on to it.
#[derive(Clone)]
pub(crate) struct Known {
    pub link: AgentLink,
    /// Told to look at the host now rather than at the next turn.
    pub look: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct Hosts(RwLock<HashMap<HostId, Known>>);

impl Hosts {
    pub(crate) fn get(&self, id: HostId) -> Option<Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn add(&self, id: HostId, known: Known) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
    }
}

impl Fleet {
    /// Takes a host on: watches it from now on, and goes on with what a former server left undone there. Its agent
    /// need not be up yet.
    pub async fn add_local_host(&self, host: LocalHost) -> Result<(), Error> {
        self.store().add_host(host.id, &token_hash(&host.token)).await?;
        let known = Known { link: AgentLink::new(Endpoint::Unix(host.socket)), look: Arc::default() };
        self.hosts_known().add(host.id, known.clone());
        self.watch(host.id, known);
        self.go_on(host.id).await?;
        Ok(())
    }

    /// All hosts, oldest first.
    pub async fn hosts(&self) -> Result<Vec<Host>, Error> {
        Ok(self.store().hosts().await?)
    }

    /// The host whose agent shows this token when it calls back.
    pub async fn authenticate_host(&self, token: &str) -> Result<HostId, Error> {
        let host = self.store().host_by_token(&token_hash(&Secret::new(token))).await?;
        host.ok_or_else(|| Error::new(Code::Unauthorized, "this host token is not valid"))
    }

    pub(crate) fn link(&self, host: HostId) -> Result<AgentLink, Error> {
        let known = self.hosts_known().get(host);
        known
            .map(|known| known.link)
            .ok_or_else(|| Error::new(Code::HostUnavailable, "the capsule's host is not known"))
    }

    /// Takes up the operations of a host's capsules that a former server did not finish.
    async fn go_on(&self, host: HostId) -> Result<(), StoreError> {
        for pending in self.store().operations().await? {
            let capsule = self.store().capsule(pending.capsule).await?;
            if let Some(capsule) = capsule.filter(|capsule| capsule.host == host) {
                self.carry_out(pending, capsule);
            }
        }
        Ok(())
    }
}

/// Tokens are random: a fast hash is enough.
fn token_hash(token: &Secret) -> String {
    hex::encode(Sha256::digest(token.expose()))
}
