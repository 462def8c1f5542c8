//! What is known of each page of guest memory.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Region;
use crate::dirty::PAGE_BYTES;

/// Pages by their number in the memory file. One thread changes them, others may look.
#[derive(Debug)]
pub(super) struct Pages {
    /// In the order of the file.
    regions: Vec<Region>,
    /// In place, or given back by the machine: nothing to be read ahead.
    settled: Bits,
    /// Given back by the machine: zeros when it is touched again.
    removed: Bits,
}

impl Pages {
    pub(super) fn new(regions: &[Region]) -> Self {
        let mut regions = regions.to_vec();
        regions.sort_unstable_by_key(|region| region.offset);
        let count = regions.iter().map(|region| region.offset.saturating_add(region.bytes)).max().unwrap_or(0);
        let bits = || Bits::new(count / PAGE_BYTES);
        Self { settled: bits(), removed: bits(), regions }
    }

    /// All pages, by region.
    pub(super) fn all(&self) -> impl Iterator<Item = Range<u64>> {
        self.regions.iter().map(pages)
    }

    /// The page with this address.
    pub(super) fn at(&self, address: u64) -> Option<u64> {
        let within = |region: &Region| address.checked_sub(region.address).filter(|within| *within < region.bytes);
        self.regions.iter().find_map(|region| Some((region.offset + within(region)?) / PAGE_BYTES))
    }

    /// The address of a page.
    pub(super) fn address(&self, page: u64) -> Option<u64> {
        let region = self.regions.iter().find(|region| pages(region).contains(&page))?;
        Some(region.address + (page * PAGE_BYTES - region.offset))
    }

    pub(super) fn settle(&self, pages: Range<u64>) {
        self.settled.set(pages);
    }

    pub(super) fn is_settled(&self, page: u64) -> bool {
        self.settled.get(page)
    }

    pub(super) fn is_removed(&self, page: u64) -> bool {
        self.removed.get(page)
    }

    /// Notes that the machine gave back what is at these addresses.
    pub(super) fn remove(&self, addresses: Range<u64>) {
        for region in &self.regions {
            let start = addresses.start.max(region.address);
            let end = addresses.end.min(region.address.saturating_add(region.bytes));
            if start < end {
                let page = |address: u64| (region.offset + (address - region.address)) / PAGE_BYTES;
                self.removed.set(page(start)..page(end));
                self.settled.set(page(start)..page(end));
            }
        }
    }
}

fn pages(region: &Region) -> Range<u64> {
    region.offset / PAGE_BYTES..region.offset.saturating_add(region.bytes) / PAGE_BYTES
}

/// A bit for each page.
#[derive(Debug)]
struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(count: u64) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn word(&self, page: u64) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(page / 64).ok()?)
    }

    fn get(&self, page: u64) -> bool {
        self.word(page).is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    /// Not with one instruction each: only one thread writes.
    fn set(&self, pages: Range<u64>) {
        for page in pages {
            if let Some(word) = self.word(page) {
                word.store(word.load(Ordering::Relaxed) | 1 << (page % 64), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_and_pages_belong_together(sizes in proptest::collection::vec(1_u64..40, 1..5), removed in (0_u64..200, 0_u64..60)) {
            let mut regions = Vec::new();
            let (mut address, mut offset) = (1 << 30, 0);
            for pages in sizes {
                regions.push(Region { address, bytes: pages * PAGE_BYTES, offset });
                address += (pages + 3) * PAGE_BYTES;
                offset += pages * PAGE_BYTES;
            }
            let known = Pages::new(&regions);
            let start = (1 << 30) + removed.0 * PAGE_BYTES;
            let gone = start..start + removed.1 * PAGE_BYTES;
            known.remove(gone.clone());
            let all: Vec<u64> = known.all().flatten().collect();
            prop_assert_eq!(&all, &(0..offset / PAGE_BYTES).collect::<Vec<_>>());
            for page in all {
                let address = known.address(page).unwrap();
                prop_assert_eq!(known.at(address + 7), Some(page));
                prop_assert_eq!(known.is_removed(page), gone.contains(&address));
                prop_assert_eq!(known.is_settled(page), gone.contains(&address));
            }
            for region in &regions {
                prop_assert_eq!(known.at(region.address + region.bytes), None);
            }
            prop_assert_eq!(known.address(offset / PAGE_BYTES), None);
        }
    }
}
