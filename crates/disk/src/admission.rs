//! Space is admitted before it is promised: two operations that both saw enough space must not both get it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;

/// Why space was not promised.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// There is not enough.
    #[error("{needed_bytes} bytes are needed, {free_bytes} are free")]
    NoSpace {
        /// What was asked for.
        needed_bytes: u64,
        /// What could have been promised.
        free_bytes: u64,
    },
    /// The file system does not say.
    #[error("cannot tell the free space: {0}")]
    Io(#[from] io::Error),
}

/// Promises over the file systems the pool's data ends in.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The pool, and the directory of its backing file where there is one: a sparse file's space is not its own.
    places: Vec<PathBuf>,
    promised_bytes: Mutex<u64>,
}

impl Ledger {
    pub(crate) fn new(places: Vec<PathBuf>) -> Arc<Self> {
        Arc::new(Self { places, promised_bytes: Mutex::new(0) })
    }

    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        self.unpromised(self.promised())
    }

    /// What nobody uses, promised or not.
    pub(crate) fn unused_bytes(&self) -> io::Result<u64> {
        let mut unused = u64::MAX;
        for place in &self.places {
            unused = unused.min(available_bytes(place)?);
        }
        Ok(unused)
    }

    pub(crate) fn admit(self: &Arc<Self>, bytes: u64) -> Result<Reservation, AdmitError> {
        let mut promised = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let free_bytes = self.unpromised(*promised)?;
        if bytes > free_bytes {
            return Err(AdmitError::NoSpace { needed_bytes: bytes, free_bytes });
        }
        *promised += bytes;
        drop(promised);
        Ok(Reservation { ledger: Arc::clone(self), remaining_bytes: bytes })
    }

    fn promised(&self) -> u64 {
        *self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unpromised(&self, promised: u64) -> io::Result<u64> {
        Ok(self.unused_bytes()?.saturating_sub(promised).saturating_sub(limits::HEADROOM_BYTES))
    }

    fn give_back(&self, bytes: u64) {
        let mut promised = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = promised.saturating_sub(bytes);
    }
}

/// What an unprivileged writer could still write at `place`, as statvfs(3) sees it.
pub(crate) fn available_bytes(place: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(place)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Promised space. Dropping it gives back what was not [consumed](Self::consume).
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    remaining_bytes: u64,
}

impl Reservation {
    /// What is still promised.
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Says that `bytes` of the promise have been written: the file system counts them from now on.
    pub fn consume(&mut self, bytes: u64) {
        let bytes = bytes.min(self.remaining_bytes);
        self.remaining_bytes -= bytes;
        self.ledger.give_back(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self.remaining_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is promised, consumed and dropped, the ledger ends where it began and never promises too much.
        #[test]
        fn promises_balance(steps in proptest::collection::vec((0_u64..1 << 36, 0_u64..1 << 36), 1..20)) {
            let ledger = Ledger::new(vec!["/".into()]);
            let mut held = Vec::new();
            for (ask, use_up) in steps {
                if let Ok(mut reservation) = ledger.admit(ask) {
                    reservation.consume(use_up);
                    prop_assert_eq!(reservation.remaining_bytes(), ask.saturating_sub(use_up));
                    held.push(reservation);
                }
                let sum: u64 = held.iter().map(Reservation::remaining_bytes).sum();
                prop_assert_eq!(ledger.promised(), sum);
            }
            held.clear();
            prop_assert_eq!(ledger.promised(), 0);
        }
    }
}
