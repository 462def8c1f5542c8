//! Saving a VM: the guest stands still, the machine stops, what differs becomes the next generation.

use super::{Saved, Vm, envd};
use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::points;
use crate::record::Record;
use crate::told::{Purpose, init, now, run_to_end};
use crate::vm_dirs::Dirs;
use memory::{Base, DiskDraft, Draft, Filled, Generation, SaveError, Seal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use vmm::{Dirty, Since};

/// How long a snapshot made a VM that goes on stand still.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standstill {
    /// For its users: from the request to the guest until the guest was released.
    pub whole: Duration,
    /// Of that, what taking device state and memory took.
    pub taking: Duration,
}

impl Vm {
    /// Quiesces the guest, stops the VM and writes a generation. The VM stays stopped, whatever comes of it.
    pub async fn save(
        &mut self,
        host: &Arc<Host>,
        mut labels: BTreeMap<String, String>,
    ) -> Result<Arc<Generation>, Failure> {
        let space = host.pool.admit_short(self.save_bytes(host)).map_err(Host::no_space)?;
        self.label_daemon(&mut labels);
        let began = Instant::now();
        let (ahead, last) = (self.ahead.take(), self.saved.take());
        let (base, since) = self.next_base(last.as_ref());
        let (draft, ()) = tokio::join!(draft(host, base, ahead), self.quiesce());
        let draft = draft?;
        // A draft that had to copy all memory may have outlasted the standstill.
        if began.elapsed() > limits::STANDSTILL {
            self.quiesce().await;
        }
        points::pass(host, "pause.quiesced").await;
        self.machine.pause().await.map_err(Failure::at("stopping the VM"))?;
        points::pass(host, "pause.stopped").await;
        let (filled, _) = self.fill(host, draft, since).await?;
        // Written: the file system counts it.
        drop(space);
        points::pass(host, "pause.filled").await;
        self.commit(host, filled, labels).await
    }

    /// Writes a generation of a VM that goes on: it stands still only while its state is taken. A failure leaves it
    /// running; should it not go on, it is ended, which its owner notices.
    pub async fn snapshot(
        &mut self,
        host: &Arc<Host>,
        mut labels: BTreeMap<String, String>,
    ) -> Result<(Arc<Generation>, Standstill), Failure> {
        // It takes space for good, which may not be what others were promised.
        let space = host.pool.admit(self.save_bytes(host)).map_err(Host::no_space)?;
        self.label_daemon(&mut labels);
        let (ahead, last) = (self.ahead.take(), self.saved.take());
        let (base, since) = self.next_base(last.as_ref());
        let draft = draft(host, base, ahead).await?;
        points::pass(host, "snapshot.begun").await;
        let began = Instant::now();
        // In a clone nothing may run before it knows who it is: without a standstill there is no snapshot.
        let held = self.while_alive(self.envd.hold()).await.and_then(|held| {
            held.map_err(|error| {
                let advice = "if its daemon is an old one, a pause and a resume renew it";
                Failure::at("holding the guest")(format_args!("{error}; {advice}"))
            })
        });
        let filled = match held {
            Ok(()) => self.stopped(host, draft, since).await,
            Err(failure) => Err(failure),
        };
        if let Ok(Err(error)) = self.while_alive(self.envd.release(&now())).await {
            tracing::warn!(vm = %self.id, %error, "the guest was not released; it goes on by itself after 10 s");
        }
        let whole = began.elapsed();
        drop(space);
        points::pass(host, "snapshot.released").await;
        let (filled, taking) = filled?;
        let standstill = Standstill { whole, taking };
        let generation = self.commit(host, filled, labels).await;
        if let (Ok(generation), Dirty::Written) = (&generation, self.vmm.dirty()) {
            let pin = host.shelf.pin(generation.id());
            self.saved = pin.map(|pin| Saved { generation: generation.clone(), _pin: pin });
        }
        self.draft_ahead(host);
        Ok((generation?, standstill))
    }

