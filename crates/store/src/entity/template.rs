//! Templates.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "templates")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub team_id: Uuid,
    pub name: String,
    /// `base` or `snapshot`.
    pub r#type: String,
    pub vcpus: i32,
    pub memory_mb: i32,
    pub disk_size_mb: i32,
    pub size_bytes: i64,
    pub default_user: String,
    pub default_env: Json,
    pub created_at: DateTimeUtc,
    /// The capsule it was made of.
    pub source_id: Option<Uuid>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
