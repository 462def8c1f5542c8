//! The thread that answers faults and puts pages in place.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::uffd::{Event, FillError, Uffd};

use super::pages::Pages;
use super::prefetch::{Piece, Prefetch};
use super::source::{Source, read_patiently};
use super::{Pager, PagerError, Plan, Region};
use crate::copy::is_zero;
use crate::dirty::PAGE_BYTES;
use crate::limits::{CHANGING, SLICE_BYTES};

const PAGE: usize = 1 << PAGE_BYTES.trailing_zeros();
const SLICE_PAGES: u64 = SLICE_BYTES / PAGE_BYTES;

/// Whether there is any more to do.
enum Step {
    /// There may be.
    On,
    /// Not before the kernel has told or finished something.
    Changing,
    /// The machine is gone.
    Gone,
}

pub(super) struct Serving<'a> {
    pager: &'a Pager,
    uffd: &'a Uffd,
    source: &'a Arc<dyn Source>,
    pages: Arc<Pages>,
    events: Vec<Event>,
    /// Pages that threads wait for: at most as many as there are threads.
    wanted: VecDeque<u64>,
    prefetch: Option<Prefetch>,
    piece: Option<Piece>,
    page: [u8; PAGE],
}

impl<'a> Serving<'a> {
    pub(super) fn new(pager: &'a Pager, uffd: &'a Uffd, regions: &[Region], source: &'a Arc<dyn Source>) -> Self {
        let pages = Arc::new(Pages::new(regions));
        let (events, wanted) = (Vec::new(), VecDeque::new());
        Self { pager, uffd, source, pages, events, wanted, prefetch: None, piece: None, page: [0; _] }
    }

    pub(super) fn run(mut self) -> Result<(), PagerError> {
        self.begin_prefetch()?;
        let mut step = Step::On;
        loop {
            self.listen(&step)?;
            if self.pager.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            step = self.step()?;
            if matches!(step, Step::Gone) {
                return Ok(());
            }
        }
    }

    /// Waits for something to do, and reads what the kernel has to say.
    fn listen(&mut self, after: &Step) -> Result<(), PagerError> {
        let pause = match after {
            Step::Changing => Some(CHANGING),
            _ if self.piece.is_some() => Some(std::time::Duration::ZERO),
            _ => None,
        };
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        let mut ready = [PollFd::new(self.uffd, PollFlags::IN), PollFd::new(&*self.pager.bell, PollFlags::IN)];
        match poll(&mut ready, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(watch("wait for faults")(error.into())),
        }
        let [faults, bell] = ready.map(|ready| ready.revents());
        if faults.contains(PollFlags::ERR) {
            return Err(watch("wait for faults")(io::ErrorKind::BrokenPipe.into()));
        }
        if bell.contains(PollFlags::IN) {
            self.pager.bell.hear();
            self.begin_prefetch()?;
        }
        if faults.contains(PollFlags::IN) { self.read() } else { Ok(()) }
    }

    /// Removals come first: a page may be wanted again after it was given back, and both be read at once.
    fn read(&mut self) -> Result<(), PagerError> {
        self.uffd.read(&mut self.events).map_err(watch("read the events of the userfaultfd"))?;
        for event in &self.events {
            match *event {
                Event::Remove { start, end } => self.pages.remove(start..end),
                Event::Other(kind) => return Err(PagerError::Event(kind)),
                Event::Fault(_) => {}
            }
        }
        for event in self.events.drain(..) {
            if let Event::Fault(address) = event {
                self.wanted.push_back(self.pages.at(address).ok_or(PagerError::Stray(address))?);
            }
        }
        Ok(())
    }

    /// All that is wanted, or else a slice of what has been read ahead.
    fn step(&mut self) -> Result<Step, PagerError> {
        while let Some(page) = self.wanted.front().copied() {
            match self.answer(page)? {
                Step::On => self.wanted.pop_front(),
                other => return Ok(other),
            };
        }
        let Some(prefetch) = &self.prefetch else { return Ok(Step::On) };
        let Some(mut piece) = self.piece.take().or_else(|| prefetch.next()) else { return Ok(Step::On) };
        let step = self.place(&mut piece)?;
        self.piece = if piece.pages.is_empty() {
            prefetch.done(piece);
            // It may have rung for several at once.
            prefetch.next()
        } else {
            Some(piece)
        };
        Ok(step)
    }

