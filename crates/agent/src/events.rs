//! Ends that nobody asked for, told to the control plane at least once.
//!
//! An event is a file until the control plane has taken it, so neither a lost answer nor a restart loses it. The loss of a
//! VM becomes one before it is written down. What a lifetime's end did does so once it is durable: should the agent end just
//! between, it is the list of capsules that tells, which the control plane reads then.

use crate::durable::replace;
use crate::limits;
use hostlink::{Callback, SandboxEvent};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Events waiting to be delivered.
#[derive(Debug, Clone)]
pub struct Outbox {
    dir: PathBuf,
    added: Arc<Notify>,
}

impl Outbox {
    /// Opens the directory, which is made if missing; what is in it is delivered first.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, added: Arc::new(Notify::new()) })
    }

    /// Adds an event, durably.
    pub fn add(&self, event: &SandboxEvent) -> io::Result<()> {
        replace(self.dir.join(file_name(event.id)), &serde_json::to_vec(event)?)?;
        self.added.notify_one();
        Ok(())
    }

    /// Undelivered events, oldest first: their ids are time-ordered.
    fn pending(&self) -> io::Result<Vec<SandboxEvent>> {
        let mut names: Vec<_> = fs::read_dir(&self.dir)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        let excess = names.len().saturating_sub(limits::EVENTS);
        for name in names.drain(..excess) {
            fs::remove_file(self.dir.join(name))?;
        }
        let read = |name: String| serde_json::from_slice(&fs::read(self.dir.join(name)).ok()?).ok();
        Ok(names.into_iter().take(hostlink::callback::EVENTS_MAX).filter_map(read).collect())
    }

    /// Delivers until told to stop.
    pub async fn deliver(self, callback: Callback, stop: CancellationToken) {
        let mut retry = limits::EVENT_RETRY;
        loop {
            let pause = match self.deliver_once(&callback).await {
                Ok(0) => None,
                Ok(_) => {
                    retry = limits::EVENT_RETRY;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "events wait: the control plane does not take them");
                    retry = (retry * 2).min(limits::EVENT_RETRY_MAX);
                    Some(retry)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.added.notified(), if pause.is_none() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    async fn deliver_once(&self, callback: &Callback) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let events = self.pending()?;
        if !events.is_empty() {
            callback.send(&events).await?;
            for event in &events {
                fs::remove_file(self.dir.join(file_name(event.id)))?;
            }
        }
        Ok(events.len())
    }
}

fn file_name(id: Uuid) -> String {
    format!("{id}.json")
}
