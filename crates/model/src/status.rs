//! Statuses of a capsule and the reasons it can end for.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Status of a capsule as the control plane stores and the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CapsuleStatus {
    /// Being created.
    Starting,
    /// Its VM is alive.
    Running,
    /// Being paused.
    Pausing,
    /// On disk with its memory; no VM.
    Paused,
    /// Being brought back.
    Resuming,
    /// Being destroyed.
    Stopping,
    /// Gone, files deleted.
    Stopped,
    /// Its host cannot be reached; state unknown.
    Missing,
    /// Could not be created, or was lost.
    Error,
}

impl CapsuleStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopping,
        Self::Stopped,
        Self::Missing,
        Self::Error,
    ];

    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Missing => "missing",
            Self::Error => "error",
        }
    }

    /// An operation is under way that will change it.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Starting | Self::Pausing | Self::Resuming | Self::Stopping)
    }

    /// Nothing changes it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }
}

impl fmt::Display for CapsuleStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capsule status")]
pub struct UnknownStatus;

impl FromStr for CapsuleStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

/// Why a capsule stopped running. Shown in the API, in events and by `wrenn why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody asked for it.
    User,
    /// Its lifetime ended.
    Ttl,
    /// The guest ran out of memory.
    GuestOom,
    /// The host ran out of memory.
    HostOom,
    /// Its VMM ended unexpectedly.
    VmCrash,
    /// Its memory could not be brought any more: what it was read from failed.
    PagesLost,
    /// Its host is being emptied for maintenance.
    HostDrained,
    /// Its host is gone.
    HostLost,
    /// It could not be started: why.
    StartFailed(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::Ttl => f.write_str("ttl"),
            Self::GuestOom => f.write_str("guest_oom"),
            Self::HostOom => f.write_str("host_oom"),
            Self::VmCrash => f.write_str("vm_crash"),
            Self::PagesLost => f.write_str("pages_lost"),
            Self::HostDrained => f.write_str("host_drained"),
            Self::HostLost => f.write_str("host_lost"),
            Self::StartFailed(why) => write!(f, "start_failed: {why}"),
        }
    }
}

impl EndReason {
    /// Whether the VM was lost rather than saved or ended: what the capsule goes back to is older than its end.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::VmCrash | Self::PagesLost | Self::GuestOom | Self::HostOom | Self::HostLost)
    }

    /// Reads what [`fmt::Display`] wrote; an unknown text counts as a failed start with that text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "user" => Self::User,
            "ttl" => Self::Ttl,
            "guest_oom" => Self::GuestOom,
            "host_oom" => Self::HostOom,
            "vm_crash" => Self::VmCrash,
            "pages_lost" => Self::PagesLost,
            "host_drained" => Self::HostDrained,
            "host_lost" => Self::HostLost,
            other => Self::StartFailed(other.strip_prefix("start_failed: ").unwrap_or(other).to_owned()),
        }
    }
}

impl Serialize for EndReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndReason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
        for status in CapsuleStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for reason in [
            EndReason::User,
            EndReason::VmCrash,
            EndReason::PagesLost,
            EndReason::HostDrained,
            EndReason::StartFailed("no kernel".to_owned()),
        ] {
            assert_eq!(EndReason::parse(&reason.to_string()), reason);
        }
    }
}
