//! What the control plane remembers of a capsule and of a template.

use crate::egress::Egress;
use crate::ids::{CapsuleId, HostId, TeamId, TemplateId};
use crate::lifetime::Lifetime;
use crate::rest;
use crate::secret::Secret;
use crate::status::{CapsuleStatus, EndReason};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A capsule as stored. Times have microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Capsule {
    /// Which.
    pub id: CapsuleId,
    /// Whose.
    pub team: TeamId,
    /// Where it was placed.
    pub host: HostId,
    /// Name of its template.
    pub template: String,
    /// Its template.
    pub template_id: TemplateId,
    /// What was promised to it.
    pub size: Size,
    /// When it ends by itself.
    pub lifetime: Lifetime,
    /// What its guest is told.
    pub surroundings: Surroundings,
    /// Secret of the guest daemon's API.
    pub access_token: Secret,
    /// Labels its user put on it.
    pub metadata: BTreeMap<String, String>,
    /// `kernel_version`, `vmm_version`, `agent_version`, `envd_version`, as its host reports them.
    pub versions: BTreeMap<String, String>,
    /// What separates it from its host; empty until it first ran.
    pub isolation: String,
    /// Where it is in its life.
    pub status: CapsuleStatus,
    /// Grows by one with every change of `status`.
    pub revision: u64,
    /// Why it is not running.
    pub reason: Option<EndReason>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// Last change of `status`.
    pub status_changed_at: DateTime<Utc>,
    /// When it first ran.
    pub started_at: Option<DateTime<Utc>>,
    /// Last activity, to within ten seconds.
    pub last_active_at: Option<DateTime<Utc>>,
}

/// What a capsule takes of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Root disk in MiB.
    pub disk_mb: u32,
}

/// What a guest is told about itself, and what is around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// User of calls that name none.
    pub default_user: String,
    /// Directory of calls that name none; empty = the user's home.
    pub default_workdir: String,
    /// Environment of every command.
    pub envs: BTreeMap<String, String>,
    /// What it may reach.
    pub egress: Egress,
}

impl Capsule {
    /// As the REST API shows it.
    #[must_use]
    pub fn to_rest(&self) -> rest::Capsule {
        let mut metadata = self.versions.clone();
        metadata.extend(self.metadata.clone());
        rest::Capsule {
            id: self.id,
            status: self.status,
            template: self.template.clone(),
            vcpus: self.size.vcpus,
            memory_mb: self.size.memory_mb,
            disk_size_mb: self.size.disk_mb,
            timeout_sec: match self.lifetime {
                Lifetime::Idle { ttl_s } => ttl_s,
                Lifetime::Until { .. } => 0,
            },
            isolation: self.isolation.clone(),
            created_at: self.created_at,
            last_updated: self.status_changed_at,
            started_at: self.started_at,
            last_active_at: self.last_active_at,
            reason: self.reason.clone(),
            network: self.surroundings.egress.clone(),
            metadata,
        }
    }
}

/// What capsules are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Which.
    pub id: TemplateId,
    /// Whose; [`TeamId::PLATFORM`] = everybody's.
    pub team: TeamId,
    /// Unique within its team.
    pub name: String,
    /// It has memory: its size cannot be chosen.
    pub snapshot: bool,
    /// Virtual CPUs of a capsule whose request names none.
    pub vcpus: u32,
    /// Memory in MiB of a capsule whose request names none.
    pub memory_mb: u32,
    /// Root disk in MiB of a capsule whose request names none; no other has less.
    pub disk_mb: u32,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// User of calls that name none.
    pub default_user: String,
    /// Environment of every command.
    pub default_env: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The capsule it was made of.
    pub source: Option<CapsuleId>,
}
