//! Capsules.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "sandboxes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub team_id: Uuid,
    pub host_id: Uuid,
    /// Name as it was when the capsule was made.
    pub template: String,
    pub template_id: Uuid,
    pub status: String,
    pub revision: i64,
    pub reason: Option<String>,
    pub vcpus: i32,
    pub memory_mb: i32,
    pub disk_size_mb: i32,
    pub lifetime: Json,
    pub default_user: String,
    pub default_workdir: String,
    /// Sealed JSON.
    pub envs: Vec<u8>,
    pub offline: bool,
    pub allow_out: Json,
    pub deny_out: Json,
    /// Sealed text.
    pub access_token: Vec<u8>,
    pub metadata: Json,
    pub versions: Json,
    pub isolation: String,
    pub created_at: DateTimeUtc,
    pub status_changed_at: DateTimeUtc,
    pub started_at: Option<DateTimeUtc>,
    pub last_active_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
