//! Copying pages from a stopped VM into a memory file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::dirty::{PAGE_BYTES, Run};
use crate::limits::{COPY_BYTES, RUNS_PER_READ};
use crate::manifest::Extent;
use crate::mapping::Mapping;

const PAGES_PER_READ: u64 = COPY_BYTES as u64 / PAGE_BYTES;

/// Which side failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies runs of pages of one process to the same places in one file.
pub(crate) struct Copier<'a> {
    pub pid: u32,
    pub mapping: &'a Mapping,
    pub memory: &'a File,
    /// Leave out runs that are all zero: the file has a hole there.
    pub skip_zeros: bool,
}

impl Copier<'_> {
    /// Copies `runs`, ascending, and says what was written.
    pub(crate) fn copy(&self, runs: &[Run]) -> Result<Vec<Extent>, CopyError> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut extents = Vec::with_capacity(runs.len());
        for batch in batches(runs) {
            let mut rest = self.read(&batch, &mut buffer).map_err(CopyError::Read)?;
            for run in batch {
                let bytes = usize::try_from(run.pages * PAGE_BYTES).unwrap_or(usize::MAX);
                let (chunk, after) = rest.split_at_checked(bytes).ok_or(CopyError::Read(short()))?;
                rest = after;
                if self.skip_zeros && is_zero(chunk) {
                    continue;
                }
                self.memory.write_all_at(chunk, run.first * PAGE_BYTES).map_err(CopyError::Write)?;
                extents.push(Extent { first: run.first, pages: run.pages, crc32: crc32fast::hash(chunk) });
            }
        }
        Ok(extents)
    }

    /// One system call for a whole batch; the runs lie one after another in the result.
    fn read<'b>(&self, batch: &[Run], buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let mut remote = Vec::with_capacity(batch.len() + 1);
        let mut total = 0;
        for run in batch {
            let (mut offset, mut left) = (run.first * PAGE_BYTES, run.pages * PAGE_BYTES);
            while left > 0 {
                let (address, available) = self.mapping.locate(offset).ok_or_else(short)?;
                let bytes = left.min(available);
                remote.push(RemoteIoVec { base: to_usize(address)?, len: to_usize(bytes)? });
                (offset, left) = (offset + bytes, left - bytes);
                total += to_usize(bytes)?;
            }
        }
        let local = buffer.get_mut(..total).ok_or_else(short)?;
        let pid = Pid::from_raw(self.pid.cast_signed());
        // A partial transfer means that a page is gone, so that what was read is no snapshot of anything.
        if process_vm_readv(pid, &mut [IoSliceMut::new(local)], &remote)? < total {
            return Err(short());
        }
        Ok(local)
    }
}

/// Groups of runs, longer ones cut, that fit the buffer and one system call.
fn batches(runs: &[Run]) -> impl Iterator<Item = Vec<Run>> {
    let mut pieces = runs.iter().flat_map(|run| pieces(*run)).peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut pages) = (Vec::new(), 0);
        // A run may cross into another part of the mapping and then takes two vectors.
        while batch.len() < RUNS_PER_READ / 2
            && let Some(piece) = pieces.next_if(|piece| pages + piece.pages <= PAGES_PER_READ)
        {
            pages += piece.pages;
            batch.push(piece);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

fn pieces(run: Run) -> impl Iterator<Item = Run> {
    let end = run.first + run.pages;
    let step = usize::try_from(PAGES_PER_READ).unwrap_or(usize::MAX);
    (run.first..end).step_by(step).map(move |first| Run { first, pages: PAGES_PER_READ.min(end - first) })
}

/// Whether all bytes are zero; compares words so that it runs at memory speed.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

fn to_usize(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

fn short() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn ascending_runs()(gaps in proptest::collection::vec((1_u64..2000, 1_u64..1500), 0..40)) -> Vec<Run> {
            let mut end = 0;
            gaps.into_iter().map(|(gap, pages)| {
                let first = end + gap;
                end = first + pages;
                Run { first, pages }
            }).collect()
        }
    }

    proptest! {
        #[test]
        fn batches_hold_every_page_once_and_fit(runs in ascending_runs()) {
            let listed = |runs: &[Run]| runs.iter().flat_map(|run| run.first..run.first + run.pages).collect::<Vec<_>>();
            let batched: Vec<Vec<Run>> = batches(&runs).collect();
            prop_assert_eq!(listed(&batched.concat()), listed(&runs));
            for batch in batched {
                prop_assert!(batch.iter().map(|run| run.pages).sum::<u64>() <= PAGES_PER_READ);
            }
        }
    }

    #[test]
    fn zeros_are_seen_wherever_a_bit_is_set() {
        for length in [0, 1, 64, 4096, 4097] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for position in [0, length / 2, length.saturating_sub(1)].into_iter().filter(|position| *position < length)
            {
                bytes[position] = 1;
                assert!(!is_zero(&bytes));
                bytes[position] = 0;
            }
        }
    }
}
