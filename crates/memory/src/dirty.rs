//! Which pages of a private file map differ from the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::limits::{JOINED_GAP_PAGES, SCAN_PAGES};
use crate::mapping::Mapping;

/// Size of a page on `x86_64`, the unit of everything here.
pub const PAGE_BYTES: u64 = 4096;

/// Consecutive pages, numbered from the start of the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// First page.
    pub first: u64,
    /// How many; at least one.
    pub pages: u64,
}

impl Run {
    /// The page after the last.
    pub(crate) fn end(self) -> u64 {
        self.first + self.pages
    }
}

/// Bits of a pagemap entry (`proc_pid_pagemap(5)`).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// A page of a private file map differs from the file once it is anonymous: present or swapped, and not the file's.
///
/// "Swapped" alone would not do: a page of the file that is being migrated is reported as swapped *and* file.
fn is_dirty(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0
}

/// Joins dirty pages to runs, in the order they come.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn add(&mut self, page: u64) {
        match self.0.last_mut() {
            Some(run) if run.end() == page => run.pages += 1,
            _ => self.0.push(Run { first: page, pages: 1 }),
        }
    }
}

/// Dirty pages of `mapping` in the memory of process `pid`, which must not be running guest code now.
pub(crate) fn scan(pid: u32, mapping: &Mapping) -> io::Result<Vec<Run>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut runs = Runs::default();
    let mut buffer = vec![0_u8; SCAN_PAGES * 8];
    for segment in mapping.segments() {
        let (first, total) = (segment.file_offset / PAGE_BYTES, segment.bytes / PAGE_BYTES);
        let mut done = 0;
        while done < total {
            let count = (total - done).min(SCAN_PAGES as u64);
            let entries = buffer.get_mut(..usize::try_from(count * 8).unwrap_or(0)).unwrap_or_default();
            pagemap.read_exact_at(entries, (segment.address / PAGE_BYTES + done) * 8)?;
            collect(entries, first + done, &mut runs);
            done += count;
        }
    }
    Ok(runs.0)
}

/// Adds the dirty pages among raw pagemap `entries`, the first of which describes page `first`.
fn collect(entries: &[u8], first: u64, runs: &mut Runs) {
    let (entries, _) = entries.as_chunks::<8>();
    for (page, entry) in (first..).zip(entries) {
        if is_dirty(u64::from_ne_bytes(*entry)) {
            runs.add(page);
        }
    }
}

/// Runs, ascending and perhaps overlapping, as those that also take in the short clean gaps between them. A clean page
/// reads the same from the process as from the base, so writing it changes nothing.
pub(crate) fn join(runs: &[Run]) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.first <= last.end() + JOINED_GAP_PAGES => {
                last.pages = last.end().max(run.end()) - last.first;
            }
            _ => joined.push(*run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_gaps_are_written_along() {
        let run = |first, pages| Run { first, pages };
        let gap = JOINED_GAP_PAGES;
        let runs = [run(0, 2), run(2 + gap, 1), run(3 + gap + gap + 1, 5)];
        assert_eq!(join(&runs), [run(0, 3 + gap), run(4 + 2 * gap, 5)]);
        assert_eq!(join(&[]), []);
        assert_eq!(join(&[run(0, 9), run(2, 3), run(4, 7)]), [run(0, 11)]);
    }

    #[test]
    fn only_anonymous_pages_are_dirty() {
        let soft_dirty = 1 << 55;
        for (entry, dirty) in [
            (0, false),
            (soft_dirty, false),
            (PRESENT | 0x1234, true),
            (PRESENT | FILE_OR_SHARED | 0x1234, false),
            (SWAPPED, true),
            (SWAPPED | FILE_OR_SHARED, false),
        ] {
            assert_eq!(is_dirty(entry), dirty, "{entry:#x}");
        }
    }

    proptest! {
        #[test]
        fn runs_are_the_dirty_pages_and_no_two_touch(pages in proptest::collection::vec(any::<bool>(), 0..300), first in 0_u64..1000) {
            let entries: Vec<u8> = pages.iter().flat_map(|dirty| if *dirty { PRESENT } else { PRESENT | FILE_OR_SHARED }.to_ne_bytes()).collect();
            let mut runs = Runs::default();
            collect(&entries, first, &mut runs);
            let listed: Vec<u64> = runs.0.iter().flat_map(|run| run.first..run.first + run.pages).collect();
            let expected: Vec<u64> = (first..).zip(&pages).filter(|(_, dirty)| **dirty).map(|(page, _)| page).collect();
            prop_assert_eq!(listed, expected);
            prop_assert!(runs.0.is_sorted_by(|a, b| a.first + a.pages < b.first));
        }
    }
}
