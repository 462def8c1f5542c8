//! Saving a VM: the guest stands still, the machine stops, what differs becomes the next generation.

use super::{Vm, envd};
use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::record::Record;
use crate::told::Purpose;
use crate::vm_dirs::Dirs;
use memory::{Base, Draft, Generation, Seal};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use vmm::Dirty;

impl Vm {
    /// Quiesces the guest, stops the VM and writes a generation. The VM stays stopped, whatever comes of it.
    pub async fn save(
        &mut self,
        host: &Arc<Host>,
        mut labels: BTreeMap<String, String>,
    ) -> Result<Generation, Failure> {
        self.label_daemon(&mut labels);
        let began = Instant::now();
        let ahead = self.ahead.take();
        let (draft, ()) = tokio::join!(draft(host, self.base.clone(), ahead), self.quiesce());
        let draft = draft?;
        // A draft that had to copy all memory may have outlasted the standstill.
        if began.elapsed() > limits::STANDSTILL {
            self.quiesce().await;
        }
        self.machine.pause().await.map_err(Failure::at("stopping the VM"))?;
        let disk = Dirs::of(host, self.id).disk();
        let (state, memory, clone) = (draft.state_path(), draft.memory_path(), draft.disk_path());
        let (saved, cloned) = tokio::join!(
            timeout(limits::VM_SAVE, self.machine.save(&state, &memory)),
            blocking("cloning the disk", move || disk::clone_file(&disk, &clone))
        );
        cloned?;
        let saved = saved.map_err(Failure::at("saving the device state"))?;
        let dirty = saved.map_err(Failure::at("saving the device state"))?;
        let pid = self.keeper.vmm_pid();
        let seal = Seal { compatibility: host.compatibility(), labels };
        let (generation, report) = blocking("writing the generation", move || {
            let filled = match dirty {
                Dirty::InProcess => draft.copy_dirty(pid)?,
                Dirty::Written => draft.written_by_vmm()?,
            };
            filled.commit(seal)
        })
        .await?;
        tracing::info!(vm = %self.id, generation = %generation.id(), ?report, "saved");
        Ok(generation)
    }

    /// Begins the next generation soon: a clone of much-written memory takes as long as a small pause. Not where a clone
    /// is a copy: most capsules are never paused, and each would have its memory on the disk twice.
    pub(super) fn draft_ahead(&mut self, host: &Arc<Host>) {
        if matches!(host.pool.kind(), disk::Kind::Plain { .. }) {
            return;
        }
        let (dir, base, pid) = (host.shelf.dir().to_owned(), self.base.clone(), self.keeper.vmm_pid());
        let begin = move || {
            let mut draft = Draft::begin(&dir, &base)?;
            draft.place_dirty(pid).map(|()| draft)
        };
        self.ahead = Some(tokio::spawn(async move {
            tokio::time::sleep(limits::DRAFT_AHEAD).await;
            tokio::task::spawn_blocking(move || begin().ok()).await.ok().flatten()
        }));
    }

    /// Asks the guest to stand still. Idle connections close with it, while the guest can still take part in that.
    pub(super) async fn quiesce(&mut self) {
        let fresh = envd(&self.slot, self.envd.token().to_owned());
        let envd = std::mem::replace(&mut self.envd, fresh);
        if let Err(error) = envd.prepare().await {
            tracing::warn!(vm = %self.id, %error, "the guest did not prepare for its snapshot");
        }
    }

    /// After a save that failed: lets the VM run on and wakes what the guest quiesced.
    pub async fn carry_on(&self, record: &Record) -> Result<(), Failure> {
        self.machine.resume().await.map_err(Failure::at("letting the VM run"))?;
        // A guest that does not answer now is still a running VM; its own watchdog ends the standstill.
        if let Err(failure) = self.configure(record, Purpose::Resume).await {
            tracing::warn!(vm = %self.id, %failure, "the guest was not told that it goes on");
        }
        Ok(())
    }
}

/// The draft that was begun ahead, or a new one.
async fn draft(host: &Host, base: Base, ahead: Option<JoinHandle<Option<Draft>>>) -> Result<Draft, Failure> {
    if let Some(ahead) = ahead {
        ahead.abort();
        if let Ok(Some(draft)) = ahead.await {
            return Ok(draft);
        }
    }
    let dir = host.shelf.dir().to_owned();
    blocking("beginning the generation", move || Draft::begin(&dir, &base)).await
}

/// Runs blocking work and names the step in its failure.
async fn blocking<T, E>(step: &'static str, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Failure::at(step))?.map_err(Failure::at(step))
}
