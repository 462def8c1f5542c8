//! The guest daemon of a resumed VM: as old as its memory, until this host's takes its place.

use super::Vm;
use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use memory::Base;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Label of a generation: key of the daemon in its memory.
const LABEL: &str = "daemon";

/// Key of the daemon in the memory a VM starts with.
pub(super) fn of(host: &Host, base: &Base) -> Option<String> {
    match base {
        Base::Generation(generation) => generation.manifest().labels.get(LABEL).cloned(),
        // It boots.
        Base::Zero { .. } => Some(host.artifacts.daemon_key.clone()),
    }
}

impl Vm {
    pub(super) fn label_daemon(&self, labels: &mut BTreeMap<String, String>) {
        labels.extend(self.daemon.clone().map(|key| (LABEL.to_owned(), key)));
    }

    /// Puts this host's daemon in the place of another one; processes do not notice. With the other one the capsule works
    /// as it did before, so a failure is no reason to stop it.
    pub(super) async fn renew_daemon(&mut self, host: &Host) {
        let key = &host.artifacts.daemon_key;
        if self.daemon.is_none() {
            self.daemon = self.envd.daemon_key().await.ok();
        }
        if self.daemon.as_ref() == Some(key) {
            return;
        }
        let former = self.daemon.take();
        let replaced = self.replace_daemon(host).await;
        // Whichever serves now: one that does not begin to is taken back by the guest's init.
        let serving = self.serving_daemon().await;
        match (replaced, serving) {
            (Ok(()), Ok(serving)) if serving == *key => {
                tracing::info!(vm = %self.id, former, now = key, "guest daemon replaced");
                self.daemon = Some(serving);
            }
            (replaced, serving) => {
                let why = replaced.err().or(serving.err()).map_or("it did not serve".to_owned(), |why| why.to_string());
                tracing::warn!(vm = %self.id, why, "the guest keeps its former daemon");
                self.daemon = former;
            }
        }
    }

    async fn replace_daemon(&self, host: &Host) -> Result<(), Failure> {
        let binary = tokio::fs::read(&host.artifacts.daemon).await.map_err(Failure::at("reading the guest daemon"))?;
        self.envd.upgrade(binary.into()).await.map_err(Failure::at("replacing the guest daemon"))
    }

    /// The former daemon may still answer that it is well, and be gone before the next question.
    async fn serving_daemon(&self) -> Result<String, Failure> {
        let deadline = Instant::now() + limits::GUEST_UPGRADE;
        loop {
            self.wait_healthy(deadline.saturating_duration_since(Instant::now())).await?;
            match self.envd.daemon_key().await {
                Ok(key) => return Ok(key),
                Err(_) if Instant::now() < deadline && self.alive() => tokio::time::sleep(limits::GUEST_RETRY).await,
                Err(error) => return Err(Failure::at("asking which daemon it is")(error)),
            }
        }
    }
}
