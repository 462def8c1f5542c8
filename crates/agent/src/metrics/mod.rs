//! What capsules use, measured while they run.
//!
//! One task looks at all capsules twice a second: at their VMMs from outside, and every few seconds at what their guests say
//! of their memory. Points of running capsules are in memory; with a pause they move into a file beside the capsule's
//! record, which answers while it is paused, and come back with it. What was measured since is lost with an agent that
//! is killed.

mod gauges;
mod rings;

pub use gauges::Gauges;
pub use rings::{GuestMemory, Point};

use crate::host::Host;
use crate::limits;
use crate::record::Records;
use crate::registry::Registry;
use crate::shared::{Guest, View, now_ms};
use futures_util::{StreamExt, stream};
use gauges::Reading;
use model::{CapsuleId, CapsuleStatus};
use network::Traffic;
use rings::Rings;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Name of the file beside a record.
const FILE: &str = "metrics.json";

/// Of all capsules that run, or did a moment ago.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<HashMap<CapsuleId, Series>>>);

/// What is known of one capsule, and kept in its file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    rings: Rings,
    /// What it sent and received in former VMs.
    traffic: Traffic,
}

/// What is known of one that runs.
#[derive(Default)]
struct Series {
    kept: Kept,
    /// Of the present VM; the first reading leads to no point.
    last: Option<(u64, Reading)>,
    heard: Option<(Instant, GuestMemory)>,
    /// When its guest was last asked.
    asked: Option<Instant>,
}

/// One running capsule in one pass.
struct Subject {
    id: CapsuleId,
    guest: Guest,
    vcpus: u32,
    memory_bytes: u64,
}

impl Metrics {
    /// What was measured of a capsule within `window`, oldest first.
    pub async fn points(&self, records: &Records, id: CapsuleId, window: Duration) -> Vec<Point> {
        let now_ms = now_ms();
        let running = self.lock().get(&id).map(|series| series.kept.rings.within(window, now_ms));
        if let Some(points) = running {
            return points;
        }
        let records = records.clone();
        let kept = tokio::task::spawn_blocking(move || read(&records, id)).await.unwrap_or_default();
        kept.rings.within(window, now_ms)
    }

    /// Measures until the agent ends.
    pub async fn run(self, host: Arc<Host>, registry: Registry) {
        let mut ticks = tokio::time::interval(limits::METRICS_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking: Option<JoinHandle<()>> = None;
        while host.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut running = Vec::new();
            let mut views = HashMap::new();
            for handle in registry.all() {
                let view = handle.shared.view();
                views.insert(view.record.id, view.status);
                running.extend(subject(view));
            }
            self.rest(&host.records, &views).await;
            self.measure(&host.records, &running).await;
            if asking.as_ref().is_none_or(JoinHandle::is_finished) {
                let due = self.due(running);
                let answers = self.clone().ask(due);
                let stopping = host.stopping.clone();
                asking = Some(host.tasks.spawn(async move {
                    stopping.run_until_cancelled(answers).await;
                }));
            }
        }
    }

    /// Writes down what is in memory, of capsules that run on as well. For the end of the agent, when nothing measures any
    /// more.
    pub async fn keep(&self, records: &Records, registry: &Registry) {
        let all = registry.all().into_iter().map(|handle| handle.shared.view());
        let views = all.map(|view| (view.record.id, view.status)).collect();
        self.rest(records, &views).await;
        let left = std::mem::take(&mut *self.lock());
        write(records, left.into_iter().map(|(id, series)| (id, series.kept)).collect()).await;
    }

    /// Moves what is known of paused capsules to their files and forgets those that are gone.
    async fn rest(&self, records: &Records, statuses: &HashMap<CapsuleId, CapsuleStatus>) {
        let is_over = |id: &CapsuleId| match statuses.get(id) {
            Some(CapsuleStatus::Paused | CapsuleStatus::Error | CapsuleStatus::Stopped) | None => true,
            Some(_) => false,
        };
        let is_paused = |id: &CapsuleId| statuses.get(id) == Some(&CapsuleStatus::Paused);
        let paused = |(id, series): (&CapsuleId, &Series)| is_paused(id).then(|| (*id, series.ended()));
        let paused = self.lock().iter().filter_map(paused).collect();
        // Not forgotten before: whoever asks meanwhile gets all of it.
        write(records, paused).await;
        self.lock().retain(|id, _| !is_over(id));
    }

    async fn measure(&self, records: &Records, running: &[Subject]) {
        let known = |id| self.lock().contains_key(&id);
        let asked: Vec<_> =
            running.iter().map(|subject| (subject.id, subject.guest.gauges.clone(), !known(subject.id))).collect();
        let records = records.clone();
        let work = move || {
            let read = |(id, gauges, new): (CapsuleId, Arc<Gauges>, bool)| {
                (gauges.read().ok(), new.then(|| self::read(&records, id)))
            };
            asked.into_iter().map(read).collect::<Vec<_>>()
        };
        let Ok(figures) = tokio::task::spawn_blocking(work).await else { return };
        for (subject, (reading, kept)) in running.iter().zip(figures) {
            // A VM that is ending, which its capsule learns by itself.
            let (Some(reading), Ok(traffic)) = (reading, subject.guest.gauges.traffic.read().await) else { continue };
            let mut all = self.lock();
            let series =
                all.entry(subject.id).or_insert_with(|| Series { kept: kept.unwrap_or_default(), ..Series::default() });
            series.add(subject.guest.gauges.start, subject.vcpus, reading, traffic, now_ms());
        }
    }

