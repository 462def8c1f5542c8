//! The pages a machine touches until it is ready.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dirty::{PAGE_BYTES, Run};
use crate::limits::{MEMORY_BYTES, WORKING_SET_BYTES, WORKING_SET_RUNS};

/// Runs of pages in the order they were touched; `[[first page, pages], …]` in JSON. It is advice: that of another machine
/// costs time, nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct WorkingSet(Vec<Run>);

/// Why something is not a working set.
#[derive(Debug, thiserror::Error)]
pub enum WorkingSetError {
    /// The file.
    #[error("cannot read the working set: {0}")]
    Read(#[from] io::Error),
    /// Not ours.
    #[error("the working set is not understood: {0}")]
    Syntax(#[from] serde_json::Error),
    /// More than is ever recorded.
    #[error("a working set has at most {WORKING_SET_RUNS} runs, not {0}")]
    TooMany(usize),
    /// None, or beyond the largest memory.
    #[error("a working set holds no run of {pages} pages at page {first}")]
    Run {
        /// Its first page.
        first: u64,
        /// Its length.
        pages: u64,
    },
}

impl WorkingSet {
    /// Reads one as [`Self::encode`] made it.
    pub fn read(path: &Path) -> Result<Self, WorkingSetError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(WORKING_SET_BYTES).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Bytes of a file.
    pub fn encode(&self) -> Result<Vec<u8>, WorkingSetError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The runs.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// Adds a page, as long as there is room; the same one again is no other.
    pub(super) fn add(&mut self, page: u64) {
        let full = self.0.len() == WORKING_SET_RUNS;
        match self.0.last_mut() {
            Some(run) if run.end() == page => run.pages += 1,
            Some(run) if run.end() == page + 1 => {}
            _ if full => {}
            _ => self.0.push(Run { first: page, pages: 1 }),
        }
    }
}

impl TryFrom<Vec<(u64, u64)>> for WorkingSet {
    type Error = WorkingSetError;

    fn try_from(runs: Vec<(u64, u64)>) -> Result<Self, WorkingSetError> {
        if runs.len() > WORKING_SET_RUNS {
            return Err(WorkingSetError::TooMany(runs.len()));
        }
        let run = |(first, pages): (u64, u64)| {
            let fits = first.checked_add(pages).is_some_and(|end| end <= MEMORY_BYTES / PAGE_BYTES);
            (fits && pages > 0).then_some(Run { first, pages }).ok_or(WorkingSetError::Run { first, pages })
        };
        runs.into_iter().map(run).collect::<Result<_, _>>().map(Self)
    }
}

impl From<WorkingSet> for Vec<(u64, u64)> {
    fn from(set: WorkingSet) -> Self {
        set.0.into_iter().map(|run| (run.first, run.pages)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_stay_in_their_order(mut pages in proptest::collection::vec(0_u64..64, 0..200)) {
            let mut set = WorkingSet::default();
            for page in &pages {
                set.add(*page);
            }
            let listed: Vec<u64> = set.runs().iter().flat_map(|run| run.first..run.end()).collect();
            pages.dedup();
            prop_assert_eq!(listed, pages);
            prop_assert_eq!(serde_json::from_slice::<WorkingSet>(&set.encode().unwrap()).unwrap(), set);
        }
    }

    #[test]
    fn bounds_hold() {
        let mut set = WorkingSet::default();
        (0..WORKING_SET_RUNS as u64 + 5).for_each(|number| set.add(MEMORY_BYTES / PAGE_BYTES - 1 - 2 * number));
        assert_eq!(set.runs().len(), WORKING_SET_RUNS);
        assert!((set.encode().unwrap().len() as u64) < WORKING_SET_BYTES);
        for bad in ["", "{}", "[[1]]", "[[0,0]]", "[[1,268435456]]", "[[18446744073709551615,1]]", "[[-1,1]]"] {
            assert!(serde_json::from_str::<WorkingSet>(bad).is_err(), "{bad}");
        }
        assert!(WorkingSet::try_from(vec![(0, 1); WORKING_SET_RUNS + 1]).is_err());
    }
}
