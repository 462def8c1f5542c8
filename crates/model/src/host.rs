//! What the control plane remembers of a host.

use crate::ids::HostId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Whether a host can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostStatus {
    /// Never heard of yet.
    Pending,
    /// Answers.
    Online,
    /// Answers, and takes no capsules: it is being emptied for maintenance.
    Draining,
    /// Did not answer for too long.
    Unreachable,
}

impl HostStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Online, Self::Draining, Self::Unreachable];

    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HostStatus {
    type Err = crate::status::UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(crate::status::UnknownStatus)
    }
}

/// What a host has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// CPUs.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Disk for capsules in MiB, used and unused.
    pub disk_mb: u64,
}

/// A host as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Which.
    pub id: HostId,
    /// Whether it can be used.
    pub status: HostStatus,
    /// As its agent reported last.
    pub capacity: Capacity,
    /// `firecracker`, `qemu-kvm` or `qemu-tcg`; empty until it reported.
    pub isolation: String,
    /// As in `uname -m`; empty until it reported.
    pub arch: String,
    /// When it answered last.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}