    fn answer(&mut self, page: u64) -> Result<Step, PagerError> {
        let removed = self.pages.is_removed(page);
        if !removed {
            let offset = page * PAGE_BYTES;
            read_patiently(&**self.source, offset, &mut self.page)
                .map_err(|source| PagerError::Source { offset, source })?;
            // Before whoever waits for it goes on, and perhaps says that the machine is ready.
            if !self.pages.is_settled(page)
                && let Plan::Record(working_set) = &mut *self.pager.plan()
            {
                working_set.add(page);
            }
        }
        let bytes = (!removed).then_some(&self.page[..]);
        self.fill(&(page..page + 1), bytes.filter(|bytes| !is_zero(bytes))).map(|(_, step)| step)
    }

    /// Puts the next slice of a piece in place, leaving out what is there or was given back.
    fn place(&self, piece: &mut Piece) -> Result<Step, PagerError> {
        let missing = piece.pages.clone().find(|page| !self.pages.is_settled(*page));
        piece.pages.start = missing.unwrap_or(piece.pages.end);
        let Some(first) = missing else { return Ok(Step::On) };
        let is_zero = |page: u64| piece.bytes(&(page..page + 1)).is_none_or(is_zero);
        let zeros = is_zero(first);
        let most = piece.pages.end.min(first + SLICE_PAGES);
        let alike = |page: &u64| !self.pages.is_settled(*page) && is_zero(*page) == zeros;
        let slice = first..(first + 1..most).take_while(alike).last().map_or(first + 1, |last| last + 1);
        let (done, step) = self.fill(&slice, piece.bytes(&slice).filter(|_| !zeros))?;
        piece.pages.start += done;
        Ok(step)
    }

    /// Puts pages of one region in place, zeros if there are no bytes; answers how many of them are there now.
    fn fill(&self, pages: &Range<u64>, bytes: Option<&[u8]>) -> Result<(u64, Step), PagerError> {
        let (offset, count) = (pages.start * PAGE_BYTES, pages.end - pages.start);
        let action = if bytes.is_some() { "write a page" } else { "clear a page" };
        let failed = |source| PagerError::Fill { action, offset, source };
        let address = self.pages.address(pages.start).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let filled = match bytes {
            Some(bytes) => self.uffd.copy(address, bytes),
            None => self.uffd.zero(address, count * PAGE_BYTES),
        };
        let (done, step) = match filled {
            Ok(()) => (count, Step::On),
            Err(FillError::Exists) => {
                // It may have come between the fault and its being read.
                self.uffd.wake(address, PAGE_BYTES).map_err(failed)?;
                (1, Step::On)
            }
            Err(FillError::Again { done: 0 }) => (0, Step::Changing),
            Err(FillError::Again { done }) => (done / PAGE_BYTES, Step::On),
            Err(FillError::Gone) => (0, Step::Gone),
            Err(FillError::Io(source)) => return Err(failed(source)),
        };
        self.pages.settle(pages.start..pages.start + done);
        Ok((done, step))
    }

    fn begin_prefetch(&mut self) -> Result<(), PagerError> {
        let mut plan = self.pager.plan();
        let Plan::Prefetch(working_set) = &mut *plan else { return Ok(()) };
        let working_set = std::mem::take(working_set);
        *plan = Plan::Begun;
        let (source, pages, bell) = (self.source.clone(), self.pages.clone(), self.pager.bell.clone());
        let prefetch = Prefetch::start(source, pages, working_set, bell);
        self.prefetch = Some(prefetch.map_err(watch("start to read ahead"))?);
        Ok(())
    }
}

fn watch(action: &'static str) -> impl FnOnce(io::Error) -> PagerError {
    move |source| PagerError::Watch { action, source }
}
