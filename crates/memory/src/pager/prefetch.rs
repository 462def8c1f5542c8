//! Reading ahead: the working set first, then everything.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{io, thread};

use super::pages::Pages;
use super::source::{Source, read_patiently};
use super::{Bell, WorkingSet};
use crate::dirty::PAGE_BYTES;
use crate::limits::{COPY_BYTES, PREFETCH_BUFFERS};

/// Consecutive pages of one region that have been read.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which of them are still to be put in place.
    pub pages: Range<u64>,
    /// Their bytes; none, if all of them are zero.
    bytes: Option<Vec<u8>>,
    /// The page the bytes begin with.
    first: u64,
}

impl Piece {
    /// The bytes of some of its pages; none for zeros.
    pub(super) fn bytes(&self, pages: &Range<u64>) -> Option<&[u8]> {
        let at = |page: u64| usize::try_from((page - self.first) * PAGE_BYTES).ok();
        self.bytes.as_ref()?.get(at(pages.start)?..at(pages.end)?)
    }
}

/// The serving thread's end of a thread that reads. The other one ends once this is dropped.
#[derive(Debug)]
pub(super) struct Prefetch {
    pieces: Receiver<Piece>,
    buffers: SyncSender<Vec<u8>>,
}

impl Prefetch {
    pub(super) fn start(
        source: Arc<dyn Source>,
        pages: Arc<Pages>,
        first: WorkingSet,
        bell: Arc<Bell>,
    ) -> io::Result<Self> {
        let (send, pieces) = sync_channel(PREFETCH_BUFFERS);
        let (buffers, empty) = sync_channel(PREFETCH_BUFFERS);
        for _ in 0..PREFETCH_BUFFERS {
            let _ = buffers.send(vec![0; COPY_BYTES]);
        }
        let reader = Reader { source, pages, bell, send, empty, spare: None };
        // Not waited for: it may be in the middle of a slow read.
        thread::Builder::new().name("prefetch".to_owned()).spawn(move || reader.run(&first))?;
        Ok(Self { pieces, buffers })
    }

    /// What has been read, if anything.
    pub(super) fn next(&self) -> Option<Piece> {
        self.pieces.try_recv().ok()
    }

    /// Takes back what is no longer needed.
    pub(super) fn done(&self, piece: Piece) {
        if let Some(bytes) = piece.bytes {
            let _ = self.buffers.send(bytes);
        }
    }
}

/// The serving thread has ended.
struct Unwanted;

struct Reader {
    source: Arc<dyn Source>,
    pages: Arc<Pages>,
    bell: Arc<Bell>,
    send: SyncSender<Piece>,
    empty: Receiver<Vec<u8>>,
    /// A buffer whose read failed.
    spare: Option<Vec<u8>>,
}

impl Reader {
    fn run(mut self, first: &WorkingSet) {
        let regions: Vec<Range<u64>> = self.pages.all().collect();
        let working_set = first
            .runs()
            .iter()
            .flat_map(|run| regions.iter().map(|region| run.first.max(region.start)..run.end().min(region.end)));
        for run in working_set.chain(regions.iter().cloned()) {
            if self.bring(run).is_err() {
                return;
            }
        }
    }

    /// Reads what is missing of a run.
    fn bring(&mut self, mut run: Range<u64>) -> Result<(), Unwanted> {
        loop {
            let missing = run.clone().find(|page| !self.pages.is_settled(*page));
            let Some(first) = missing else { return Ok(()) };
            let zeros = self.source.zeros(first * PAGE_BYTES) / PAGE_BYTES;
            let most = if zeros > 0 { zeros } else { COPY_BYTES as u64 / PAGE_BYTES };
            let pages = first..run.end.min(first.saturating_add(most));
            run.start = pages.end;
            if zeros > 0 {
                self.hand_over(Piece { first, pages, bytes: None })?;
            } else if let Some(bytes) = self.read(&pages)? {
                self.hand_over(Piece { first, pages, bytes: Some(bytes) })?;
            }
        }
    }

    fn hand_over(&self, piece: Piece) -> Result<(), Unwanted> {
        self.send.send(piece).map_err(|_| Unwanted)?;
        self.bell.ring();
        Ok(())
    }

    /// None if the source fails: whoever touches one of the pages asks it again.
    fn read(&mut self, pages: &Range<u64>) -> Result<Option<Vec<u8>>, Unwanted> {
        let mut bytes = self.spare.take().or_else(|| self.empty.recv().ok()).ok_or(Unwanted)?;
        let length = usize::try_from((pages.end - pages.start) * PAGE_BYTES).unwrap_or(COPY_BYTES);
        let buffer = bytes.get_mut(..length).ok_or(Unwanted)?;
        if let Err(error) = read_patiently(&*self.source, pages.start * PAGE_BYTES, buffer) {
            tracing::warn!(first = pages.start, end = pages.end, %error, "cannot read guest memory ahead");
            self.spare = Some(bytes);
            return Ok(None);
        }
        Ok(Some(bytes))
    }
}
