//! The guest daemon of a resumed VM: as old as its memory, until this host's takes its place.

use super::Vm;
use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use memory::Base;
use std::collections::BTreeMap;

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
        if self.daemon.as_ref() == Some(key) {
            return;
        }
        match self.replace_daemon(host).await {
            Ok(()) => {
                tracing::info!(vm = %self.id, former = self.daemon, now = key, "guest daemon replaced");
                self.daemon = Some(key.clone());
            }
            Err(failure) => tracing::warn!(vm = %self.id, %failure, "the guest keeps its former daemon"),
        }
    }

    async fn replace_daemon(&self, host: &Host) -> Result<(), Failure> {
        let binary = tokio::fs::read(&host.artifacts.daemon).await.map_err(Failure::at("reading the guest daemon"))?;
        self.envd.upgrade(binary.into()).await.map_err(Failure::at("replacing the guest daemon"))?;
        self.wait_healthy(limits::GUEST_READY).await
    }
}
