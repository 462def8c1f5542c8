//! The simulated host's clock: goes on from agent to agent, by the paused clock of each one's runtime.

use std::cell::Cell;
use tokio::time::Instant;

thread_local! {
    static BEGAN: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// A runtime begins at this Unix time in milliseconds.
pub fn begin(unix_ms: u64) {
    BEGAN.set(Some((Instant::now(), unix_ms)));
}

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    let Some((began, unix_ms)) = BEGAN.get() else { return 0 };
    unix_ms + u64::try_from(began.elapsed().as_millis()).unwrap_or_default()
}
