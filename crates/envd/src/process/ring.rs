//! The end of a terminal's output, for whoever attaches again.

use std::collections::VecDeque;

use bytes::Bytes;

/// The last bytes pushed, as many as its limit allows.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(bytes.len().saturating_sub(self.limit)..).unwrap_or_default();
        let surplus = (self.bytes.len() + bytes.len()).saturating_sub(self.limit);
        self.bytes.drain(..surplus);
        self.bytes.extend(bytes);
    }

    /// From now on it keeps no more than this.
    pub(super) fn shrink(&mut self, limit: usize) {
        self.limit = limit;
        self.push(&[]);
        self.bytes.shrink_to_fit();
    }

    pub(super) fn content(&self) -> Bytes {
        let (front, back) = self.bytes.as_slices();
        [front, back].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_the_end_of_all_that_was_pushed(
            pushes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            limit in 0_usize..80,
            less in 0_usize..80,
        ) {
            let all = pushes.concat();
            let mut ring = Ring::new(limit);
            for bytes in &pushes {
                ring.push(bytes);
            }
            prop_assert_eq!(&ring.content()[..], &all[all.len().saturating_sub(limit)..]);
            ring.shrink(less.min(limit));
            prop_assert_eq!(&ring.content()[..], &all[all.len().saturating_sub(less.min(limit))..]);
        }
    }
}