    /// Those whose guests are to be asked now.
    fn due(&self, running: Vec<Subject>) -> Vec<Subject> {
        let (mut all, now) = (self.lock(), Instant::now());
        let mut is_due = |subject: &Subject| {
            let series = all.get_mut(&subject.id)?;
            let due = series.asked.is_none_or(|asked| now.duration_since(asked) >= limits::GUEST_METRICS_PERIOD);
            due.then(|| series.asked = Some(now))
        };
        running.into_iter().filter(|subject| is_due(subject).is_some()).collect()
    }

    /// Asks guests what they use of their memory. A guest may say anything, or nothing: no more is believed than it can
    /// have.
    async fn ask(self, due: Vec<Subject>) {
        let answers = due.into_iter().map(|subject| {
            let metrics = self.clone();
            async move {
                let Subject { id, guest, memory_bytes, .. } = subject;
                let answer = guest.gone.run_until_cancelled(guest.envd.memory(limits::GUEST_ATTEMPT)).await;
                let Some(Ok(said)) = answer else { return };
                let used = said.used.min(memory_bytes);
                let memory = GuestMemory { used, cache: said.cache.min(memory_bytes - used) };
                if let Some(series) = metrics.lock().get_mut(&id) {
                    series.heard = Some((Instant::now(), memory));
                }
            }
        });
        stream::iter(answers).buffer_unordered(limits::GUESTS_ASKED).collect::<()>().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CapsuleId, Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject(view: View) -> Option<Subject> {
    let View { record, guest, .. } = view;
    let memory_bytes = u64::from(record.class.memory_mb) << 20;
    Some(Subject { id: record.id, guest: guest?, vcpus: record.class.vcpus, memory_bytes })
}

impl Series {
    fn add(&mut self, vm: u64, vcpus: u32, now: Reading, traffic: Traffic, unix_ms: u64) {
        let before = match self.last.replace((vm, now)) {
            Some((former, before)) if former == vm => before,
            former => {
                if former.is_some() {
                    self.kept.traffic = self.traffic();
                    self.heard = None;
                }
                return;
            }
        };
        let is_fresh = |(at, _): &(Instant, GuestMemory)| now.at.duration_since(*at) < limits::GUEST_METRICS_AGE;
        self.kept.rings.push(Point {
            unix_ms,
            cpu_bp: cpu_bp(before, now, vcpus),
            memory_bytes: now.memory_bytes,
            disk_bytes: now.disk_bytes,
            sent_bytes: self.kept.traffic.sent_bytes.saturating_add(traffic.sent_bytes),
            received_bytes: self.kept.traffic.received_bytes.saturating_add(traffic.received_bytes),
            guest: self.heard.filter(is_fresh).map(|(_, memory)| memory),
        });
    }

    /// All it ever sent and received, as far as it was seen.
    fn traffic(&self) -> Traffic {
        let last = self.kept.rings.last();
        last.map_or(self.kept.traffic, |last| Traffic {
            sent_bytes: last.sent_bytes,
            received_bytes: last.received_bytes,
            ..Traffic::default()
        })
    }

    /// Its VM is gone: the next one counts from nothing.
    fn ended(&self) -> Kept {
        Kept { rings: self.kept.rings.clone(), traffic: self.traffic() }
    }
}

/// Of the time the vCPUs had, in basis points. An emulator works beside them, so it could be more than all of it.
fn cpu_bp(before: Reading, now: Reading, vcpus: u32) -> u64 {
    let had = now.at.duration_since(before.at).as_micros() * u128::from(vcpus.max(1));
    let used = now.cpu.saturating_sub(before.cpu).as_micros();
    let share = (used * 10_000).checked_div(had).unwrap_or_default().min(10_000);
    u64::try_from(share).unwrap_or_default()
}

/// What was kept of a capsule; nothing where it cannot be read.
fn read(records: &Records, id: CapsuleId) -> Kept {
    let kept = records.read_beside(id, FILE, limits::METRICS_FILE_BYTES).and_then(|bytes| {
        let kept: Kept = serde_json::from_slice(&bytes)?;
        Ok(Kept { rings: kept.rings.restored(), ..kept })
    });
    kept.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(capsule = %id, %error, "its metrics cannot be read; they begin anew");
        }
        Kept::default()
    })
}

async fn write(records: &Records, all: Vec<(CapsuleId, Kept)>) {
    if all.is_empty() {
        return;
    }
    let records = records.clone();
    let work = move || {
        for (id, kept) in all {
            let written = serde_json::to_vec(&kept).map_err(io::Error::from);
            if let Err(error) = written.and_then(|bytes| records.write_beside(id, FILE, &bytes)) {
                tracing::warn!(capsule = %id, %error, "its metrics are lost");
            }
        }
    };
    let _ = tokio::task::spawn_blocking(work).await;
}

#[cfg(test)]
mod tests;
