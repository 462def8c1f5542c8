//! What the next daemon has to know of a process.

use std::time::Duration;

use proto::process::ProcessConfig;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::limits;

/// Left with the supervisor at the start of a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) config: ProcessConfig,
    pub(super) tag: Option<String>,
    /// Its only output is a terminal.
    pub(super) terminal: bool,
    /// It had an input, perhaps closed since.
    pub(super) stdin: bool,
    /// When its time is up, in milliseconds of the monotonic clock.
    pub(super) deadline_ms: Option<u64>,
}

impl Record {
    /// Arguments and environment beyond what a supervisor takes are left out: they only matter to lists.
    pub(super) fn encode(mut self) -> String {
        let text = serde_json::to_string(&self).unwrap_or_default();
        if text.len() <= limits::RECORD_BYTES {
            return text;
        }
        self.config = ProcessConfig { cmd: self.config.cmd, cwd: self.config.cwd, ..ProcessConfig::default() };
        serde_json::to_string(&self).ok().filter(|text| text.len() <= limits::RECORD_BYTES).unwrap_or_default()
    }

    pub(super) fn decode(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// What is left of the time.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.deadline_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(now_ms())))
    }
}

/// The end of a time that begins now.
pub(super) fn deadline_ms(limit: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or_default()
}