    /// What the next generation begins as a clone of.
    fn next_base(&self, last: Option<&Saved>) -> (Base, Since) {
        match last {
            Some(last) => (Base::Generation(last.generation.clone()), Since::Save),
            None => (self.base.clone(), Since::Start),
        }
    }

    /// Waits until it may be paused, while its guest runs on.
    pub async fn turn_to_save<'h>(&self, host: &'h Host) -> Result<SemaphorePermit<'h>, Failure> {
        self.while_alive(host.saves.acquire()).await?.map_err(|_| Failure::Stopping)
    }

    /// The space it may need to be saved: all its memory, where that is copied or its VMM may write every page.
    fn save_bytes(&self, host: &Host) -> u64 {
        match (self.vmm.dirty(), host.pool.kind()) {
            (Dirty::InProcess, disk::Kind::Loop { .. } | disk::Kind::Reflink) => anonymous_bytes(self.keeper.vmm_pid()),
            (Dirty::Written, _) | (_, disk::Kind::Plain { .. }) => u64::from(self.class.memory_mb) << 20,
        }
    }

    /// As [`Self::save`], of the disk alone: whoever goes on from it boots.
    pub async fn save_disk(
        &mut self,
        host: &Arc<Host>,
        labels: BTreeMap<String, String>,
    ) -> Result<Arc<Generation>, Failure> {
        self.flush_guest().await?;
        self.quiesce().await;
        points::pass(host, "pause.quiesced").await;
        self.machine.pause().await.map_err(Failure::at("stopping the VM"))?;
        points::pass(host, "pause.stopped").await;
        let draft = self.clone_disk(host).await?;
        self.commit_disk(host, draft, labels).await
    }

    /// As [`Self::snapshot`], of the disk alone. The guest need not stand still: its clones boot, and find a disk as after
    /// a power cut just behind a `sync`.
    pub async fn snapshot_disk(
        &mut self,
        host: &Arc<Host>,
        labels: BTreeMap<String, String>,
    ) -> Result<(Arc<Generation>, Standstill), Failure> {
        self.flush_guest().await?;
        points::pass(host, "snapshot.begun").await;
        let began = Instant::now();
        let draft = self.while_stopped(host, self.clone_disk(host)).await?;
        let whole = began.elapsed();
        Ok((self.commit_disk(host, draft, labels).await?, Standstill { whole, taking: whole }))
    }

    /// What the guest wrote before this is on its disk afterwards.
    async fn flush_guest(&self) -> Result<(), Failure> {
        let flushed = self.while_alive(run_to_end(&self.envd, "sync")).await?;
        match flushed.map_err(Failure::at("flushing the guest's disk"))? {
            Some(0) => Ok(()),
            code => Err(Failure::at("flushing the guest's disk")(format_args!("`sync` ended with {code:?}"))),
        }
    }

    async fn clone_disk(&self, host: &Host) -> Result<DiskDraft, Failure> {
        let (dir, disk) = (host.shelf.dir().to_owned(), Dirs::of(host, self.id).disk());
        blocking("cloning the disk", move || DiskDraft::begin(&dir, &disk)).await
    }

    async fn commit_disk(
        &self,
        host: &Host,
        draft: DiskDraft,
        labels: BTreeMap<String, String>,
    ) -> Result<Arc<Generation>, Failure> {
        let seal = Seal { compatibility: self.compatibility(host), labels };
        blocking("writing the generation", move || draft.commit(seal)).await.map(Arc::new)
    }

    /// Takes the VM's state while it is stopped, and lets it run on.
    async fn stopped(&self, host: &Host, draft: Draft, since: Since) -> Result<(Filled, Duration), Failure> {
        points::pass(host, "snapshot.held").await;
        self.while_stopped(host, self.fill(host, draft, since)).await
    }

    /// Does something with the VM stopped. It goes on afterwards, also if it could not be stopped, or is ended.
    async fn while_stopped<T>(
        &self,
        host: &Host,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let done = match self.machine.pause().await {
            Ok(()) => {
                points::pass(host, "snapshot.stopped").await;
                work.await
            }
            Err(error) => Err(Failure::at("stopping the VM")(error)),
        };
        points::pass(host, "snapshot.filled").await;
        if let Err(error) = self.machine.resume().await {
            let _ = self.keeper.kill().await;
            return Err(Failure::at("letting the VM run")(error));
        }
        done
    }

    /// Of a stopped VM: device state, what differs of its memory, and a clone of its disk. Answers how long state and
    /// memory took.
    async fn fill(&self, host: &Host, draft: Draft, since: Since) -> Result<(Filled, Duration), Failure> {
        let disk = Dirs::of(host, self.id).disk();
        let (state, memory, clone) = (draft.state_path(), draft.memory_path(), draft.disk_path());
        let (spec, began, dirty) = (self.spec(host), Instant::now(), self.vmm.dirty());
        let limit = limits::VM_SAVE + limits::VM_SAVE_MIB * self.class.memory_mb;
        let save = async {
            let saved = timeout(limit, self.machine.save(&spec, &state, &memory, since)).await;
            saved.map_err(Failure::at("saving the device state"))?.map_err(Failure::at("saving the device state"))
        };
        let clone = blocking("cloning the disk", move || disk::clone_file(&disk, &clone));
        match dirty {
            Dirty::InProcess => tokio::try_join!(save, clone)?,
            // Firecracker finishes what the guest asked of its disk only now (`Block::prepare_save`, v1.16).
            Dirty::Written => (save.await?, clone.await?),
        };
        let pid = self.keeper.vmm_pid();
        let filled = blocking("copying memory", move || match dirty {
            Dirty::InProcess => draft.copy_dirty(pid),
            Dirty::Written => draft.written_by_vmm(),
        });
        Ok((filled.await?, began.elapsed()))
    }

    async fn commit(
        &self,
        host: &Host,
        filled: Filled,
        labels: BTreeMap<String, String>,
    ) -> Result<Arc<Generation>, Failure> {
        let seal = Seal { compatibility: self.compatibility(host), labels };
        let (generation, report) = blocking("writing the generation", move || filled.commit(seal)).await?;
        tracing::info!(vm = %self.id, generation = %generation.id(), ?report, "saved");
        Ok(Arc::new(generation))
    }

    /// What its memory can be loaded by: it goes on as it was begun, whatever the host begins others with by now.
    fn compatibility(&self, host: &Host) -> String {
        match &self.base {
            Base::Generation(generation) => generation.manifest().compatibility.clone(),
            Base::Zero { .. } => self.vmm.compatibility(&host.artifacts.kernel_key).to_string(),
        }
    }

    /// Begins the next generation soon: a clone of much-written memory takes as long as a small pause. Not where a clone
    /// is a copy: most capsules are never paused, and each would have its memory on the disk twice.
    pub(super) fn draft_ahead(&mut self, host: &Arc<Host>) {
        if matches!(host.pool.kind(), disk::Kind::Plain { .. }) {
            return;
        }
        let (dir, (base, _)) = (host.shelf.dir().to_owned(), self.next_base(self.saved.as_ref()));
        let (dirty, pid) = (self.vmm.dirty(), self.keeper.vmm_pid());
        let begin = move || {
            let mut draft = Draft::begin(&dir, &base)?;
            // Pages that the VMM writes need no place.
            if dirty == Dirty::InProcess {
                draft.place_dirty(pid)?;
            }
            Ok::<_, SaveError>(draft)
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
        // A guest that does not answer now is still a running VM; its own watchdog ends the standstill. Nobody waits for it longer.
        let told = timeout(limits::CARRY_ON, self.init(|| init(record, Purpose::Resume, false))).await;
        if let Err(failure) = told.map_err(Failure::at("configuring the guest")).and_then(|told| told) {
            tracing::warn!(vm = %self.id, %failure, "the guest was not told that it goes on");
        }
        Ok(())
    }
}

/// Memory that a process shares with no file, in RAM or swapped out (`proc_pid_status(5)`): what is saved of a guest, and a little
/// more. None of a process that is gone.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    (kib("RssAnon:").unwrap_or(0_u64) + kib("VmSwap:").unwrap_or(0)) << 10
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
