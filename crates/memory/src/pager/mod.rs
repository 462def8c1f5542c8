//! A server of guest memory: brings each page when a machine first touches it, and all others meanwhile (userfaultfd(2)).
//!
//! One thread answers faults and makes every change to the machine's memory; another one reads ahead. Since nobody else puts
//! pages in place, a page that the machine gave back (a balloon) cannot get its old bytes again: the kernel refuses changes
//! from when it begins to take pages until the thread has read that it does, and from then on the thread knows.

mod pages;
mod prefetch;
mod serve;
mod source;
mod working_set;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use sys::uffd::Uffd;

pub use source::{MemoryFile, Source};
pub use working_set::{WorkingSet, WorkingSetError};

/// A part of guest memory in a machine's address space. Numbers are multiples of [`crate::PAGE_BYTES`]; regions do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins in the machine's process.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Where it begins in the memory file.
    pub offset: u64,
}

/// Why guest memory cannot be served any longer. The machine would wait for ever for its pages: it has to be ended.
#[derive(Debug, thiserror::Error)]
pub enum PagerError {
    /// The source failed, and did so again.
    #[error("cannot read guest memory at offset {offset:#x}: {source}")]
    Source {
        /// Where, in the memory file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("cannot {action} of guest memory at offset {offset:#x}: {source}")]
    Fill {
        /// What it was to do.
        action: &'static str,
        /// Where, in the memory file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The userfaultfd, or the means to watch it, fail.
    #[error("cannot {action}: {source}")]
    Watch {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A thread waits for a page that is none of guest memory's.
    #[error("address {0:#x}, which a thread waits for, is in no region of guest memory")]
    Stray(u64),
    /// Memory was moved or the process forked: regions say nothing any more.
    #[error("the machine's address space changed in a way that was not agreed (event {0:#x})")]
    Event(u8),
}

/// What besides faults is to be served.
#[derive(Debug)]
enum Plan {
    /// Nothing yet: what is touched is written down.
    Record(WorkingSet),
    /// These pages, then all.
    Prefetch(WorkingSet),
    /// It is being done.
    Begun,
}

/// The server of one machine's memory. One thread calls [`Self::serve`], others the rest.
#[derive(Debug)]
pub struct Pager {
    bell: Arc<Bell>,
    stopped: AtomicBool,
    plan: Mutex<Plan>,
}

impl Pager {
    /// One that brings this working set, in its order, and then every other page, besides what is asked for.
    pub fn prefetching(working_set: WorkingSet) -> io::Result<Self> {
        Self::new(Plan::Prefetch(working_set))
    }

    /// One that brings only what is asked for, and writes it down, until [`Self::ready`].
    pub fn recording() -> io::Result<Self> {
        Self::new(Plan::Record(WorkingSet::default()))
    }

    fn new(plan: Plan) -> io::Result<Self> {
        Ok(Self { bell: Arc::new(Bell::new()?), stopped: AtomicBool::new(false), plan: Mutex::new(plan) })
    }

    /// The machine is ready: answers what it has touched until now, and brings all other pages from here on. None if nothing
    /// was recorded, or no longer.
    pub fn ready(&self) -> Option<WorkingSet> {
        let mut plan = self.plan();
        let Plan::Record(working_set) = &mut *plan else { return None };
        let working_set = std::mem::take(working_set);
        *plan = Plan::Prefetch(WorkingSet::default());
        self.bell.ring();
        Some(working_set)
    }

    /// Ends [`Self::serve`]; a machine that still needs pages waits for ever.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Serves until the machine's process has ended, or until [`Self::stop`]. Blocks.
    pub fn serve(&self, uffd: &Uffd, regions: &[Region], source: &Arc<dyn Source>) -> Result<(), PagerError> {
        serve::Serving::new(self, uffd, regions, source).run()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the serving thread: something other than a fault is to be looked at (eventfd(2)).
#[derive(Debug)]
struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn ring(&self) {
        // Fails only when it has been rung 2^64 - 2 times without being heard.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn hear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
