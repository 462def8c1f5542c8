//! How far back metrics are asked for.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A range that ends now. The shorter it is, the closer are its points: half a second up to ten minutes, half a minute up
/// to two hours, five minutes up to a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Range {
    /// Five minutes.
    #[serde(rename = "5m")]
    Minutes5,
    /// Ten minutes.
    #[default]
    #[serde(rename = "10m")]
    Minutes10,
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
    /// Two hours.
    #[serde(rename = "2h")]
    Hours2,
    /// Six hours.
    #[serde(rename = "6h")]
    Hours6,
    /// Twelve hours.
    #[serde(rename = "12h")]
    Hours12,
    /// A day.
    #[serde(rename = "24h")]
    Day,
}

impl Range {
    /// All of them, the shortest first.
    pub const ALL: [Self; 7] =
        [Self::Minutes5, Self::Minutes10, Self::Hour, Self::Hours2, Self::Hours6, Self::Hours12, Self::Day];

    /// As in `?range=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minutes5 => "5m",
            Self::Minutes10 => "10m",
            Self::Hour => "1h",
            Self::Hours2 => "2h",
            Self::Hours6 => "6h",
            Self::Hours12 => "12h",
            Self::Day => "24h",
        }
    }

    /// How long it is.
    #[must_use]
    pub const fn length(self) -> Duration {
        match self {
            Self::Minutes5 => Duration::from_mins(5),
            Self::Minutes10 => Duration::from_mins(10),
            Self::Hour => Duration::from_hours(1),
            Self::Hours2 => Duration::from_hours(2),
            Self::Hours6 => Duration::from_hours(6),
            Self::Hours12 => Duration::from_hours(12),
            Self::Day => Duration::from_hours(24),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|range| range.as_str() == text);
        known.ok_or_else(|| Error::invalid(format!("range must be one of {}", Self::ALL.map(Self::as_str).join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        for range in Range::ALL {
            assert_eq!(range.to_string().parse(), Ok(range));
            assert_eq!(serde_json::to_value(range).unwrap(), range.as_str());
        }
        assert!(Range::ALL.is_sorted_by_key(|range| range.length()));
        for bad in ["", "10", "10M", "1d", "10m "] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
