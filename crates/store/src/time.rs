//! Times as both databases can keep them.

use chrono::{DateTime, SubsecRound, Utc};

/// Now, in whole microseconds: `SQLite` keeps nanoseconds and Postgres does not, so anything finer would differ
/// after a round trip.
pub(crate) fn now() -> DateTime<Utc> {
    whole(Utc::now())
}

/// Cut to whole microseconds.
pub(crate) fn whole(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}
