//! Processes by pid and tag.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use proto::process::process_selector::Selector;
use tokio::time::Instant;

use super::Process;
use super::audience::Audience;
use crate::limits;

/// What is left of a process once it has ended: no descriptor of it stays open for the sake of late subscribers.
#[derive(Clone)]
pub(super) struct Voice {
    pub(super) pid: u32,
    tag: Option<String>,
    pub(super) audience: Arc<Audience>,
}

/// Live processes, and for a while those that have ended.
#[derive(Default)]
pub struct Table(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    live: HashMap<u32, (u64, Arc<Process>)>,
    ended: VecDeque<(Instant, Voice)>,
    next_serial: u64,
}

impl Table {
    fn rows(&self) -> std::sync::MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows().live.len() >= limits::PROCESSES
    }

    pub(super) fn insert(&self, process: Arc<Process>) {
        let mut rows = self.rows();
        let serial = rows.next_serial;
        rows.next_serial += 1;
        rows.live.insert(process.pid, (serial, process));
    }

    /// Moves a process from the living to the remembered.
    pub(super) fn retire(&self, process: &Arc<Process>) {
        let mut rows = self.rows();
        // The pid of an inherited process may be another's by now.
        if rows.live.get(&process.pid).is_some_and(|(_, live)| Arc::ptr_eq(live, process)) {
            rows.live.remove(&process.pid);
        }
        rows.forget_old();
        if rows.ended.len() >= limits::RETAINED_EXITS {
            rows.ended.pop_front();
        }
        rows.ended.push_back((Instant::now(), process.voice()));
    }

    pub(super) fn all(&self) -> Vec<Arc<Process>> {
        let mut live: Vec<_> = self.rows().live.values().cloned().collect();
        live.sort_by_key(|(serial, _)| *serial);
        live.into_iter().map(|(_, process)| process).collect()
    }

    /// A live process. Tags need not be unique: the newest one wins.
    pub(super) fn find(&self, selector: &Selector) -> Option<Arc<Process>> {
        let rows = self.rows();
        match selector {
            Selector::Pid(pid) => rows.live.get(pid).map(|(_, process)| Arc::clone(process)),
            Selector::Tag(tag) => rows
                .live
                .values()
                .filter(|(_, process)| process.tag.as_ref() == Some(tag))
                .max_by_key(|(serial, _)| *serial)
                .map(|(_, process)| Arc::clone(process)),
        }
    }

    /// A live process, else one that ended in the last 30 s.
    pub(super) fn find_even_ended(&self, selector: &Selector) -> Option<Voice> {
        self.find(selector).map(|process| process.voice()).or_else(|| {
            let mut rows = self.rows();
            rows.forget_old();
            rows.ended.iter().rev().map(|(_, voice)| voice).find(|voice| voice.is(selector)).cloned()
        })
    }
}

impl Rows {
    fn forget_old(&mut self) {
        while self.ended.front().is_some_and(|(since, _)| since.elapsed() > limits::RETENTION) {
            self.ended.pop_front();
        }
    }
}

impl Process {
    fn voice(&self) -> Voice {
        Voice { pid: self.pid, tag: self.tag.clone(), audience: Arc::clone(&self.audience) }
    }
}

impl Voice {
    fn is(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Pid(pid) => self.pid == *pid,
            Selector::Tag(tag) => self.tag.as_ref() == Some(tag),
        }
    }
}
