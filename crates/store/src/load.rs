//! What capsules take of their hosts.

use crate::capsules::{terminal, unsigned};
use crate::entity::sandbox;
use crate::error::StoreError;
use crate::open::Store;
use model::{CapsuleStatus, Host, HostId};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect};
use std::collections::HashMap;
use uuid::Uuid;

/// A sum over capsules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many.
    pub capsules: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Disk in MiB.
    pub disk_mb: u64,
}

/// A host and what is promised on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLoad {
    /// The host.
    pub host: Host,
    /// Capsules with a VM, or with one coming, going or out of sight.
    pub active: Usage,
    /// Capsules on disk only.
    pub paused: Usage,
}

impl Store {
    /// Every host, oldest first, and what is promised on it.
    pub async fn loads(&self) -> Result<Vec<HostLoad>, StoreError> {
        read(self.db()).await
    }
}

pub(crate) async fn read(db: &impl ConnectionTrait) -> Result<Vec<HostLoad>, StoreError> {
    use sandbox::Column;
    let sums: Vec<(Uuid, String, i64, i64, i64, i64)> = sandbox::Entity::find()
        .select_only()
        .column(Column::HostId)
        .column(Column::Status)
        .column_as(Column::Id.count(), "capsules")
        .column_as(Column::Vcpus.sum(), "vcpus")
        .column_as(Column::MemoryMb.sum(), "memory_mb")
        .column_as(Column::DiskSizeMb.sum(), "disk_mb")
        .filter(Column::Status.is_not_in(terminal()))
        .group_by(Column::HostId)
        .group_by(Column::Status)
        .into_tuple()
        .all(db)
        .await?;
    let mut usage: HashMap<HostId, (Usage, Usage)> = HashMap::new();
    for (host, status, capsules, vcpus, memory_mb, disk_mb) in sums {
        let (active, paused) = usage.entry(HostId::from_uuid(host)).or_default();
        let sum = if status == CapsuleStatus::Paused.as_str() { paused } else { active };
        sum.capsules += unsigned::<_, u64>("capsules", capsules)?;
        sum.vcpus += unsigned::<_, u64>("vcpus", vcpus)?;
        sum.memory_mb += unsigned::<_, u64>("memory_mb", memory_mb)?;
        sum.disk_mb += unsigned::<_, u64>("disk_mb", disk_mb)?;
    }
    let hosts = crate::hosts::read_all(db).await?;
    Ok(hosts
        .into_iter()
        .map(|host| {
            let (active, paused) = usage.remove(&host.id).unwrap_or_default();
            HostLoad { host, active, paused }
        })
        .collect())
}
