//! When a capsule ends by itself.

use serde::{Deserialize, Serialize};

/// What happens at the end of a [`Lifetime::Until`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// Saved with its memory.
    Pause,
    /// Destroyed.
    Kill,
}

/// When a capsule ends by itself. Enforced by its host's agent, also while that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Lifetime {
    /// Paused after this many seconds without activity; 0 = never. Wrenn's `timeout_sec`.
    Idle {
        /// Seconds without activity.
        ttl_s: u32,
    },
    /// Ended at a point in time. E2B's `timeout`.
    Until {
        /// Unix time in milliseconds.
        unix_ms: u64,
        /// What happens then.
        at_end: AtEnd,
    },
}

impl Lifetime {
    /// Lives until somebody ends it.
    pub const FOREVER: Self = Self::Idle { ttl_s: 0 };

    /// Milliseconds left at `now`, given the last activity; `None` = for ever.
    #[must_use]
    pub fn remaining_ms(self, now_unix_ms: u64, last_active_unix_ms: u64) -> Option<u64> {
        let end = match self {
            Self::Idle { ttl_s: 0 } => return None,
            Self::Idle { ttl_s } => last_active_unix_ms.saturating_add(u64::from(ttl_s) * 1000),
            Self::Until { unix_ms, .. } => unix_ms,
        };
        Some(end.saturating_sub(now_unix_ms))
    }

    /// What happens at its end.
    #[must_use]
    pub const fn at_end(self) -> AtEnd {
        match self {
            Self::Idle { .. } => AtEnd::Pause,
            Self::Until { at_end, .. } => at_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining() {
        let until = Lifetime::Until { unix_ms: 5_000, at_end: AtEnd::Kill };
        let rows = [
            (Lifetime::FOREVER, 9_000, 0, None),
            (Lifetime::Idle { ttl_s: 60 }, 10_000, 9_000, Some(59_000)),
            (Lifetime::Idle { ttl_s: 1 }, 10_000, 9_000, Some(0)),
            (until, 4_000, 0, Some(1_000)),
            (until, 6_000, 5_999, Some(0)),
        ];
        for (lifetime, now, active, want) in rows {
            assert_eq!(lifetime.remaining_ms(now, active), want, "{lifetime:?}");
        }
    }
}
