//! Watchers for clients that ask for events instead of holding a stream open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::filesystem::FilesystemEvent;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Watch, wait};
use crate::daemon::{Interrupted, blocking};
use crate::filesystem::FsError;
use crate::limits;

/// Watchers by id. One nobody asked for in 10 minutes is forgotten.
#[derive(Default)]
pub struct Watchers {
    all: Arc<Mutex<HashMap<String, Watcher>>>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Watcher {
    state: Arc<Mutex<State>>,
    collector: AbortHandle,
}

struct State {
    watch: Watch,
    events: Vec<FilesystemEvent>,
    failure: Option<FsError>,
    asked: Instant,
}

impl State {
    fn collect(&mut self) {
        if self.failure.is_some() {
            return;
        }
        match self.watch.drain() {
            Ok(events) if self.events.len() + events.len() > limits::WATCHER_EVENTS => {
                self.failure = Some(FsError::TooMany("events nobody asked for"));
            }
            Ok(events) => self.events.extend(events),
            Err(error) => self.failure = Some(error),
        }
    }
}

impl Watchers {
    /// Keeps a watch; the answer is its id.
    pub(in crate::filesystem) fn add(&self, watch: Watch) -> Result<String, FsError> {
        let mut all = lock(&self.all);
        if all.len() >= limits::WATCHERS {
            return Err(FsError::TooMany("watchers"));
        }
        let id = format!("w{:x}", self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let descriptor = Arc::clone(&watch.descriptor);
        let state = State { watch, events: Vec::new(), failure: None, asked: Instant::now() };
        let state = Arc::new(Mutex::new(state));
        let (collected, others, own_id) = (Arc::clone(&state), Arc::clone(&self.all), id.clone());
        // Takes events as they come, so that the kernel's queue stays short and new directories are watched at once.
        let collector = tokio::spawn(async move {
            loop {
                let expiry = lock(&collected).asked + limits::WATCHER_IDLE;
                tokio::select! {
                    () = wait(&descriptor) => {}
                    () = tokio::time::sleep_until(expiry) => {
                        if lock(&collected).asked + limits::WATCHER_IDLE <= Instant::now() {
                            lock(&others).remove(&own_id);
                            return;
                        }
                    }
                }
                let state = Arc::clone(&collected);
                let collect = move || {
                    let mut state = lock(&state);
                    state.collect();
                    Ok::<_, Interrupted>(state.failure.is_some())
                };
                // A failed watch is kept until its owner has heard of it.
                if !matches!(blocking(collect).await, Ok(false)) {
                    return;
                }
            }
        });
        all.insert(id.clone(), Watcher { state, collector: collector.abort_handle() });
        Ok(id)
    }

    /// Events since the last call, those the kernel has queued at this moment included.
    pub(in crate::filesystem) async fn take(&self, id: &str) -> Result<Vec<FilesystemEvent>, FsError> {
        let watcher = lock(&self.all).get(id).cloned().ok_or_else(|| FsError::NoWatcher(id.to_owned()))?;
        blocking(move || {
            let mut state = lock(&watcher.state);
            state.asked = Instant::now();
            state.collect();
            match (std::mem::take(&mut state.events), state.failure.take()) {
                (events, Some(failure)) if events.is_empty() => Err(failure),
                (events, failure) => {
                    state.failure = failure;
                    Ok(events)
                }
            }
        })
        .await
    }

    /// Forgets a watcher.
    pub(in crate::filesystem) fn remove(&self, id: &str) -> Result<(), FsError> {
        let watcher = lock(&self.all).remove(id).ok_or_else(|| FsError::NoWatcher(id.to_owned()))?;
        watcher.collector.abort();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
