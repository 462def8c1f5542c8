//! Hosts.

use crate::capsules::{signed, unsigned};
use crate::entity::host;
use crate::error::{StoreError, unreadable};
use crate::open::Store;
use crate::time::now;
use model::{Capacity, Host, HostId, HostStatus};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};

/// What an agent reports of its host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostReport {
    /// What it has to give.
    pub capacity: Capacity,
    /// What separates its capsules from it.
    pub isolation: String,
    /// As in `uname -m`.
    pub arch: String,
    /// Whether it is being emptied.
    pub draining: bool,
}

impl Store {
    /// Adds a host, `pending`, or gives a known one a new token.
    pub async fn add_host(&self, id: HostId, token_hash: &str) -> Result<(), StoreError> {
        let row = host::ActiveModel {
            id: Set(id.uuid()),
            status: Set(HostStatus::Pending.as_str().to_owned()),
            cpu_cores: Set(0),
            memory_mb: Set(0),
            disk_mb: Set(0),
            isolation: Set(String::new()),
            arch: Set(String::new()),
            token_hash: Set(token_hash.to_owned()),
            last_seen_at: Set(None),
            created_at: Set(now()),
        };
        let known = OnConflict::column(host::Column::Id).update_column(host::Column::TokenHash).to_owned();
        host::Entity::insert(row).on_conflict(known).exec_without_returning(self.db()).await?;
        Ok(())
    }

    /// All hosts, oldest first.
    pub async fn hosts(&self) -> Result<Vec<Host>, StoreError> {
        read_all(self.db()).await
    }

    /// The host whose agent shows a token with this hash.
    pub async fn host_by_token(&self, token_hash: &str) -> Result<Option<HostId>, StoreError> {
        let row = host::Entity::find().filter(host::Column::TokenHash.eq(token_hash)).one(self.db()).await?;
        Ok(row.map(|row| HostId::from_uuid(row.id)))
    }

    /// A host answered: it is online, or draining as it says.
    pub async fn host_answered(&self, id: HostId, report: &HostReport) -> Result<(), StoreError> {
        use host::Column;
        let status = if report.draining { HostStatus::Draining } else { HostStatus::Online };
        let cores: i32 = signed("cpu_cores", report.capacity.cpu_cores)?;
        let memory: i64 = signed("memory_mb", report.capacity.memory_mb)?;
        let disk: i64 = signed("disk_mb", report.capacity.disk_mb)?;
        host::Entity::update_many()
            .col_expr(Column::Status, Expr::value(status.as_str()))
            .col_expr(Column::LastSeenAt, Expr::value(now()))
            .col_expr(Column::CpuCores, Expr::value(cores))
            .col_expr(Column::MemoryMb, Expr::value(memory))
            .col_expr(Column::DiskMb, Expr::value(disk))
            .col_expr(Column::Isolation, Expr::value(report.isolation.as_str()))
            .col_expr(Column::Arch, Expr::value(report.arch.as_str()))
            .filter(Column::Id.eq(id.uuid()))
            .exec(self.db())
            .await?;
        Ok(())
    }

    /// A host that was online does not answer any more; true when that is news.
    pub async fn host_lost(&self, id: HostId) -> Result<bool, StoreError> {
        let done = host::Entity::update_many()
            .col_expr(host::Column::Status, Expr::value(HostStatus::Unreachable.as_str()))
            .filter(host::Column::Id.eq(id.uuid()))
            .filter(host::Column::Status.ne(HostStatus::Unreachable.as_str()))
            .exec(self.db())
            .await?;
        Ok(done.rows_affected == 1)
    }
}

pub(crate) async fn read_all(db: &impl ConnectionTrait) -> Result<Vec<Host>, StoreError> {
    let rows =
        host::Entity::find().order_by_asc(host::Column::CreatedAt).order_by_asc(host::Column::Id).all(db).await?;
    rows.into_iter().map(read).collect()
}

fn read(row: host::Model) -> Result<Host, StoreError> {
    Ok(Host {
        id: HostId::from_uuid(row.id),
        status: row.status.parse().map_err(|error| unreadable("hosts.status", error))?,
        capacity: Capacity {
            cpu_cores: unsigned("cpu_cores", row.cpu_cores)?,
            memory_mb: unsigned("memory_mb", row.memory_mb)?,
            disk_mb: unsigned("disk_mb", row.disk_mb)?,
        },
        isolation: row.isolation,
        arch: row.arch,
        last_seen_at: row.last_seen_at,
        created_at: row.created_at,
    })
}
