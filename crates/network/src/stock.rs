//! Which slots are taken, which are ready. Plain data; the network wraps it in a lock.

use std::collections::{BTreeSet, VecDeque};

use crate::limits;
use crate::slot::{Prepared, SlotIndex};

/// The slots of an instance.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// Every slot that exists or is being made, whoever has it.
    taken: BTreeSet<SlotIndex>,
    ready: VecDeque<Prepared>,
    /// The number given last.
    last: SlotIndex,
}

impl Stock {
    /// A free number, taken from now on. They go round: the kernel takes a namespace apart in its own time, and a name
    /// just given up should rest.
    pub(crate) fn claim(&mut self) -> Option<SlotIndex> {
        let mut round = (self.last + 1..=limits::MAX_SLOTS).chain(1..=self.last);
        let index = round.find(|index| !self.taken.contains(index))?;
        self.taken.insert(index);
        self.last = index;
        Some(index)
    }

    /// Takes this number; `false` if it is no number of a slot or taken already.
    pub(crate) fn claim_exactly(&mut self, index: SlotIndex) -> bool {
        (1..=limits::MAX_SLOTS).contains(&index) && self.taken.insert(index)
    }

    /// Frees a number whose slot does not exist any longer.
    pub(crate) fn forget(&mut self, index: SlotIndex) {
        self.taken.remove(&index);
    }

    pub(crate) fn is_taken(&self, index: SlotIndex) -> bool {
        self.taken.contains(&index)
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn put(&mut self, prepared: Prepared) {
        self.ready.push_back(prepared);
    }

    pub(crate) fn take(&mut self) -> Option<Prepared> {
        self.ready.pop_front()
    }

    /// One of those beyond the first `wanted`.
    pub(crate) fn take_above(&mut self, wanted: usize) -> Option<Prepared> {
        if self.ready.len() > wanted { self.ready.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once_and_run_out() {
        let mut stock = Stock::default();
        assert!(stock.claim_exactly(2) && !stock.claim_exactly(2) && !stock.claim_exactly(0));
        let claimed: BTreeSet<_> = std::iter::from_fn(|| stock.claim()).collect();
        assert_eq!(claimed.len(), usize::from(limits::MAX_SLOTS) - 1);
        assert!(!claimed.contains(&2));
        stock.forget(77);
        assert_eq!((stock.claim(), stock.claim()), (Some(77), None));
    }
}
